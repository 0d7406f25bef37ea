# SPDX-License-Identifier: Apache-2.0
"""What a parked flow of three tasks holds: bytes on disk, bytes of memory, processor time.

    python benchmarks/footprint.py [--flows 2000] [--parts]
        [--subjects lazy_engine,taskflow,langgraph,dbos] [sqlite] [postgresql] [URL]

Parks flows of one step, one wait and one step, half of them and then the other
half, and looks at what the second half added. Prints one JSON line a workload:

``disk``
    bytes a flow in tables and indexes: what the file has grown by after a
    checkpoint, or the tables' and indexes' sizes as the server tells them,
    with what updates have left behind.
``memory``
    bytes a flow that the process has grown by.
``idle``
    milliseconds of processor time a second, of the process while nothing comes, beside nothing.

With ``--parts`` comes a line for each table and index that takes space.
"""

from __future__ import annotations

from typing import Any

from harness import line, store, subject

_IDLE_SECONDS = 3.0


def _fill(each: subject.Subject, flows: int) -> dict[str, Any]:
    """Park twice half of the flows; return what they added a flow."""
    half = max(1, flows // 2)
    each.do("park", count=half, is_kept=False)
    before, held_before = store.sizes(each.url), each.do("held")
    each.do("park", count=half, is_kept=False)
    after, held = store.sizes(each.url), each.do("held")
    parts = {name: (after[name] - before.get(name, 0)) / half for name in after}
    return {
        "disk": parts.pop("total"),
        "memory": (held["bytes"] - held_before["bytes"]) / half,
        "threads": (held["threads"] - held_before["threads"]) / half,
        "idle": each.do("idle", seconds=_IDLE_SECONDS) / _IDLE_SECONDS * 1000,
        "parts": parts,
    }


def _compare(kind: str, arguments: Any) -> None:
    names = subject.chosen(arguments.subjects, kind)
    units = {"disk": "bytes a flow", "memory": "bytes a flow", "idle": "ms/s"}
    with store.opened(kind) as make_url, subject.crew(names, make_url) as crew:
        for name, each in crew.items():
            is_quick = name in (line.OWN, "langgraph")
            flows = arguments.flows if is_quick else min(arguments.flows, arguments.peer_most)
            added = _fill(each, flows)
            shared = {"store": kind, "flows": flows}
            for workload, unit in units.items():
                more = {"threads": line.shorten(added["threads"])} if workload == "memory" else {}
                line.emit(
                    "footprint",
                    workload=workload,
                    **line.figure([added[workload]], unit),
                    **more,
                    **shared,
                    **each.facts,
                )
            for part, size in sorted(added["parts"].items(), key=lambda item: -item[1]):
                if arguments.parts and size >= 1:
                    line.emit(
                        "footprint",
                        workload="part",
                        part=part,
                        **line.figure([size], units["disk"]),
                        **shared,
                        subject=name,
                    )


def main() -> None:
    parser = line.parser(__doc__, "sqlite")
    parser.add_argument("--flows", type=int, default=2000)
    parser.add_argument("--peer-most", type=int, default=400, help="flows of TaskFlow and DBOS")
    parser.add_argument("--parts", action="store_true", help="each table and index")
    arguments = parser.parse_args()
    line.machine()
    for kind in arguments.stores:
        _compare(kind, arguments)


if __name__ == "__main__":
    main()
