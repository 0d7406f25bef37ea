# SPDX-License-Identifier: Apache-2.0
"""The durable book of delays, outcomes and leases, beside the flow details."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions

from lazy_engine import errors
from lazy_engine.ledger import obstacle
from lazy_engine.ledger.keeper import Keeper
from lazy_engine.ledger.protocol import GUARANTEES, Guarantees, Ledger, TakeRequest
from lazy_engine.observer import NOBODY

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
        ledger = _kind_of(backend).open(backend)
        ledger.keeper = Keeper(ledger)
        ledger.observer = NOBODY
        # Two threads may come here at once; the first one's ledger stays.
        kept: Ledger = backend.__dict__.setdefault(_ATTRIBUTE, ledger)
        if kept is not ledger:
            ledger.close()
            return kept
        weakref.finalize(backend, ledger.close)
    return ledger


# What belongs to one kind of store is imported when it is wanted: nobody needs
# the drivers of all of them.


def _open_memory(backend: Any) -> Ledger:
    from lazy_engine.ledger.memory import MemoryLedger

    return MemoryLedger(weakref.proxy(backend))


def _open_sql(backend: Any) -> Ledger:
    from lazy_engine.ledger import sql

    return sql.open_ledger(backend.engine)


def _require_sql(backend: Any) -> None:
    from lazy_engine.ledger.sql_upgrade import require_supported

    require_supported(backend.engine)


def _alone_sql(backend: Any) -> contextlib.AbstractContextManager[None]:
    from lazy_engine.ledger.sql_upgrade import alone

    return alone(backend.engine)


def _open_directory(backend: Any) -> Ledger:
    from lazy_engine.ledger import directory

    return directory.open_ledger(backend)


def _open_zookeeper(backend: Any) -> Ledger:
    from lazy_engine.ledger import zookeeper

    return zookeeper.open_ledger(backend)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One kind of store.

    :ivar open: returns the ledger; makes its tables if need be.
    :ivar require: refuses a backend before anything is made or waited for.
    :ivar alone: keeps others away while TaskFlow's tables are made.
    :ivar obstacle: says what may have kept it from being opened.
    """

    open: Callable[[Any], Ledger]
    require: Callable[[Any], None] = lambda _backend: None
    alone: Callable[[Any], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    obstacle: Callable[[Any], str] = lambda _backend: obstacle.SERVER


#: The kinds, by the name of TaskFlow's backend class (or one that it extends).
_KINDS: Final[Mapping[str, _Kind]] = {
    "MemoryBackend": _Kind(open=_open_memory),
    "SQLAlchemyBackend": _Kind(
        open=_open_sql,
        require=_require_sql,
        alone=_alone_sql,
        obstacle=lambda backend: obstacle.of_database(backend.engine.url),
    ),
    "DirBackend": _Kind(
        open=_open_directory,
        obstacle=lambda backend: obstacle.of_directory(pathlib.Path(backend.path)),
    ),
    "ZkBackend": _Kind(open=_open_zookeeper),
}


def _kind_of(backend: Any) -> _Kind:
    for base in type(backend).__mro__:
        if base.__name__ in _KINDS:
            kind = _KINDS[base.__name__]
            kind.require(backend)
            return kind
    raise errors.UnsupportedBackend(
        f"no ledger for the persistence backend {type(backend).__name__}: lazy_engine keeps one"
        f" in {', '.join(GUARANTEES)}"
    )


def upgrade(backend: Any) -> None:
    """Make or upgrade all tables of a backend: TaskFlow's, then the ledger's.

    Safe to repeat.

    :raises UnsupportedBackend: there is no ledger for that kind of backend.
    :raises StoreUnavailable: the store does not answer, or refuses.
    """
    kind = _kind_of(backend)
    try:
        with kind.alone(backend):
            _upgrade_host(backend)
    except errors.LazyEngineError:
        raise
    except Exception as error:
        # TaskFlow lets whatever its drivers raise through when it connects.
        cause = _root_of(error)
        what = (str(cause).strip() or "(no message)").splitlines()[0]
        raise errors.StoreUnavailable(
            f"cannot open the store: {type(cause).__name__}: {what}; {kind.obstacle(backend)}"
        ) from cause
    beside(backend)


def _root_of(error: BaseException) -> BaseException:
    """Return what TaskFlow and SQLAlchemy have wrapped."""
    while True:
        inner = getattr(error, "orig", None) or getattr(error, "cause", None)
        if not isinstance(inner, BaseException):
            return error
        error = inner


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
