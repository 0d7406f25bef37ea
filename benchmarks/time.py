# SPDX-License-Identifier: Apache-2.0
"""What deadlines cost: how late they are noticed among many that are not due, and what it costs to look.

``make bench`` runs this; ``python benchmarks/time.py [sqlite] [postgresql]`` runs it for some stores only. With
``LAZY_ENGINE_BENCH_SCALE=0.01`` there are a hundredth of the delays, and all takes a hundredth of the time. Prints one
JSON line a workload:

- *lateness*: 100,000 delays are open and 1,000 of them become due within one minute, evenly. From each deadline to the
  moment at which one watchdog had recorded the timeout, and to the moment at which it named the flow to its caller.
- *sweep*: the median cost of a round that finds nothing, and of one that finds ten delays due, with 1,000 open delays
  and with 100,000. Both stores are asked in turn, so that whatever else the machine does slows both.
- *watching*: the CPU time of a process in which a watchdog looks at the 100,000 for 20 seconds and finds nothing,
  beside that of a thread which wakes as often and does nothing. What a database server spends on it is not in this.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
import taskflow.engines
from harness import copies, line, store
from taskflow import task
from taskflow.exceptions import WrappedFailure
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay, ledger
from lazy_engine.errors import DelayTimeout
from lazy_engine.ledger import sql_schema
from lazy_engine.watchdog import PERIOD_SECONDS, Watchdog

SCALE = float(os.environ.get("LAZY_ENGINE_BENCH_SCALE") or 1)
FEW = max(10, int(1_000 * SCALE))
MANY = max(100, int(100_000 * SCALE))
DUE = max(10, int(1_000 * SCALE))
DUE_SECONDS = 60 * SCALE
WATCH_SECONDS = 20 * SCALE
#: Rounds that are measured, by how many delays each finds due.
ROUNDS = {0: max(5, int(200 * SCALE)), 10: max(3, int(50 * SCALE))}

_YEAR_MICROS = 366 * 86400 * 10**6
_CHUNK = 1000


class Ask(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=366 * 86400)


def make_flow() -> Any:
    return linear_flow.Flow("asks").add(Ask("ask"))


class Store:
    """A store with parked flows: the first one made by an engine, the rest copies of its rows.

    :ivar url: its SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = Client({"connection": url})
        self.ledger: Any = ledger.beside(self.client.backend)
        engine = taskflow.engines.load(make_flow(), engine="lazy", backend=self.client.backend)
        assert engine.run() == "DELAYED"
        self._engine: sa.Engine = self.client.backend.engine
        tables = sql_schema.build(self._engine.dialect.name)
        self._delays = tables.delays
        flow_uuid = engine.storage.flow_uuid
        self._model = copies.rows_of(self._engine, tables, flow_uuid)

    def add(self, timeouts_at: list[int]) -> None:
        """Park a flow for each deadline."""
        for start in range(0, len(timeouts_at), _CHUNK):
            made: dict[sa.Table, list[dict[str, Any]]] = {table: [] for table, _ in self._model}
            for timeout_at in timeouts_at[start : start + _CHUNK]:
                fresh: dict[str, str] = {}
                for table, row in self._model:
                    copy = copies.renamed(row, fresh)
                    if table is self._delays:
                        copy |= {"timeout_at": timeout_at, "due_at": timeout_at}
                    made[table].append(copy)
            with self._engine.begin() as connection:
                for table, rows in made.items():
                    connection.execute(sa.insert(table), rows)

    def forget(self, flow_uuids: list[str]) -> None:
        """Delete what the ledger keeps of flows; nobody resumes them, and a watchdog would go on saying so."""
        if flow_uuids:
            with self._engine.begin() as connection:
                for table, _ in reversed(self._model):
                    if "flow_uuid" in table.c:
                        connection.execute(
                            sa.delete(table).where(table.c.flow_uuid.in_(flow_uuids))
                        )

    def add_waiting(self, count: int) -> None:
        """Park flows whose deadlines are a year away, and do not all come at once."""
        first_at = self.ledger.now() + _YEAR_MICROS
        self.add([first_at + number * 1000 for number in range(count)])

    def count_open(self) -> int:
        query = sa.select(sa.func.count()).where(self._delays.c.waiting_at.is_not(None))
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def timed_out(self) -> list[tuple[str, int, int]]:
        """Return flow, deadline and moment of recording for every delay that timed out."""
        c = self._delays.c
        query = sa.select(c.flow_uuid, c.timeout_at, c.arrived_at).where(
            c.outcome_kind == "timeout"
        )
        with self._engine.connect() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def close(self) -> None:
        self.ledger.close()
        self.client.backend.close()


# -- what is measured ------------------------------------------------------------


