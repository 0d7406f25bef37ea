# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's own serial engine as a subject.

It cannot wait: a listener suspends it after the task that asks, and it is
loaded again with the answer injected.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

import serving
import taskflow.engines
from flows import Step, counted, make_row
from taskflow import states, task
from taskflow.patterns import linear_flow
from taskflow.persistence import backends
from taskflow.utils import persistence_utils


class Use(task.Task):
    def execute(self, x: int) -> int:
        return x


def make_asking() -> Any:
    return linear_flow.Flow("park").add(Step("before"), Step("ask"), Use("after"))


class Peer:
    def __init__(self, url: str) -> None:
        self._backend: Any = None
        if url != "memory":
            self._backend = backends.fetch({"connection": url})
            with contextlib.closing(self._backend.get_connection()) as opened:
                opened.upgrade()
        self._parked: list[str] = []

    def row(self, count: int, shape: str = "row") -> dict[str, float]:
        flow = make_row(count, shape)
        began = time.perf_counter()
        engine = taskflow.engines.load(flow, engine="serial", backend=self._backend)
        engine.compile()
        engine.prepare()
        engine.validate()
        ready, spent = time.perf_counter(), time.process_time()
        engine.run()
        ended, spent = time.perf_counter(), time.process_time() - spent
        return {"prepare": ready - began, "run": ended - ready, "processor": spent}

    def reload(self, count: int, shape: str = "row") -> float:
        _book, detail = persistence_utils.temporary_flow_detail(self._backend)
        flow = make_row(count, shape)
        # Prepared and not run, which would take far longer than what is measured.
        engine = taskflow.engines.load(flow, flow_detail=detail, backend=self._backend)
        engine.compile()
        engine.prepare()
        began = time.perf_counter()
        engine = taskflow.engines.load(
            make_row(count, shape), flow_detail=self._read(detail.uuid), backend=self._backend
        )
        engine.compile()
        engine.prepare()
        engine.validate()
        return time.perf_counter() - began

    def _read(self, flow_uuid: str) -> Any:
        with contextlib.closing(self._backend.get_connection()) as opened:
            return opened.get_flow_details(flow_uuid)

    def park(self, count: int, is_kept: bool = True) -> float:
        began = time.perf_counter()
        for _ in range(count):
            flow_uuid = self._park()
            if is_kept:
                self._parked.append(flow_uuid)
        return time.perf_counter() - began

    def _park(self) -> str:
        _book, detail = persistence_utils.temporary_flow_detail(self._backend)
        # What an answer will bring has to be there for the flow to be valid.
        engine = taskflow.engines.load(
            make_asking(), flow_detail=detail, backend=self._backend, store={"x": None}
        )

        def suspend(state: str, details: dict[str, Any]) -> None:
            if details["task_name"] == "ask":
                engine.suspend()

        engine.atom_notifier.register(states.SUCCESS, suspend)
        engine.run()
        assert engine.storage.get_flow_state() == states.SUSPENDED
        return str(detail.uuid)

    def finish(self) -> float:
        return sum(self.alone(len(self._parked)))

    def alone(self, count: int) -> list[float]:
        taken = []
        for _ in range(count):
            flow_uuid = self._parked.pop()
            began = time.perf_counter()
            self._answer(flow_uuid)
            taken.append(time.perf_counter() - began)
        return taken

    def _answer(self, flow_uuid: str) -> None:
        engine = taskflow.engines.load(
            make_asking(), flow_detail=self._read(flow_uuid), backend=self._backend, store={"x": 1}
        )
        engine.run()
        assert engine.storage.get_flow_state() == states.SUCCESS

    def count(self) -> dict[str, dict[str, int]]:
        self.park(1)
        self.finish()
        with counted() as parking:
            self.park(1)
        with counted() as finishing:
            self.finish()
        return {"park": parking, "finish": finishing, "alone": finishing}

    def durability(self) -> str:
        if self._backend is None:
            return "none"
        if self._backend.engine.dialect.name != "sqlite":
            return "synchronous_commit=on"
        with self._backend.engine.connect() as opened:
            return serving.sqlite_durability(
                lambda name: opened.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            )

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    serving.serve("taskflow", Peer, ["taskflow", "SQLAlchemy"], Peer.durability)
