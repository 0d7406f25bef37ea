# SPDX-License-Identifier: Apache-2.0
"""SQLite files: how they are opened, and what is not waited for."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

#: How long one SQLite connection waits for another one's transaction.
_BUSY_SECONDS: Final = 30.0


def is_in_memory(url: sa.URL) -> bool:
    """Whether a SQLite URL names a database that lives in one connection."""
    name = url.database or ""
    return name in ("", ":memory:") or "mode=memory" in str(url)


def open_engine(url: sa.URL) -> sa.Engine:
    """Return an engine on a SQLite file in write-ahead mode.

    Its transactions begin when they are told to: see
    :class:`~lazy_engine.ledger.sql_connection.Transactor`.
    """
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        poolclass=sa.pool.QueuePool,
        pool_size=4,
        max_overflow=-1,
        connect_args={
            "timeout": _BUSY_SECONDS,
            "check_same_thread": False,
            **({"factory": _LetsGo} if url.get_driver_name() == "pysqlite" else {}),
        },
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # The driver's own transaction handling is switched off: it would
        # begin transactions when it sees fit.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


class _LetsGo(sqlite3.Connection):
    """Is rid of its transaction once it is closed.

    SQLite keeps one open for as long as any of its statements is, and the file locked for
    everybody. An interrupted statement lives as long as its traceback: in an
    interactive session, until the next error.
    """

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # closed already, perhaps
            if self.in_transaction:
                self.rollback()
        super().close()


def hurry(connection: sa.Connection) -> sa.Connection:
    """Have SQLite's transactions not wait for the disk."""
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA synchronous=NORMAL")
    return connection


@contextlib.contextmanager
def hurried(connection: sa.Connection) -> Iterator[None]:
    """Have a connection's transactions not wait for the disk, as long as this lasts."""
    raw: Any = hurry(connection).connection.dbapi_connection
    try:
        yield
        raw.execute("PRAGMA synchronous=FULL")
    except BaseException:
        # Ctrl-C, perhaps, within a transaction. Whoever has it next relies on the disk.
        connection.invalidate()
        raise
