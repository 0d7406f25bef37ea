# SPDX-License-Identifier: Apache-2.0
"""The lines that benchmarks print: one JSON object a figure, and one for the machine."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

#: The subject that all others stand beside.
OWN = "lazy_engine"
#: Units of which more is better.
RATES = ("flows/s", "steps/s", "deliveries/s")

_SYNCS = 30


class Taken:
    """What the rounds of some subjects took, under any key, in the order in which it came."""

    def __init__(self) -> None:
        self._taken: dict[Any, list[float]] = {}

    def add(self, key: Any, *figures: float) -> None:
        self._taken.setdefault(key, []).extend(figures)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._taken)

    def of(self, key: Any) -> Sequence[float]:
        return self._taken.get(key, ())

    def median(self, key: Any) -> float:
        return statistics.median(self._taken[key])


def emit(benchmark: str, **fields: Any) -> None:
    """Print a line."""
    print(json.dumps({"benchmark": benchmark, **fields}), flush=True)


def figure(figures: Sequence[float], unit: str) -> dict[str, Any]:
    """Return the fields that tell a figure: its median, and how far the rounds lay apart."""
    return {
        "unit": unit,
        "median": shorten(statistics.median(figures)),
        "range": [shorten(min(figures)), shorten(max(figures))],
        "rounds": len(figures),
    }


def beside(own: float, other: float, unit: str) -> dict[str, float]:
    """Return the field that tells how many times better lazy_engine did than another subject."""
    if not own or not other:
        return {}
    return {"ratio": shorten(own / other if unit in RATES else other / own)}


def shorten(number: float) -> float:
    """Round to four digits that count."""
    return float(f"{number:.4g}")


def machine() -> None:
    """Print what this machine is: no figure means anything without it."""
    emit(
        "machine",
        cpu=_cpu(),
        cores=os.cpu_count(),
        memory_gib=_memory_gib(),
        system=platform.platform(terse=True),
        python=platform.python_version(),
        sync_ms=shorten(_sync_ms()),
        load=shorten(os.getloadavg()[0]),
        at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def _cpu() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _sync_ms() -> float:
    """Return how long the disk under temporary files takes to have a page lastingly."""
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def parser(description: str | None, stores: str, *, rounds: int = 3) -> argparse.ArgumentParser:
    """Return a parser of the arguments that all benchmarks take."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("stores", nargs="*", default=stores.split(), help=f"default: {stores}")
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument(
        "--subjects", type=lambda text: text.split(","), help="default: those that are installed"
    )
    return made
