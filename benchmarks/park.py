# SPDX-License-Identifier: Apache-2.0
"""What a park and a wake cost: flows of one step, one wait and one step.

    python benchmarks/park.py [--flows 100] [--rounds 3] [--workers 1,2]
        [--subjects lazy_engine,taskflow,langgraph,dbos] [sqlite] [postgresql] [URL]

Passive, in one thread: a flow is submitted and resumed, and parks; it is
answered and resumed, and ends. Prints one JSON line a workload:

``park``
    flows a second submitted and run until they wait.
``finish``
    flows a second answered and run to their end.
``alone``
    milliseconds from the answer to the end of one flow, the median.

With each come the SQL statements and the commits of one flow, where they can be
counted, and the milliseconds of processor time that the subject's process takes a
flow. Each subject has a store of its own, and they take turns. With
``--workers 1,2``, lazy_engine does the same in so many processes at once, all
on one store; DBOS, which would not know from which of two processes a workflow
comes, is not asked to.

TaskFlow alone cannot wait: its serial engine is suspended by a listener after
the task that asks, and is loaded again with the answer injected. LangGraph is
interrupted and given a command. DBOS runs all workflows at once, in threads
that wait for a message. Only the ratio means something on another machine.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from typing import Any

from harness import line, store, subject

_UNITS = {"park": "flows/s", "finish": "flows/s", "alone": "ms"}


def _measure(workers: Sequence[subject.Subject], flows: int, taken: line.Taken, key: Any) -> None:
    """Park and finish so many flows with each of the workers, all at the same time."""
    for what, arguments in (("park", {"count": flows}), ("finish", {})):
        for worker in workers:
            worker.begin(what, **arguments)
        seconds = [float(worker.end()) for worker in workers]
        spent = sum(worker.processor_seconds for worker in workers)
        taken.add((key, what, "processor"), spent / flows / len(workers) * 1e3)
        taken.add((key, what), sum(flows / each for each in seconds))
    if len(workers) == 1:
        few = max(1, flows // 5)
        workers[0].do("park", count=few)
        taken.add((key, "alone"), *(each * 1000 for each in workers[0].do("alone", count=few)))


def _compare(kind: str, arguments: Any) -> None:
    names = subject.chosen(arguments.subjects, kind, left_out=())
    with store.opened(kind) as make_url, subject.crew(names, make_url) as crew:
        for each in crew.values():
            each.do("park", count=1)  # what is done once
            each.do("finish")
        taken = line.Taken()
        for _ in range(arguments.rounds):
            for name, each in crew.items():
                _measure([each], arguments.flows, taken, name)
        # At the end: to SQLAlchemy, and to what goes past it where nobody listens, a
        # process in which somebody has listened once is never the same again.
        counts = {name: each.do("count") for name, each in crew.items() if name in subject.AT_HOME}
        for name, workload, *processor in taken:
            if processor:
                continue
            own = taken.of((line.OWN, workload))
            median, unit = taken.median((name, workload)), _UNITS[workload]
            line.emit(
                "park",
                store=kind,
                workload=workload,
                **line.figure(taken.of((name, workload)), unit),
                **(line.beside(taken.median((line.OWN, workload)), median, unit) if own else {}),
                flows=arguments.flows,
                **_processor(taken, name, workload),
                **counts.get(name, {}).get(workload, {}),
                **crew[name].facts,
            )


def _processor(taken: line.Taken, key: Any, workload: str) -> dict[str, float]:
    """Return the field that tells what a flow takes of a processor, in milliseconds: other work does not change it."""
    figures = taken.of((key, workload, "processor"))
    return {"processor_ms": line.shorten(statistics.median(figures))} if figures else {}


def _crowd(kind: str, sizes: list[int], arguments: Any) -> None:
    """Have so many processes work on one store."""
    with store.opened(kind) as make_url, contextlib.ExitStack() as stack:
        url = make_url()
        workers = [
            stack.enter_context(contextlib.closing(subject.Subject(line.OWN, url)))
            for _ in range(max(sizes))
        ]
        for worker in workers:
            worker.do("park", count=5)
            worker.do("finish")
        taken = line.Taken()
        for _ in range(arguments.rounds):
            for size in sizes:
                _measure(workers[:size], arguments.flows, taken, size)
        for size, workload, *processor in taken:
            if workload != "alone" and not processor:
                line.emit(
                    "park",
                    store=kind,
                    workload=workload,
                    workers=size,
                    **line.figure(taken.of((size, workload)), "flows/s"),
                    to_one=line.shorten(
                        taken.median((size, workload)) / taken.median((sizes[0], workload))
                    ),
                    flows=arguments.flows,
                    **_processor(taken, size, workload),
                    **workers[0].facts,
                )


def main() -> None:
    parser = line.parser(__doc__, "sqlite")
    parser.add_argument("--flows", type=int, default=100)
    parser.add_argument("--workers", help="processes of lazy_engine at once, such as 1,2")
    arguments = parser.parse_args()
    line.machine()
    for kind in arguments.stores:
        _compare(kind, arguments)
        if arguments.workers:
            _crowd(kind, [int(size) for size in arguments.workers.split(",")], arguments)


if __name__ == "__main__":
    main()
