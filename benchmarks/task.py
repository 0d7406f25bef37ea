# SPDX-License-Identifier: Apache-2.0
"""What a task costs, beside TaskFlow's own serial engine, LangGraph and DBOS.

    python benchmarks/task.py [--tasks 100,1000] [--shapes row] [--rounds 3]
        [--subjects lazy_engine,taskflow,langgraph,dbos] [memory] [sqlite] [postgresql] [URL]

Runs flows of so many tasks that do nothing, in a row or side by side, with the
subjects in turn. A result is durable before the next task in a row begins, but
in memory. Prints one JSON line a workload:

``row``, ``side``
    microseconds a task to run; also as steps a second, and with the microseconds of processor
    time that the subject's process took to run it, which other work leaves alone.
``prepare row``, ``prepare side``
    microseconds a task to compile, prepare and validate.
``reload row``, ``reload side``
    microseconds a task to read a stored flow, and to compile, prepare and validate it.

Only what stands beside it means something on another machine. TaskFlow's engine
takes hours for ten thousand in a row: it is left out above ``--host-most``
tasks, and in other stores than memory where a flow would take minutes.
"""

from __future__ import annotations

import statistics
from typing import Any

from harness import line, store, subject

_PER_TASK = "microseconds a task"


def _round(each: subject.Subject, shape: str, count: int, has_store: bool) -> dict[str, float]:
    """Return the seconds that each workload took."""
    took: dict[str, float] = each.do("row", count=count, shape=shape)
    figures = {shape: took["run"], "processor": took["processor"]}
    if each.name in subject.AT_HOME:
        figures[f"prepare {shape}"] = took["prepare"]
        if has_store:
            figures[f"reload {shape}"] = each.do("reload", count=count, shape=shape)
    return figures


def _is_for(name: str, shape: str, count: int, arguments: Any) -> bool:
    if name == "taskflow":
        return count <= arguments.host_most
    return name == "lazy_engine" or (shape == "row" and count <= arguments.peer_most)


def _compare(kind: str, arguments: Any) -> None:
    names = subject.chosen(arguments.subjects, kind)
    with store.opened(kind) as make_url, subject.crew(names, make_url) as crew:
        for each in crew.values():
            each.do("row", count=3)  # what is done once
        for shape in arguments.shapes.split(","):
            for count in map(int, arguments.tasks.split(",")):
                at_work = [
                    each for each in crew.values() if _is_for(each.name, shape, count, arguments)
                ]
                taken = line.Taken()
                for _ in range(arguments.rounds):
                    for each in at_work:
                        took = _round(each, shape, count, kind != "memory")
                        for workload, seconds in took.items():
                            taken.add((each.name, workload), seconds / count * 1e6)
                _print(kind, count, {each.name: each for each in at_work}, taken)


def _print(kind: str, count: int, crew: dict[str, subject.Subject], taken: line.Taken) -> None:
    for name, workload in taken:
        if workload == "processor":
            continue
        processor = taken.of((name, "processor")) if workload in ("row", "side") else ()
        figures = taken.of((name, workload))
        own = taken.of((line.OWN, workload))
        median = taken.median((name, workload))
        line.emit(
            "task",
            store=kind,
            workload=workload,
            tasks=count,
            **line.figure(figures, _PER_TASK),
            **({"processor": line.shorten(statistics.median(processor))} if processor else {}),
            per_second=line.shorten(1e6 / median),
            **(line.beside(taken.median((line.OWN, workload)), median, _PER_TASK) if own else {}),
            **crew[name].facts,
        )


def main() -> None:
    parser = line.parser(__doc__, "memory sqlite")
    parser.add_argument("--tasks", default="100,1000")
    parser.add_argument("--shapes", default="row")
    parser.add_argument(
        "--host-most", type=int, default=1000, help="tasks of a flow of TaskFlow's engine"
    )
    parser.add_argument(
        "--peer-most", type=int, default=1000, help="tasks of a flow of LangGraph and DBOS"
    )
    arguments = parser.parse_args()
    line.machine()
    for kind in arguments.stores:
        _compare(kind, arguments)


if __name__ == "__main__":
    main()
