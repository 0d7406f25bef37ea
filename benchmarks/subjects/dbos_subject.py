# SPDX-License-Identifier: Apache-2.0
"""DBOS as a subject, with its defaults: a wait is a message that a workflow receives.

A waiting workflow holds a thread; all that are started are run at the same
time. One counts as parked as soon as its step is recorded and it is about to
receive, though DBOS writes a little more after that.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import serving
from dbos import DBOS, DBOSConfig, SendMessage

_HOUR = 3600.0


class Gate:
    """Counts workflows that have come to their wait."""

    def __init__(self) -> None:
        self._arrived = 0
        self._changed = threading.Condition()

    def arrive(self) -> None:
        with self._changed:
            self._arrived += 1
            self._changed.notify_all()

    def await_all(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._arrived >= count, timeout=600)
            self._arrived = 0


gate = Gate()


@DBOS.step()
def step() -> int:
    return 1


@DBOS.workflow()
def row(count: int) -> int:
    return sum(step() for _ in range(count))


@DBOS.workflow()
def waiting() -> Any:
    step()
    gate.arrive()
    answer = DBOS.recv("answer", timeout_seconds=_HOUR)
    step()
    return answer


@DBOS.workflow()
def joining(waits: int) -> int:
    for _ in range(waits):
        step()
    gate.arrive()
    return sum(DBOS.recv("answer", timeout_seconds=_HOUR) for _ in range(waits))


class Peer:
    def __init__(self, url: str) -> None:
        config: DBOSConfig = {
            "name": "benchmark",
            "system_database_url": url,
            "log_level": "CRITICAL",
        }
        self._dbos = DBOS(config=config)
        DBOS.launch()
        self._parked: list[Any] = []

    def row(self, count: int, shape: str = "row") -> dict[str, float]:
        assert shape == "row"
        began, spent = time.perf_counter(), time.process_time()
        assert row(count) == count
        ended, spent = time.perf_counter(), time.process_time() - spent
        return {"run": ended - began, "processor": spent}

    def park(self, count: int, is_kept: bool = True) -> float:
        began = time.perf_counter()
        handles = [DBOS.start_workflow(waiting) for _ in range(count)]
        gate.await_all(count)
        taken = time.perf_counter() - began
        if is_kept:
            self._parked += handles
        return taken

    def finish(self) -> float:
        """Answer all, then wait for all: they run at the same time."""
        handles, self._parked = self._parked, []
        began = time.perf_counter()
        for handle in handles:
            DBOS.send(handle.workflow_id, 1, "answer")
        for handle in handles:
            assert handle.get_result() == 1
        return time.perf_counter() - began

    def alone(self, count: int) -> list[float]:
        taken = []
        for _ in range(count):
            handle = self._parked.pop()
            began = time.perf_counter()
            DBOS.send(handle.workflow_id, 1, "answer")
            assert handle.get_result() == 1
            taken.append(time.perf_counter() - began)
        return taken

    def fan_out(self, waits: int, way: str) -> float:
        handle = DBOS.start_workflow(joining, waits)
        gate.await_all(1)
        began = time.perf_counter()
        if way == "batch":
            DBOS.send_bulk([SendMessage(handle.workflow_id, 1, "answer") for _ in range(waits)])
        else:
            for _ in range(waits):
                DBOS.send(handle.workflow_id, 1, "answer")
        assert handle.get_result() == waits
        return time.perf_counter() - began

    def durability(self) -> str:
        engine = self._dbos._sys_db.engine
        if engine.dialect.name != "sqlite":
            return "synchronous_commit=on"
        with engine.connect() as opened:
            return serving.sqlite_durability(
                lambda name: opened.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            )

    def close(self) -> None:
        # What waits would keep the process for its hour.
        os._exit(0)


if __name__ == "__main__":
    serving.serve("dbos", Peer, ["dbos", "SQLAlchemy"], Peer.durability)
