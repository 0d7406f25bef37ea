# SPDX-License-Identifier: Apache-2.0
"""Opening the store that a client works on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions
from taskflow.persistence import backends

from lazy_engine import (
    address,
    board,
    errors,
    ledger,
    rules,
    view,
)
from lazy_engine.ledger import record as r
from lazy_engine.observer import Observer, Several

#: database → (the package's extra, what an address for its driver begins with)
_EXTRAS: Final[Mapping[str, tuple[str, str]]] = {
    "postgresql": ("postgresql", "postgresql+psycopg"),
    "mysql": ("mysql", "mysql+pymysql"),
}


class Access:
    """A store, its ledger, and perhaps a job board."""

    def __init__(self, persistence: Any, jobboard: Any = None) -> None:
        self.backend = open_backend(persistence)
        self._board = None if jobboard is None else board.of(jobboard)
        self._ledger = ledger.beside(self.backend)

    @property
    def observer(self) -> Observer:
        """Who is told of what happens in this store, in this process."""
        return self._ledger.observer

    def observe(self, observer: Observer) -> None:
        """Have an observer told of what happens in this store from now on.

        Of what this process does there: its clients, engines, conductors and
        watchdogs that use the same backend object.
        """
        self._ledger.observer = Several((*self._ledger.observer.all, observer))

    def _require(self, flow_uuid: str) -> r.FlowRecord:
        record = self._ledger.flow(flow_uuid)
        if record is None:
            raise view.unknown_flow(flow_uuid)
        return record

    def _lived_state(self, record: r.FlowRecord) -> str:
        if rules.is_over(record):
            return record.state
        return rules.lived_state(record, self._ledger.now())


def open_backend(persistence: Any) -> Any:
    """Return a persistence backend for itself or for its configuration.

    :raises UnsupportedBackend: a memory configuration, or none at all.
    :raises StoreUnavailable: the store cannot be reached.
    :raises ValueError: the address cannot be read.
    """
    if not isinstance(persistence, (dict, str)):
        if not hasattr(persistence, "get_connection"):
            raise errors.UnsupportedBackend(
                "persistence must be a TaskFlow persistence backend or its configuration,"
                f" not a {type(persistence).__name__}"
            )
        return persistence
    conf = address.configuration(persistence)
    connection = conf.get("connection")
    if not isinstance(connection, str) or not connection:
        raise errors.UnsupportedBackend(
            "a persistence configuration names its store under 'connection', for example"
            " {'connection': 'sqlite:////path/to/flows.db'}"
        )
    kind = connection.partition(":")[0]
    if kind == "memory":
        raise errors.UnsupportedBackend(
            "a memory configuration would make another, empty store: pass the backend"
            " object itself (for an engine without a backend, engine.storage.backend)"
        )
    backend = _fetch(conf, kind)
    ledger.upgrade(backend)
    return backend


def _fetch(conf: dict[str, Any], kind: str) -> Any:
    extra = _EXTRAS.get(kind.partition("+")[0])
    try:
        return backends.fetch(conf)
    except taskflow_exceptions.NotFound as error:
        raise errors.UnsupportedBackend(
            f"there is no persistence backend {kind!r}: use sqlite:////path/to/flows.db,"
            " dir:///path/to/flows, postgresql+psycopg://user@host/database,"
            " mysql+pymysql://user@host/database or zookeeper://host:port/path"
        ) from error
    except ImportError as error:
        remedy = f"lazy_engine[{extra[0]}], and write {extra[1]}://…" if extra else "it"
        raise errors.UnsupportedBackend(
            f"the database driver for {kind!r} is not installed ({error}): install {remedy}"
        ) from error
    except Exception as error:
        # Not at the top: nobody but databases needs SQLAlchemy, which is loaded by now for these.
        from sqlalchemy import exc as sa_exc

        if not isinstance(error, sa_exc.NoSuchModuleError):
            raise
        remedy = f": write {extra[1]}://…" if extra else ""
        raise errors.UnsupportedBackend(f"there is no database driver {kind!r}{remedy}") from error
