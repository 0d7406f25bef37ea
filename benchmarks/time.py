# SPDX-License-Identifier: Apache-2.0
"""What a watchdog costs beside many open delays, and how late it is.

    python benchmarks/time.py [URL] [--delays 1000,100000] [--due 1000] [--seconds 60]

For each number of open delays: as many parked flows with far deadlines, and
beside them *due* ones whose deadlines pass one after the other within
*seconds*. Watched are the time of an idle round, the time of a round per
delay that was due, and how late after its deadline each timeout was written.
The store must be empty at first; it is filled by plain inserts.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from lazy_engine import Client, ledger
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.terms import Terms
from lazy_engine.token import EXECUTE, DelayKey

_BATCH = 5000
_FAR_SECONDS = 30 * 86400.0
_IDLE_ROUNDS = 200


def _parked(book: Any, now: int, deadline: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rows of a parked flow with one open delay."""
    flow_uuid = str(uuid.uuid4())
    flow = r.FlowRecord(
        flow_uuid=flow_uuid,
        flow_name="parked",
        epoch=1,
        state="DELAYED",
        key_id=book.signing_key().key_id,
        has_factory=True,
        open_delays=1,
        created_at=now,
        changed_at=now,
    )
    key = DelayKey(flow_uuid=flow_uuid, atom_uuid=str(uuid.uuid4()), kind=EXECUTE, attempt=1)
    opening = r.DelayOpening(key=key, task_name="wait", terms=Terms(until=deadline))
    return sql_row.from_flow(flow), sql_row.from_delay(opening.open(now))


def _fill(book: Any, deadlines: list[int]) -> None:
    tables = book._tables
    now = book.now()
    for start in range(0, len(deadlines), _BATCH):
        rows = [_parked(book, now, at) for at in deadlines[start : start + _BATCH]]

        def work(connection: sa.Connection, rows: Any = rows) -> None:
            connection.execute(sa.insert(tables.flows), [row[0] for row in rows])
            connection.execute(sa.insert(tables.delays), [row[1] for row in rows])

        book._transactor.write(work)


def _idle(client: Client) -> list[float]:
    took = []
    for _ in range(_IDLE_ROUNDS):
        started = time.perf_counter()
        assert client.sweep() == []
        took.append(time.perf_counter() - started)
    return took


def _watch(client: Client, count: int, seconds: float) -> tuple[list[float], list[float]]:
    """Sweep until all due delays have timed out; return cost per delay, and lateness."""
    book = ledger.beside(client.backend)
    now = book.now()
    _fill(book, [now + int((2 + seconds * n / count) * 1e6) for n in range(count)])
    costs, seen = [], 0
    while seen < count:
        started = time.perf_counter()
        found = len(client.sweep())
        took = time.perf_counter() - started
        if found:
            costs.append(took / found)
            seen += found
        time.sleep(max(0.0, 0.5 - took))  # a round begins every half second
    delays = book._tables.delays
    late = book._transactor.read(
        lambda c: (
            c.execute(
                sa.select(delays.c.arrived_at - delays.c.timeout_at).where(
                    delays.c.outcome_kind.is_not(None)
                )
            )
            .scalars()
            .all()
        )
    )
    _forget_due(book)
    return costs, [micros / 1e6 for micros in late]


def _forget_due(book: Any) -> None:
    """Delete what was due, which nobody resumes: it would be named again each minute."""
    flows, delays = book._tables.flows, book._tables.delays

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.delete(flows).where(flows.c.check_at.is_not(None)))
        connection.execute(sa.delete(delays).where(delays.c.outcome_kind.is_not(None)))

    book._transactor.write(work)


def _show(what: str, seconds: list[float]) -> None:
    cut = statistics.quantiles(seconds, n=100)
    print(
        f"  {what}: median {statistics.median(seconds) * 1e3:.2f} ms,"
        f" p99 {cut[98] * 1e3:.2f} ms, most {max(seconds) * 1e3:.2f} ms"
    )


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Client]:
    client = Client({"connection": url})
    with contextlib.closing(client.backend):
        yield client
        ledger.beside(client.backend).close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", nargs="?", help="of an empty store; left out: SQLite in a file")
    parser.add_argument("--delays", default="1000,100000", help="numbers of open delays, rising")
    parser.add_argument("--due", type=int, default=1000, help="how many of them become due")
    parser.add_argument("--seconds", type=float, default=60.0, help="within that time")
    arguments = parser.parse_args()
    medians = []
    with (
        tempfile.TemporaryDirectory() as directory,
        _opened(arguments.url or f"sqlite:///{directory}/flows.db") as client,
    ):
        book = ledger.beside(client.backend)
        have = 0
        for wanted in (int(text) for text in arguments.delays.split(",")):
            _fill(book, [book.now() + int(_FAR_SECONDS * 1e6)] * (wanted - have))
            have = wanted
            print(f"{wanted} open delays")
            idle = _idle(client)
            _show("a round in which nothing is due", idle)
            costs, late = _watch(client, arguments.due, arguments.seconds)
            _show("a round, per delay that was due", costs)
            _show("written after the deadline", late)
            medians.append((statistics.median(idle), statistics.median(costs)))
    first, last = medians[0], medians[-1]
    print(
        f"ratio of medians: idle {last[0] / first[0]:.2f}, per due delay {last[1] / first[1]:.2f}"
    )


if __name__ == "__main__":
    main()
