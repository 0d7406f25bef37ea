# SPDX-License-Identifier: Apache-2.0
"""Counting open delays by task and age; pure."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from lazy_engine.ledger import record as r


class Count:
    """Adds up open delays.

    :param ages_seconds: where one age class ends and the next begins, rising.
    """

    def __init__(self, ages_seconds: Sequence[float]) -> None:
        self._ages_seconds = ages_seconds
        self._numbers: dict[str | None, list[int]] = {}
        self._oldest_at: dict[str | None, int] = {}

    def age_class(self, opened_at: int, now: int) -> int:
        """Return which class a delay is in."""
        return bisect.bisect_right(self._ages_seconds, (now - opened_at) / 1e6)

    def add(self, task_name: str | None, age: int, number: int, oldest_at: int) -> None:
        """Add delays of one task and one age class."""
        classes = len(self._ages_seconds) + 1
        self._numbers.setdefault(task_name, [0] * classes)[age] += number
        known_at = self._oldest_at.get(task_name, oldest_at)
        self._oldest_at[task_name] = min(known_at, oldest_at)

    def read(self, most_tasks: int | None = None) -> list[r.OpenCount]:
        """Return the counts by task, the largest first and the others' last.

        :param most_tasks: how many have a count of their own; the rest are the others.
        """
        names = sorted(
            (name for name in self._numbers if name is not None),
            key=lambda name: (-sum(self._numbers[name]), name),
        )
        for name in names[most_tasks:] if most_tasks is not None else ():
            for age, number in enumerate(self._numbers.pop(name)):
                self.add(None, age, number, self._oldest_at[name])
        kept = names[:most_tasks]
        ordered: list[str | None] = [*kept, *([None] if None in self._numbers else [])]
        return [
            r.OpenCount(
                task_name=name,
                by_age=tuple(self._numbers[name]),
                oldest_at=self._oldest_at[name],
            )
            for name in ordered
        ]
