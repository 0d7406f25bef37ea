# SPDX-License-Identifier: Apache-2.0
"""What is to be reached, and how to read from the lines whether it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aim:
    """A bound for a field of one line, or for what it is divided by the same field of another one.

    :ivar where: fields that the line has.
    :ivar by: fields in which the other line differs from it; none for the figure itself.
    """

    what: str
    where: Mapping[str, Any]
    bound: float
    is_least: bool
    field: str = "median"
    by: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unit: str = "×"

    def __str__(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {self.bound:,g} {self.unit}"

    def find(self, lines: Sequence[Line]) -> float | None:
        """Return the figure, if it was measured."""
        own = _find(lines, self.where, self.field)
        if own is None or not self.by:
            return own
        other = _find(lines, {**self.where, **self.by}, self.field)
        return own / other if other else None

    def is_met(self, figure: float) -> bool:
        return figure >= self.bound if self.is_least else figure <= self.bound


def _find(lines: Sequence[Line], where: Mapping[str, Any], field: str) -> float | None:
    for each in lines:
        if field in each and all(each.get(name) == value for name, value in where.items()):
            return float(each[field])
    return None


def _tasks() -> list[Aim]:
    thousand = {"benchmark": "task", "workload": "row", "tasks": 1000}
    many = {"benchmark": "task", "subject": "lazy_engine", "tasks": 10_000}
    peers = [
        ("memory", "taskflow", 40),
        ("sqlite", "taskflow", 25),
        ("sqlite", "langgraph", 1500 / 1100),
        ("postgresql", "dbos", 1.5),
    ]
    beside = [
        Aim(
            what=f"1,000 tasks in a row in {store}, beside {peer}",
            where={**thousand, "subject": peer, "store": store},
            field="ratio",
            bound=round(bound, 2),
            is_least=True,
        )
        for store, peer, bound in peers
    ]
    rate = Aim(
        what="1,000 tasks in a row in sqlite",
        where={**thousand, "subject": "lazy_engine", "store": "sqlite"},
        field="per_second",
        bound=1500,
        is_least=True,
        unit="a second",
    )
    flat = [
        Aim(
            what=f"a task of 10,000 beside one of 100: {workload}, {store}",
            where={**many, "workload": workload, "store": store},
            by={"tasks": 100},
            bound=1.3,
            is_least=False,
        )
        for store in ("memory", "sqlite")
        for shape in ("row", "side")
        for workload in (shape, f"prepare {shape}", f"reload {shape}")
    ]
    return [*beside, rate, *flat]


def _parking() -> list[Aim]:
    aims = []
    for store in ("sqlite", "postgresql"):
        own = {"benchmark": "park", "subject": "lazy_engine", "store": store, "workers": None}
        for workload, bound, unit in (
            ("park", 600, "flows/s"),
            ("finish", 600, "flows/s"),
            ("alone", 3, "ms"),
        ):
            aims.append(
                Aim(
                    what=f"{workload}, {store}",
                    where={**own, "workload": workload},
                    bound=bound,
                    is_least=unit != "ms",
                    unit=unit,
                )
            )
    for workload in ("park", "finish"):
        aims.append(
            Aim(
                what=f"{workload} with two workers beside one, postgresql",
                where={
                    "benchmark": "park",
                    "store": "postgresql",
                    "workload": workload,
                    "workers": 2,
                },
                field="to_one",
                bound=1.5,
                is_least=True,
            )
        )
    return aims


def _rest() -> list[Aim]:
    aims = []
    for store in ("sqlite", "postgresql"):
        fan = {"benchmark": "fan-out", "subject": "lazy_engine", "store": store}
        for way, bound in (("batch", 250), ("single", 600)):
            where = {**fan, "workload": way}
            aims += [
                Aim(
                    what=f"500 waits joined, {way}, {store}",
                    where={**where, "waits": 500},
                    bound=bound,
                    is_least=False,
                    unit="ms",
                ),
                Aim(
                    what=f"5,000 waits beside 500, {way}, {store}",
                    where={**where, "waits": 5000},
                    by={"waits": 500},
                    bound=12,
                    is_least=False,
                ),
            ]
    for store, parked in (("sqlite", 200_000), ("postgresql", 1_000_000)):
        where = {"benchmark": "flat", "store": store, "parked": parked, "workload": "alone"}
        aims.append(
            Aim(
                what=f"a wake among {parked:,} open delays beside one among 100, {store}",
                where=where,
                field="to_few",
                bound=1.2,
                is_least=False,
            )
        )
    for store in ("sqlite", "postgresql"):
        own = {"benchmark": "footprint", "subject": "lazy_engine", "store": store}
        aims.append(
            Aim(
                what=f"a parked flow of three tasks, {store}",
                where={**own, "workload": "disk"},
                bound=4096,
                is_least=False,
                unit="bytes",
            )
        )
    return aims


AIMS: Sequence[Aim] = (*_tasks(), *_parking(), *_rest())
