# SPDX-License-Identifier: Apache-2.0
"""Whether a wake costs more among many parked flows than among few.

    python benchmarks/flat.py [--few 100] [--many 20000] [--wakes 100] [--rounds 3]
        [sqlite] [postgresql]

    python benchmarks/flat.py --many 200000 sqlite
    python benchmarks/flat.py --many 1000000 postgresql

Two stores of a kind, on one server where there is one, hold few and many parked
flows of one step, one wait and one step; the second one is filled with copies
of a flow's rows. In turn flows are parked in each for real, answered and run to
their ends. Prints one JSON line a workload and store, with the number of
``parked`` flows: ``alone``, the median milliseconds from answer to end, and
``park``, flows a second. With the second store comes ``to_few``, how many times
longer it takes there.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from harness import copies, line, store, subject

_UNITS = {"alone": "ms", "park": "flows/s"}


def _fill(each: subject.Subject, count: int) -> float:
    """Park so many flows; return the seconds that it took."""
    began = time.perf_counter()
    each.do("park", count=1, is_kept=False)
    engine = sa.create_engine(each.url)
    with engine.connect() as connection:
        flow_uuid = connection.exec_driver_sql("SELECT flow_uuid FROM lazy_flows").scalar_one()
    copies.multiply(engine, flow_uuid, count - 1)
    with engine.connect() as connection:
        query = "SELECT count(*) FROM lazy_delays WHERE waiting_at IS NOT NULL"
        assert connection.exec_driver_sql(query).scalar_one() == count
    engine.dispose()
    return time.perf_counter() - began


def _compare(kind: str, sizes: list[int], wakes: int, rounds: int) -> None:
    with (
        store.opened(kind) as make_url,
        subject.crew([line.OWN], make_url) as first,
        subject.crew([line.OWN], make_url) as second,
    ):
        crew = dict(zip(sizes, (first[line.OWN], second[line.OWN]), strict=True))
        filled = {size: _fill(each, size) for size, each in crew.items()}
        for each in crew.values():
            each.do("park", count=10)
            each.do("finish")
        taken = line.Taken()
        for _ in range(rounds):
            # In small turns, so that whatever else the machine does slows both.
            for _ in range(max(1, wakes // 10)):
                for size, each in crew.items():
                    taken.add((size, "park"), 10 / each.do("park", count=10))
                    taken.add((size, "alone"), *(s * 1000 for s in each.do("alone", count=10)))
        for size, workload in taken:
            few = taken.median((sizes[0], workload))
            median = taken.median((size, workload))
            to_few = few / median if workload == "park" else median / few
            line.emit(
                "flat",
                store=kind,
                workload=workload,
                parked=size,
                **line.figure(taken.of((size, workload)), _UNITS[workload]),
                **({"to_few": line.shorten(to_few)} if size != sizes[0] else {}),
                filled_seconds=round(filled[size], 1),
                **crew[size].facts,
            )


def main() -> None:
    parser = line.parser(__doc__, "sqlite")
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--wakes", type=int, default=100, help="in each round and store")
    arguments = parser.parse_args()
    line.machine()
    for kind in arguments.stores:
        _compare(kind, [arguments.few, arguments.many], arguments.wakes, arguments.rounds)


if __name__ == "__main__":
    main()
