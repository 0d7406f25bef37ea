# SPDX-License-Identifier: Apache-2.0
"""What the parts cost that a park and a cold wake cannot do without.

    python benchmarks/floor.py [--flows 200] [--tasks 10000] [sqlite] [postgresql]

Nothing of lazy_engine runs here. Prints one JSON line a workload:

``make``
    milliseconds that TaskFlow takes to make a flow of three tasks, and one of many.
``run``
    milliseconds that TaskFlow's serial engine takes, in memory, to load a flow of
    two tasks, and to run it.
``transactions``
    milliseconds of four transactions of three rows each, with nothing but the driver; they
    are those of a park: of its submission, its lease, its first task and its end.
``park``
    flows a second if a park were these three things and nothing else.

A park does not use TaskFlow's serial engine, and may be faster than these parts
are together; but it makes the tasks, and its transactions wait for the disk.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import sqlite3
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
import taskflow.engines
from harness import line, store
from taskflow import task
from taskflow.patterns import linear_flow

_ROWS = 3
_TRANSACTIONS = 4


class Step(task.Task):
    def execute(self) -> int:
        return 1


class Use(task.Task):
    def execute(self, x: int) -> int:
        return x


def make_three() -> Any:
    return linear_flow.Flow("park").add(Step("before"), Step("wait", provides="x"), Use("after"))


def make_row(count: int) -> Any:
    return linear_flow.Flow("row").add(*[Step(f"task {number}") for number in range(count)])


def run_two() -> None:
    engine = taskflow.engines.load(make_row(2), engine="serial")
    engine.run()


@contextlib.contextmanager
def transacting(url: str) -> Iterator[Callable[[], None]]:
    """Yield what carries out the transactions of one park."""
    create = "CREATE TABLE floor (id VARCHAR(64) PRIMARY KEY, a TEXT, b TEXT)"
    insert = "INSERT INTO floor VALUES ({0}, {0}, {0})"

    def rows() -> list[tuple[str, str, str]]:
        return [(str(uuid.uuid4()), "x" * 200, "y" * 100) for _ in range(_ROWS)]

    if store.kind(url) == "sqlite":
        with contextlib.closing(
            sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        ) as file:
            for statement in ("PRAGMA journal_mode=wal", "PRAGMA synchronous=full", create):
                file.execute(statement)

            def transact_in_file() -> None:
                for _ in range(_TRANSACTIONS):
                    file.execute("BEGIN IMMEDIATE")
                    file.executemany(insert.format("?"), rows())
                    file.execute("COMMIT")

            yield transact_in_file
        return
    import psycopg

    address = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as server:
        server.execute(create)

        def transact_in_server() -> None:
            for _ in range(_TRANSACTIONS):
                # All of it is sent at once, and waited for once.
                with server.pipeline(), server.transaction(), server.cursor() as cursor:
                    cursor.executemany(insert.format("%s"), rows())

        yield transact_in_server


def _milliseconds(call: Callable[[], object], times: int) -> float:
    call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken)


def main() -> None:
    logging.disable(logging.CRITICAL)
    parser = line.parser(__doc__, "sqlite postgresql")
    parser.add_argument("--flows", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=10_000)
    arguments = parser.parse_args()
    line.machine()
    taken = line.Taken()
    for kind in arguments.stores:
        with store.opened(kind) as make_url, transacting(make_url()) as transact:
            for _ in range(arguments.rounds):
                for key, call in (("make", make_three), ("run", run_two), (kind, transact)):
                    taken.add(key, _milliseconds(call, arguments.flows))
    for _ in range(arguments.rounds):
        taken.add("many", _milliseconds(lambda: make_row(arguments.tasks), 1))
    facts = {"subject": "floor", "versions": {"taskflow": importlib.metadata.version("taskflow")}}
    for workload, key, tasks in (
        ("make", "make", 3),
        ("make", "many", arguments.tasks),
        ("run", "run", 2),
    ):
        line.emit(
            "floor",
            store="memory",
            workload=workload,
            tasks=tasks,
            **line.figure(taken.of(key), "ms"),
            **facts,
        )
    for kind in arguments.stores:
        line.emit(
            "floor",
            store=kind,
            workload="transactions",
            **line.figure(taken.of(kind), "ms"),
            **facts,
        )
        whole = sum(taken.median(key) for key in ("make", "run", kind))
        line.emit(
            "floor", store=kind, workload="park", **line.figure([1e3 / whole], "flows/s"), **facts
        )


if __name__ == "__main__":
    main()
