# SPDX-License-Identifier: Apache-2.0
"""The durable book of delays, outcomes and leases, beside the flow details."""

from __future__ import annotations

import contextlib
import time
import weakref
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions
from taskflow.persistence.backends import impl_memory

from lazy_engine import errors
from lazy_engine.ledger.keeper import Keeper
from lazy_engine.ledger.protocol import Guarantees, Ledger, TakeRequest

__all__ = ["Guarantees", "Ledger", "TakeRequest", "beside", "upgrade"]

#: Where a backend carries its ledger: one ledger for each backend object, so
#: that engines and clients which share a backend share its connections too.
_ATTRIBUTE: Final = "_lazy_engine_ledger"

_UPGRADE_PAUSES_SECONDS: Final = (0.05, 0.2, 0.5)


def beside(backend: Any) -> Ledger:
    """Return the ledger of a TaskFlow persistence backend; open it if need be.

    :raises UnsupportedBackend: there is no ledger for that kind of backend.
    :raises StoreUnavailable: the store does not answer or lacks its tables.
    """
    ledger: Ledger | None = getattr(backend, _ATTRIBUTE, None)
    if ledger is None:
        ledger = _open(backend)
        ledger.keeper = Keeper(ledger)
        # Two threads may come here at once; the first one's ledger stays.
        kept: Ledger = backend.__dict__.setdefault(_ATTRIBUTE, ledger)
        if kept is not ledger:
            ledger.close()
            return kept
        weakref.finalize(backend, ledger.close)
    return ledger


def _open(backend: Any) -> Ledger:
    if isinstance(backend, impl_memory.MemoryBackend):
        from lazy_engine.ledger.memory import MemoryLedger

        return MemoryLedger(weakref.proxy(backend))
    kind = type(backend).__name__
    if kind == "ZkBackend":
        from lazy_engine.ledger import zookeeper

        return zookeeper.open_ledger(backend)
    engine = getattr(backend, "engine", None) if kind == "SQLAlchemyBackend" else None
    if engine is None:
        raise errors.UnsupportedBackend(
            f"no ledger for the persistence backend {kind}: lazy_engine keeps one in"
            " memory, sqlite, postgresql and zookeeper"
        )
    if engine.dialect.name not in ("sqlite", "postgresql"):
        raise errors.UnsupportedBackend(
            f"no ledger for a {engine.dialect.name} database yet: use sqlite or postgresql"
        )
    from lazy_engine.ledger.sql import SqlLedger
    from lazy_engine.ledger.sql_connection import is_in_memory

    if engine.dialect.name == "sqlite" and is_in_memory(engine.url):
        raise errors.UnsupportedBackend(
            "an in-memory SQLite database lives in one connection and isolates nothing:"
            " give it a file (sqlite:////path/to/flows.db), or use the memory backend"
        )
    return SqlLedger(engine)


def upgrade(backend: Any) -> None:
    """Make or upgrade all tables of a backend: TaskFlow's, then the ledger's.

    Safe to repeat.

    :raises UnsupportedBackend: there is no ledger for that kind of backend.
    :raises StoreUnavailable: the store does not answer, or refuses.
    """
    try:
        _upgrade_host(backend)
    except Exception as error:
        # TaskFlow lets whatever its drivers raise through when it connects.
        cause = getattr(error, "orig", None) or error
        raise errors.StoreUnavailable(
            f"cannot open the store: {type(cause).__name__}: {cause}; is the server up, and"
            " are address, database and account right?"
        ) from cause
    beside(backend)


def _upgrade_host(backend: Any) -> None:
    # To connect is tried once: TaskFlow's ZooKeeper backend takes 15 seconds
    # over a server that is not there.
    with contextlib.closing(backend.get_connection()) as connection:
        for pause_seconds in (*_UPGRADE_PAUSES_SECONDS, None):
            try:
                connection.upgrade()
            except taskflow_exceptions.StorageFailure:
                # Two processes that make TaskFlow's tables at the same moment
                # stand in each other's way; the one that comes second finds them.
                if pause_seconds is None:
                    raise
                time.sleep(pause_seconds)
            else:
                return
