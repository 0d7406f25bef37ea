# SPDX-License-Identifier: Apache-2.0
"""What a park and a wake cost: flows of one step, one wait and one step.

    python benchmarks/park.py [--flows 300] [--rounds 3] [--peers] [sqlite] [URL ...]

Passive, in one thread: a flow is submitted and resumed, and parks; it is
answered and resumed, and ends. Prints one JSON line a workload:

``park``
    flows a second submitted and run until they wait.
``finish``
    flows a second answered and run to their end.
``alone``
    milliseconds from the answer to the end of one flow, the median.

With each come the SQL statements and the commits of one flow, counted. A store
is ``sqlite`` (a file, write-ahead, ``synchronous=FULL``) or the address of an
empty database (``postgresql+psycopg://…``), which is left full.

With ``--peers`` the same is done in turn by TaskFlow alone, which cannot wait:
its serial engine is suspended by a listener after the task that asks, and is
loaded again with the answer injected. Only the ratio means something on
another machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
import taskflow.engines
from taskflow import states, task
from taskflow.patterns import linear_flow
from taskflow.persistence import backends
from taskflow.utils import persistence_utils

from lazy_engine import Client, Delay

_WORKLOADS = ("park", "finish", "alone")


class Step(task.Task):
    def execute(self) -> int:
        return 1


class Wait(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=3600)


class Use(task.Task):
    def execute(self, x: int) -> int:
        return x


def make_flow() -> Any:
    return linear_flow.Flow("park").add(Step("before"), Wait("wait", provides="x"), Use("after"))


def make_peer_flow() -> Any:
    return linear_flow.Flow("park").add(Step("before"), Step("ask"), Use("after"))


class Lazy:
    keep_engines = 0

    def __init__(self, connection: str) -> None:
        self._client = Client({"connection": connection}, keep_engines=self.keep_engines)

    def park(self) -> tuple[str, str]:
        flow_uuid = self._client.submit(make_flow)
        state = self._client.resume(flow_uuid)
        assert state == "DELAYED", state
        return flow_uuid, ""

    def ready(self, parked: tuple[str, str]) -> tuple[str, str]:
        """Return it with its token, which the task would have given away."""
        return parked[0], self._client.token(parked[0], "wait")

    def finish(self, parked: tuple[str, str]) -> None:
        flow_uuid, token = parked
        self._client.complete(token, 1)
        state = self._client.resume(flow_uuid)
        assert state == "SUCCESS", state

    def close(self) -> None:
        self._client.backend.close()


class Keeping(Lazy):
    """With the engines of parked flows kept in memory."""

    keep_engines = 10_000


class Peer:
    """TaskFlow alone."""

    def __init__(self, connection: str) -> None:
        self._backend = backends.fetch({"connection": connection})
        with contextlib.closing(self._backend.get_connection()) as opened:
            opened.upgrade()

    def park(self) -> Any:
        _book, detail = persistence_utils.temporary_flow_detail(self._backend)
        # What an answer will bring has to be there for the flow to be valid.
        engine = taskflow.engines.load(
            make_peer_flow(), flow_detail=detail, backend=self._backend, store={"x": None}
        )

        def suspend(state: str, details: dict[str, Any]) -> None:
            if details["task_name"] == "ask":
                engine.suspend()

        engine.atom_notifier.register(states.SUCCESS, suspend)
        engine.run()
        assert engine.storage.get_flow_state() == states.SUSPENDED
        return detail.uuid

    def ready(self, parked: Any) -> Any:
        return parked

    def finish(self, parked: Any) -> None:
        with contextlib.closing(self._backend.get_connection()) as opened:
            detail = opened.get_flow_details(parked)
        engine = taskflow.engines.load(
            make_peer_flow(), flow_detail=detail, backend=self._backend, store={"x": 1}
        )
        engine.run()
        assert engine.storage.get_flow_state() == states.SUCCESS

    def close(self) -> None:
        self._backend.close()


@contextlib.contextmanager
def _subject(kind: type[Any], store: str) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as directory:
        connection = store
        if store == "sqlite":
            connection = f"sqlite:///{pathlib.Path(directory, 'flows.db')}"
        with contextlib.closing(kind(connection)) as made:
            yield made


def _measure(subject: Any, count: int) -> dict[str, float]:
    began = time.perf_counter()
    parked = [subject.park() for _ in range(count)]
    park = count / (time.perf_counter() - began)
    parked = [subject.ready(each) for each in parked]
    taken = []
    for each in parked:
        began = time.perf_counter()
        subject.finish(each)
        taken.append(time.perf_counter() - began)
    return {
        "park": park,
        "finish": count / sum(taken),
        "alone": statistics.median(taken) * 1000,
    }


@contextlib.contextmanager
def _counted() -> Iterator[dict[str, int]]:
    """Count what SQLAlchemy carries out in this process."""
    counts = {"statements": 0, "commits": 0}

    def on_statement(*_: Any) -> None:
        counts["statements"] += 1

    def on_commit(_connection: Any) -> None:
        counts["commits"] += 1

    sa.event.listen(sa.Engine, "after_cursor_execute", on_statement)
    sa.event.listen(sa.Engine, "commit", on_commit)
    try:
        yield counts
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", on_statement)
        sa.event.remove(sa.Engine, "commit", on_commit)


def _count(subject: Any) -> dict[str, dict[str, int]]:
    subject.finish(subject.ready(subject.park()))  # what is done once
    with _counted() as parking:
        parked = subject.park()
    parked = subject.ready(parked)
    with _counted() as finishing:
        subject.finish(parked)
    return {"park": parking, "finish": finishing, "alone": finishing}


def _compare(store: str, kinds: dict[str, type[Any]], flows: int, rounds: int) -> None:
    with contextlib.ExitStack() as stack:
        subjects = {
            name: stack.enter_context(_subject(kind, store)) for name, kind in kinds.items()
        }
        counts = {name: _count(subject) for name, subject in subjects.items()}
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
        for _ in range(rounds):
            for name, subject in subjects.items():
                taken[name].append(_measure(subject, flows))
    for name in subjects:
        for workload in _WORKLOADS:
            line = {
                "benchmark": "park",
                "subject": name,
                "store": store.partition(":")[0],
                "workload": workload,
                "unit": "ms" if workload == "alone" else "flows/s",
                "median": round(statistics.median(each[workload] for each in taken[name]), 2),
                **counts[name][workload],
                "flows": flows,
                "rounds": rounds,
                "python": platform.python_version(),
                "sqlalchemy": sa.__version__,
            }
            print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stores", nargs="*", default=["sqlite"])
    parser.add_argument("--flows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="beside TaskFlow alone")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    kinds: dict[str, type[Any]] = {"lazy_engine": Lazy, "lazy_engine, kept": Keeping}
    if arguments.peers:
        kinds["taskflow"] = Peer
    for store in arguments.stores:
        _compare(store, kinds, arguments.flows, arguments.rounds)


if __name__ == "__main__":
    main()
