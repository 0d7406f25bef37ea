# SPDX-License-Identifier: Apache-2.0
"""What a task costs, beside TaskFlow's own serial engine, in memory and on SQLite.

    python benchmarks/task.py [--tasks 100,1000] [--rounds 3]

Runs flows of so many tasks in a row that do nothing, with both engines in turn, and
prints the medians and their ratio. Compiling and preparing is timed apart. Only the
ratio means something on another machine.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow
from taskflow.persistence import backends

from lazy_engine import ledger

_ENGINES = ("serial", "lazy")


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


def _time(engine_name: str, store: str, count: int) -> tuple[float, float]:
    """Return the seconds to compile and prepare, and to run."""
    flow = linear_flow.Flow("row").add(*[Nothing(f"task {number}") for number in range(count)])
    with _backend(store) as backend:
        began = time.perf_counter()
        engine = taskflow.engines.load(flow, engine=engine_name, backend=backend)
        engine.compile()
        engine.prepare()
        engine.validate()
        ready = time.perf_counter()
        engine.run()
        return ready - began, time.perf_counter() - ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", default="100,500")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", default="memory,sqlite")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print(f"{'store':8} {'tasks':>6}  {'':10} {'serial':>10} {'lazy':>10}  serial / lazy")
    for store in arguments.stores.split(","):
        for count in map(int, arguments.tasks.split(",")):
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in _ENGINES}
            for _ in range(arguments.rounds):
                for name in _ENGINES:
                    taken[name].append(_time(name, store, count))
            for index, what in enumerate(("prepare", "run")):
                theirs, ours = (
                    statistics.median(times[index] for times in taken[name]) for name in _ENGINES
                )
                print(
                    f"{store:8} {count:6}  {what:10} {theirs:8.3f} s {ours:8.3f} s"
                    f"  {theirs / ours:6.1f}"
                )


if __name__ == "__main__":
    main()