def measure_sweeps(kind: str, few: Store, many: Store) -> None:
    for due, rounds in ROUNDS.items():
        took = line.Taken()
        for _ in range(rounds):
            for parked, count in ((few, FEW), (many, MANY)):
                parked.add([parked.ledger.now() - 1] * due)
                began = time.perf_counter()
                found = parked.client.sweep()
                took.add(count, (time.perf_counter() - began) * 1e3)
                assert len(found) == due
                parked.forget(found)
        for count in (FEW, MANY):
            ratio = line.shorten(took.median(count) / took.median(FEW))
            line.emit(
                "time",
                subject=line.OWN,
                store=kind,
                workload="sweep",
                parked=count,
                due=due,
                **line.figure(took.of(count), "ms"),
                **({"to_few": ratio} if count != FEW else {}),
            )


def measure_watching(kind: str, parked: Store) -> None:
    child = [sys.executable, __file__, "--watch", parked.url]
    answer = subprocess.run(child, check=True, capture_output=True).stdout
    for who, seconds in json.loads(answer).items():
        line.emit(
            "time",
            subject=who,
            store=kind,
            workload="watching",
            parked=MANY,
            **line.figure([seconds / WATCH_SECONDS * 1e3], "ms of processor time a second"),
        )


def watch(url: str) -> None:
    """Be the process whose CPU time is measured."""
    client = Client({"connection": url})
    took = {}
    for who, at_work in ((line.OWN, Watchdog(client)), ("a thread that only wakes", waking())):
        began = time.process_time()
        with at_work:
            time.sleep(WATCH_SECONDS)
        took[who] = time.process_time() - began
    print(json.dumps(took))


@contextlib.contextmanager
def waking() -> Iterator[None]:
    ended = threading.Event()

    def wake() -> None:
        while not ended.wait(PERIOD_SECONDS):
            pass

    thread = threading.Thread(target=wake)
    thread.start()
    yield
    ended.set()
    thread.join()


def measure_lateness(kind: str, parked: Store) -> None:
    told_at: dict[str, int] = {}

    def on_wanting(flow_uuid: str) -> None:
        # Those that nobody resumes are named again after a minute.
        told_at.setdefault(flow_uuid, time.time_ns() // 1000)

    step = int(DUE_SECONDS * 1e6 / DUE)
    # What takes time to insert must not be late before the watchdog runs.
    first_at = parked.ledger.now() + int((1 + 9 * SCALE) * 1e6)
    parked.add([first_at + number * step for number in range(DUE)])
    assert parked.ledger.now() < first_at, "inserting took too long"
    assert parked.count_open() >= MANY
    with Watchdog(parked.client, on_wanting=on_wanting):
        give_up = time.monotonic() + DUE_SECONDS + 60
        while len(told_at) < DUE and time.monotonic() < give_up:
            time.sleep(0.1)
    timed_out = parked.timed_out()
    assert len(timed_out) == len(told_at) == DUE, "not all of them timed out"
    recorded = [(arrived_at - at) / 1e6 for _, at, arrived_at in timed_out]
    told = [(told_at[flow_uuid] - at) / 1e6 for flow_uuid, at, _ in timed_out]
    for what, late in (("recorded", recorded), ("told to the caller", told)):
        assert min(late) >= 0, "a deadline came too early"
        line.emit(
            "time",
            subject=line.OWN,
            store=kind,
            workload=f"late when {what}",
            parked=MANY,
            due=DUE,
            **line.figure(late, "s"),
        )
    require_real(parked, timed_out[-1][0])


def require_real(parked: Store, flow_uuid: str) -> None:
    """Resume a copied flow whose deadline has passed: it must end as any flow does."""
    # After a reload TaskFlow wraps what it stored of the failure.
    with contextlib.suppress(DelayTimeout, WrappedFailure):
        parked.client.resume(flow_uuid, flow=make_flow())
    assert parked.client.flow(flow_uuid).state == "REVERTED"


def measure(kind: str) -> None:
    with store.opened(kind) as make_url, contextlib.ExitStack() as stack:
        few, many = Store(make_url()), Store(make_url())
        stack.callback(few.close)
        stack.callback(many.close)
        few.add_waiting(FEW - 1)
        many.add_waiting(MANY - 1)
        measure_sweeps(kind, few, many)
        measure_watching(kind, many)
        measure_lateness(kind, many)


if __name__ == "__main__":
    # That nobody but this script can resume these flows is meant.
    logging.getLogger("lazy_engine").setLevel(logging.ERROR)
    if sys.argv[1:2] == ["--watch"]:
        watch(sys.argv[2])
    else:
        line.machine()
        for name in sys.argv[1:] or ("sqlite", "postgresql"):
            measure(name)
