# SPDX-License-Identifier: Apache-2.0
"""Write what benchmarks have printed into the documentation: tables, and plots beside them.

    python benchmarks/report.py LINES... [--into doc/explanation]

Reads files of JSON lines, of one run or several, and writes ``measured.rst`` and
``measured/*.svg`` there. Where two runs tell the same figure, the later file
counts. Plots need matplotlib (``pip install lazy_engine[bench]``).
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from harness import line
from harness.aims import AIMS

Line = dict[str, Any]

#: What tells apart two figures of one workload, besides who was measured.
_SIZES = ("tasks", "waits", "parked", "due", "workers", "conductors", "flows")
#: Sizes that say how long was measured, and not what.
_EFFORTS = ("flows",)
_PEERS = ("lazy_engine_kept", "taskflow", "langgraph", "dbos")
_TITLES = {
    "task": "Tasks",
    "park": "Park and wake",
    "fan-out": "Joins of many waits",
    "flat": "Among many that wait",
    "footprint": "What a parked flow of three tasks holds",
    "time": "Deadlines",
    "http": "Over HTTP",
    "conductor": "Conductors",
    "floor": "What the parts cost that a park and a cold wake cannot do without",
}

HEAD = """\
Measured
========

What the programs in ``benchmarks/`` print, set beside TaskFlow's own engine, LangGraph and
DBOS in the same run, in turns. This page is written by ``benchmarks/report.py``; ``make bench``
measures on your machine. Only ratios mean something on another one. A ratio tells how many times
better lazy_engine did: above 1 it was faster or smaller. Figures are medians. *Of a processor*
is what the subject's own process took, for a task in microseconds and for a flow; the rest of
the time it waited for the disk, for a server, or for other work on the machine.
:doc:`fast` says where the time goes.
"""


def read(paths: Iterable[pathlib.Path]) -> list[Line]:
    """Return the lines of these files; later ones replace earlier ones that tell the same."""
    lines: dict[Any, Line] = {}
    for path in paths:
        for text in path.read_text(encoding="utf-8").splitlines():
            if text.startswith("{"):
                each = json.loads(text)
                lines[each.get("subject"), each.get("part"), each.get("at"), *_place(each)] = each
    return list(lines.values())


def _place(each: Line) -> tuple[Any, ...]:
    """Return what is the same for all subjects of one comparison."""
    sizes = [each.get(size) for size in _SIZES if size not in _EFFORTS]
    return (each.get("benchmark"), each.get("store"), each.get("workload"), *sizes)


# -- tables ----------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    out = [".. list-table::", "   :header-rows: 1", ""]
    for row in (header, *rows):
        for number, cell in enumerate(row):
            out.append(f"   {'*' if number == 0 else ' '} - {cell}".rstrip())
    return "\n".join(out) + "\n"


def render(lines: Sequence[Line], plots: Sequence[str]) -> str:
    """Return the page."""
    parts = [HEAD, _aims(lines)]
    parts += [f".. image:: measured/{plot}\n" for plot in plots]
    known = [
        each
        for each in lines
        if "benchmark" in each and _figure(each) and each.get("workload") != "part"
    ]
    for benchmark in sorted({each.get("benchmark", "") for each in known}, key=_rank):
        title = _TITLES.get(benchmark, benchmark)
        chosen = [each for each in known if each.get("benchmark") == benchmark]
        parts.append(f"{title}\n{'-' * len(title)}\n\n``benchmarks/``: ``{benchmark}``\n")
        parts.append(_comparison(chosen))
    parts += [_space(lines), _circumstances(lines)]
    return "\n".join(part for part in parts if part)


def _rank(benchmark: str) -> int:
    names = list(_TITLES)
    return names.index(benchmark) if benchmark in names else len(names)


def _aims(lines: Sequence[Line]) -> str:
    rows = []
    for aim in AIMS:
        found = aim.find(lines)
        if found is not None:
            rows.append([aim.what, str(aim), f"{found:.4g}", "yes" if aim.is_met(found) else "no"])
    if not rows:
        return ""
    return "Aims\n----\n\n" + table(["What", "Aim", "Measured", "Met"], rows)


def _comparison(lines: Sequence[Line]) -> str:
    """Return one row for each workload: the ratios first, then the figures."""
    by_place: dict[Any, dict[str, Line]] = {}
    for each in lines:
        by_place.setdefault(_place(each), {})[str(each.get("subject"))] = each
    peers = [name for name in _PEERS if any(name in found for found in by_place.values())]
    rows = []
    for found in by_place.values():
        for name, each in found.items():
            if name in peers and (line.OWN in found or name != next(iter(found))):
                continue
            row = [_what(each) + ("" if name == line.OWN else f" ({name})")]
            if name == line.OWN:
                row += [_ratio(found.get(peer)) for peer in peers]
                row += [_figure(each)] + [_figure(found.get(peer)) for peer in peers]
            else:
                row += [""] * len(peers) + [_figure(each)] + [""] * len(peers)
            rows.append(row)
    header = ["What", *(f"× {peer}" for peer in peers), line.OWN, *peers]
    return table(header, rows)


def _what(each: Line) -> str:
    sizes = [f"{each[size]:,} {size}" for size in _SIZES if each.get(size) and size not in _EFFORTS]
    return ", ".join(
        str(part) for part in (each.get("store"), each.get("workload"), *sizes) if part
    )


def _ratio(each: Line | None) -> str:
    return f"**{each['ratio']:.3g}**" if each and "ratio" in each else ""


def _figure(each: Line | None) -> str:
    if each is None:
        return ""
    for name in ("median", "rate", "ratio", "slope"):
        if name in each:
            rest = f" ({each['to_few']:.3g} × few)" if "to_few" in each else ""
            rest += f" ({each['to_one']:.3g} × one)" if "to_one" in each else ""
            rest += f"; {each['processor']:,} of a processor" if "processor" in each else ""
            rest += (
                f"; {each['processor_ms']:,} ms of a processor" if "processor_ms" in each else ""
            )
            return f"{each[name]:,} {each.get('unit', '')}".rstrip() + rest
    return ""


def _space(lines: Sequence[Line]) -> str:
    """Return what takes the space of a parked flow."""
    parts = [
        each for each in lines if each.get("workload") == "part" and each["subject"] == line.OWN
    ]
    if not parts:
        return ""
    title = "Where a parked flow's bytes are"
    rows = [
        [each["store"], f"``{each['part']}``", f"{each['median']:,.0f}"]
        for each in sorted(parts, key=lambda each: (each["store"], -each["median"]))
    ]
    return f"{title}\n{'-' * len(title)}\n\n" + table(["Store", "Table or index", "Bytes"], rows)


def _circumstances(lines: Sequence[Line]) -> str:
    machines = [each for each in lines if each.get("benchmark") == "machine"]
    rows = {
        (each["subject"], each["store"], each.get("durability", "")): ", ".join(
            f"{name} {version}" for name, version in each["versions"].items()
        )
        for each in lines
        if each.get("versions")
    }
    out = "Circumstances\n-------------\n\n"
    if machines:
        last = machines[-1]
        syncs = sorted(each["sync_ms"] for each in machines)
        loads = sorted(each["load"] for each in machines)
        out += (
            f"{last['cores']} cores ({last['cpu']}), {last['memory_gib']} GiB, {last['system']}, "
            f"Python {last['python']}, {machines[0]['at']} to {last['at']}. A write of 4 KiB was on "
            f"disk after {syncs[0]:.2g} to {syncs[-1]:.2g} ms. The load was {loads[0]:.2g} to "
            f"{loads[-1]:.2g} when the runs began; that much other work shared the cores. Servers "
            "were on the same machine.\n\n"
        )
    listed = [[who, store, how, versions] for (who, store, how), versions in sorted(rows.items())]
    return out + table(["Subject", "Store", "A commit", "Versions"], listed)


# -- plots -----------------------------------------------------------------------


def series(
    lines: Sequence[Line], benchmark: str, workloads: Sequence[str], size: str
) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each curve, by its label: size and median, in order."""
    found: dict[str, list[tuple[float, float]]] = {}
    for each in lines:
        if (
            each.get("benchmark") == benchmark
            and each.get("workload") in workloads
            and each.get(size)
            and "median" in each
        ):
            label = ", ".join(
                str(each[name]) for name in ("subject", "store", "workload") if each.get(name)
            )
            found.setdefault(label, []).append((each[size], each["median"]))
    return {label: sorted(points) for label, points in found.items() if len(points) > 1}


