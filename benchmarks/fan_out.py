# SPDX-License-Identifier: Apache-2.0
"""What a join of many waits costs, from the first answer to the end of the flow.

    python benchmarks/fan_out.py [--waits 50,500] [--rounds 3]
        [--subjects lazy_engine,langgraph,dbos] [sqlite] [postgresql] [URL]

A flow waits for so many answers at once, all of which one task joins. Prints
one JSON line a workload, in milliseconds:

``batch``
    all answers are delivered at once.
``single``
    they are delivered one by one, and the flow goes on after the last.

LangGraph delivers an answer by running the graph, so that each of ``single``
looks at all waits: it is asked for at most 50. DBOS has no waits side by side:
its workflow receives as many messages one after the other, while they come.
"""

from __future__ import annotations

from typing import Any

from harness import line, store, subject

_MOST_SINGLE_OF_LANGGRAPH = 50


def _is_for(name: str, way: str, waits: int, arguments: Any) -> bool:
    if name == "langgraph" and way == "single":
        return waits <= _MOST_SINGLE_OF_LANGGRAPH
    return name == "lazy_engine" or waits <= arguments.peer_most


def _compare(kind: str, arguments: Any) -> None:
    names = [name for name in subject.chosen(arguments.subjects, kind) if name != "taskflow"]
    with store.opened(kind) as make_url, subject.crew(names, make_url) as crew:
        taken = line.Taken()
        sizes = [int(waits) for waits in arguments.waits.split(",")]
        for each in crew.values():
            each.do("fan_out", waits=2, way="batch")  # what is done once
        for _ in range(arguments.rounds):
            for waits in sizes:
                for way in ("batch", "single"):
                    for name, each in crew.items():
                        if _is_for(name, way, waits, arguments):
                            seconds = each.do("fan_out", waits=waits, way=way)
                            taken.add((waits, way, name), seconds * 1000)
        for key in taken:
            waits, way, name = key
            own = taken.of((waits, way, line.OWN))
            median = taken.median(key)
            line.emit(
                "fan-out",
                store=kind,
                workload=way,
                waits=waits,
                **line.figure(taken.of(key), "ms"),
                **(line.beside(taken.median((waits, way, line.OWN)), median, "ms") if own else {}),
                **crew[name].facts,
            )


def main() -> None:
    parser = line.parser(__doc__, "sqlite")
    parser.add_argument("--waits", default="50,500")
    parser.add_argument(
        "--peer-most", type=int, default=500, help="waits of a flow of other subjects"
    )
    arguments = parser.parse_args()
    line.machine()
    for kind in arguments.stores:
        _compare(kind, arguments)


if __name__ == "__main__":
    main()
