# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's pipeline: statements are sent without waiting for the answers of those before.

Half of what a transaction of the ledger writes nobody reads an answer of. With
psycopg 3 such statements leave together with the COMMIT, so that a transaction
waits for the server twice: for its first answer, and for its end.

Only on connections that are kept for the ledger's writes (see
:mod:`lazy_engine.ledger.sql_kept`). Statements that SQLAlchemy carries out on
one of them are waited for, as it expects.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

_KEY: Final = "lazy_engine.pipeline"


class Pipeline:
    """The pipeline of one connection.

    :param raw: the connection as psycopg knows it, in autocommit: transactions
        begin and end by statements.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._mode = raw.pipeline()
        self._inside = self._mode.__enter__()
        self._sending_cursor = raw.cursor_factory
        raw.cursor_factory = _waiting(raw.cursor_factory, self.wait)

    def cursor(self) -> Any:
        """Return a cursor that sends what it is to execute, and waits once its answer is read."""
        return self._sending_cursor(self._raw)

    def wait(self) -> None:
        """Wait for the answers of all that was sent.

        :raises psycopg.Error: something of it has failed.
        """
        self._inside.sync()

    def settle(self) -> None:
        """Wait for the answers that nobody has waited for, if there are any.

        :raises psycopg.Error: something of it has failed.
        """
        if self._inside.result_queue:
            self.wait()

    def commit(self) -> None:
        """Send the COMMIT after the rest, and wait for all of it.

        :raises psycopg.Error: something of it has failed, or nobody knows.
        """
        self.cursor().execute("COMMIT", prepare=False)
        self.wait()

    def give_up(self) -> None:
        """Take in what there is of answers, so that the transaction can be rolled back."""
        with contextlib.suppress(Exception):
            self.wait()

    def leave(self) -> None:
        """End it, before the connection is closed.

        :raises psycopg.Error: something that was sent has failed.
        """
        self._mode.__exit__(None, None, None)


def _waiting(base: Any, wait: Callable[[], None]) -> Any:
    """Return a class of cursors that wait for each answer: SQLAlchemy reads it at once."""

    class WaitingCursor(base):  # type: ignore[misc]  # of an optional dependency
        def execute(self, *args: Any, **options: Any) -> Any:
            super().execute(*args, **options)
            wait()
            return self

        def executemany(self, *args: Any, **options: Any) -> None:
            super().executemany(*args, **options)
            wait()

    return WaitingCursor


def fits(connection: sa.Connection) -> bool:
    """Whether a connection can have a pipeline."""
    if connection.dialect.driver != "psycopg":
        return False
    import psycopg

    raw: Any = connection.connection.dbapi_connection
    return (
        isinstance(raw, psycopg.Connection)
        # Not with cursors of the user's own, who knows why.
        and raw.cursor_factory is psycopg.Cursor
        and psycopg.Pipeline.is_supported()
    )


def lay(connection: sa.Connection) -> None:
    """Give a connection, which is in autocommit, a pipeline."""
    connection.info[_KEY] = Pipeline(connection.connection.dbapi_connection)


def of(connection: sa.Connection) -> Pipeline | None:
    """Return the pipeline of a connection, if it has one."""
    found: Pipeline | None = connection.info.get(_KEY)
    return found