#: File, benchmark, workloads, size, and what the axes say.
_PLOTS = (
    ("tasks.svg", "task", ("row",), "tasks", "tasks in a row", "microseconds a task"),
    ("side.svg", "task", ("side",), "tasks", "tasks side by side", "microseconds a task"),
    ("parked.svg", "flat", ("alone",), "parked", "flows parked", "milliseconds a wake"),
    ("conductors.svg", "conductor", ("jobs", "wakes"), "conductors", "conductors", "a second"),
)


#: Figures that lie further apart than this are drawn on a logarithmic axis; all others from 0.
_FAR = 20


def draw(lines: Sequence[Line], into: pathlib.Path) -> list[str]:
    """Draw what there is to draw; return the names of the files."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures make the same file.
    matplotlib.rcParams["svg.hashsalt"] = "lazy_engine"
    from matplotlib import pyplot

    into.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, benchmark, workloads, size, below, beside in _PLOTS:
        curves = series(lines, benchmark, workloads, size)
        if not curves:
            continue
        canvas, axes = pyplot.subplots(figsize=(7, 4))
        for label, points in curves.items():
            style = "-" if label.startswith(line.OWN) else "--"
            axes.plot(*zip(*points, strict=True), marker="o", linestyle=style, label=label)
        axes.set_xlabel(below)
        axes.set_ylabel(beside)
        if size != "conductors":
            axes.set_xscale("log")
        figures = [figure for points in curves.values() for _, figure in points]
        if max(figures) > _FAR * min(figures):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        canvas.tight_layout()
        canvas.savefig(into / name, metadata={"Date": None})
        pyplot.close(canvas)
        drawn.append(name)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lines", nargs="+", type=pathlib.Path)
    parser.add_argument("--into", type=pathlib.Path, default=pathlib.Path("doc/explanation"))
    parser.add_argument("--no-plots", action="store_true", help="the tables alone")
    arguments = parser.parse_args()
    lines = read(arguments.lines)
    plots = [] if arguments.no_plots else draw(lines, arguments.into / "measured")
    arguments.into.joinpath("measured.rst").write_text(
        ".. SPDX-License-Identifier: Apache-2.0\n\n" + render(lines, plots), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
