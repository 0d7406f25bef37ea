# SPDX-License-Identifier: Apache-2.0
"""What every part of the memory ledger works with."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

from taskflow import exceptions as taskflow_exceptions
from taskflow.persistence import models

from lazy_engine import host
from lazy_engine.ledger import record as r
from lazy_engine.ledger import turn
from lazy_engine.token import DelayKey


class MemoryBook:
    """Dictionaries, a lock and a clock.

    :param backend: TaskFlow's memory backend that holds the flow details.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._lock = threading.RLock()
        self._flows: dict[str, r.FlowRecord] = {}
        self._delays: dict[str, dict[DelayKey, r.DelayRecord]] = {}
        self._atoms_path: str | None = None
        #: Moves the clock, for tests: see :mod:`lazy_engine.testing`.
        self.clock_offset_seconds = 0.0

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        with contextlib.closing(self._backend.get_connection()) as connection:
            yield connection

    def _atom_path(self, atom_uuid: str) -> str:
        if self._atoms_path is None:
            with self._connection() as connection:
                self._atoms_path = connection.atom_path
        return f"{self._atoms_path}/{atom_uuid}"

    def now(self) -> int:
        return time.time_ns() // 1000 + int(self.clock_offset_seconds * 1e6)

    def _set(self, flow_uuid: str, **values: Any) -> r.FlowRecord | None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is not None:
                record = self._flows[flow_uuid] = dataclasses.replace(record, **values)
            return record

    def _unabsorbed(self, flow_uuid: str, *, with_early: bool) -> list[r.DelayRecord]:
        return turn.unabsorbed(self._delays.get(flow_uuid, {}).values(), with_early=with_early)

    def detail(self, flow_uuid: str) -> models.FlowDetail | None:
        with self._connection() as connection:
            try:
                found: models.FlowDetail = connection.get_flow_details(flow_uuid)
            except taskflow_exceptions.NotFound:
                return None
            for atom in found:
                stored = self._backend.memory[self._atom_path(atom.uuid)]
                host.mend_history(separate(atom), stored["atom"]["results"])
        return separate(found)


def separate(detail: Any) -> Any:
    """Give a detail a ``meta`` of its own, and return it.

    The backend of an engine that was loaded without one copies nothing, and
    TaskFlow (6.5, ``AtomDetail.copy``) shares a meta that is empty: attempts
    would count as stored before they are.
    """
    detail.meta = dict(detail.meta or {})
    return detail
