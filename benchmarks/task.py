# SPDX-License-Identifier: Apache-2.0
"""What a task costs, beside TaskFlow's own serial engine, in memory and on SQLite.

    python benchmarks/task.py [--tasks 100,1000] [--rounds 3] [--shapes row,side]
        [--stores memory,sqlite] [--engines serial,lazy]

Runs flows of so many tasks that do nothing, in a row or side by side, with the
engines in turn, and prints one JSON line for each: microseconds a task to
compile, prepare and validate (``prepare``) and to run, the medians. Only what
stands beside it means something on another machine. TaskFlow's engine takes hours
for ten thousand in a row: give ``--engines lazy`` to see that a task costs the
same there.
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

import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.persistence import backends

from lazy_engine import ledger


class Nothing(task.Task):
    def execute(self) -> int:
        return 1


@contextlib.contextmanager
def _backend(store: str) -> Iterator[Any]:
    if store == "memory":
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "flows.db")
        backend = backends.fetch({"connection": f"sqlite:///{path}"})
        ledger.upgrade(backend)
        with contextlib.closing(backend):
            yield backend


def _time(engine_name: str, store: str, shape: str, count: int) -> dict[str, float]:
    """Return the microseconds a task to prepare, and to run."""
    pattern = linear_flow.Flow if shape == "row" else unordered_flow.Flow
    flow = pattern(shape).add(*[Nothing(f"task {number}") for number in range(count)])
    with _backend(store) as backend:
        began = time.perf_counter()
        engine = taskflow.engines.load(flow, engine=engine_name, backend=backend)
        engine.compile()
        engine.prepare()
        engine.validate()
        ready = time.perf_counter()
        engine.run()
        ended = time.perf_counter()
    return {"prepare": (ready - began) / count * 1e6, "run": (ended - ready) / count * 1e6}


def _compare(store: str, shape: str, count: int, engines: list[str], rounds: int) -> None:
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name in engines:
            taken[name].append(_time(name, store, shape, count))
    for name in engines:
        line = {
            "benchmark": "task",
            "subject": name,
            "store": store,
            "workload": shape,
            "tasks": count,
            "unit": "microseconds a task",
            **{
                what: round(statistics.median(each[what] for each in taken[name]), 1)
                for what in ("prepare", "run")
            },
            "rounds": rounds,
            "python": platform.python_version(),
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", default="100,500")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", default="memory,sqlite")
    parser.add_argument("--shapes", default="row")
    parser.add_argument("--engines", default="serial,lazy")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    for store in arguments.stores.split(","):
        for shape in arguments.shapes.split(","):
            for count in map(int, arguments.tasks.split(",")):
                engines = arguments.engines.split(",")
                _compare(store, shape, count, engines, arguments.rounds)


if __name__ == "__main__":
    main()
