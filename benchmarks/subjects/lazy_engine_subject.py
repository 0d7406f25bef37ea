# SPDX-License-Identifier: Apache-2.0
"""lazy_engine as a subject: passive, in one thread."""

from __future__ import annotations

import logging
import time
from typing import Any

import serving
import taskflow.engines
from flows import Step, counted, make_row
from taskflow import task
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine import Client, Delay, ledger
from lazy_engine.outcome import Result


class Wait(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=366 * 86400)


class Use(task.Task):
    def execute(self, x: int) -> int:
        return x


class Join(task.Task):
    def execute(self, **answers: int) -> int:
        return sum(answers.values())


def make_waiting() -> Any:
    return linear_flow.Flow("park").add(Step("before"), Wait("wait", provides="x"), Use("after"))


def make_fan(waits: int) -> Any:
    names = [f"x{number}" for number in range(waits)]
    fan = unordered_flow.Flow("waits").add(*[Wait(f"wait {name}", provides=name) for name in names])
    return linear_flow.Flow("fan").add(fan, Join("join", requires=names))


class Lazy:
    keep_engines = 0

    def __init__(self, url: str) -> None:
        self._client = (
            None if url == "memory" else Client({"connection": url}, keep_engines=self.keep_engines)
        )
        self._parked: list[str] = []

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    def row(self, count: int, shape: str = "row") -> dict[str, float]:
        """Return the seconds to prepare a flow of so many steps and to run it, and those of a processor to run it."""
        backend = None if self._client is None else self._client.backend
        flow = make_row(count, shape)
        began = time.perf_counter()
        engine = taskflow.engines.load(flow, engine="lazy", backend=backend)
        engine.compile()
        engine.prepare()
        engine.validate()
        ready, spent = time.perf_counter(), time.process_time()
        state = engine.run()
        ended, spent = time.perf_counter(), time.process_time() - spent
        assert state == "SUCCESS", state
        return {"prepare": ready - began, "run": ended - ready, "processor": spent}

    def reload(self, count: int, shape: str = "row") -> float:
        """Return the seconds to read a stored flow and to make an engine ready for it."""
        flow_uuid = self.client.submit(make_row, [count, shape])
        state = self.client.resume(flow_uuid)
        assert state == "SUCCESS", state
        book: Any = ledger.beside(self.client.backend)
        began = time.perf_counter()
        detail = book.detail(flow_uuid)
        engine = taskflow.engines.load(
            make_row(count, shape), flow_detail=detail, backend=self.client.backend, engine="lazy"
        )
        engine.compile()
        engine.prepare()
        engine.validate()
        return time.perf_counter() - began

    def park(self, count: int, is_kept: bool = True) -> float:
        """Return the seconds to submit so many flows and to run them until they wait."""
        began = time.perf_counter()
        for _ in range(count):
            flow_uuid = self.client.submit(make_waiting)
            state = self.client.resume(flow_uuid)
            assert state == "DELAYED", state
            if is_kept:
                self._parked.append(flow_uuid)
        return time.perf_counter() - began

    def finish(self) -> float:
        """Return the seconds to answer all that are parked and to run them to their ends."""
        return sum(self.alone(len(self._parked)))

    def alone(self, count: int) -> list[float]:
        """Return the seconds from answer to end, of so many flows one after the other."""
        # The task would have given its token away.
        chosen = [self._parked.pop() for _ in range(count)]
        tokens = [self.client.token(flow_uuid, "wait") for flow_uuid in chosen]
        taken = []
        for flow_uuid, token in zip(chosen, tokens, strict=True):
            began = time.perf_counter()
            self._answer(flow_uuid, token)
            taken.append(time.perf_counter() - began)
        return taken

    def _answer(self, flow_uuid: str, token: str) -> None:
        self.client.complete(token, 1)
        state = self.client.resume(flow_uuid)
        assert state == "SUCCESS", state

    def fan_out(self, waits: int, way: str) -> float:
        """Return the seconds from the first answer to the end of a flow that joins so many waits.

        :param way: ``batch``, all answers at once, or ``single``, one by one; resumed after the last.
        """
        flow_uuid = self.client.submit(make_fan, [waits])
        state = self.client.resume(flow_uuid)
        assert state == "DELAYED", state
        tokens = [self.client.token(flow_uuid, f"wait x{number}") for number in range(waits)]
        began = time.perf_counter()
        if way == "batch":
            self.client.deliver_many([(token, Result(1)) for token in tokens])
        else:
            for token in tokens:
                self.client.complete(token, 1)
        state = self.client.resume(flow_uuid)
        taken = time.perf_counter() - began
        assert state == "SUCCESS", state
        return taken

    def count(self) -> dict[str, dict[str, int]]:
        """Return the SQL statements and commits of parking a flow and of finishing it."""
        self.park(1)
        self.finish()  # what is done once
        with counted() as parking:
            self.park(1)
        flow_uuid = self._parked.pop()
        token = self.client.token(flow_uuid, "wait")
        with counted() as finishing:
            self._answer(flow_uuid, token)
        return {"park": parking, "finish": finishing, "alone": finishing}

    def durability(self) -> str:
        if self._client is None:
            return "none"
        if self._client.backend.engine.dialect.name != "sqlite":
            return "synchronous_commit=on"
        return "journal_mode=WAL, synchronous=FULL (leases: NORMAL)"

    def close(self) -> None:
        if self._client is not None:
            self._client.backend.close()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    serving.serve("lazy_engine", Lazy, ["lazy_engine", "taskflow", "SQLAlchemy"], Lazy.durability)
