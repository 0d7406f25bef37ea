# SPDX-License-Identifier: Apache-2.0
"""From which atoms another atom's arguments may come.

TaskFlow gathers, for each atom, all atoms before it, and then looks through
them scope by scope: a thousand tasks in a row that hand a value on to each
other cost half a million looks to validate, and as many to run. Here it is
asked the other way round: of the few atoms that provide a wanted name, which
are before this one, and in which scope (taskflow 6.5, ``action_engine/scopes.py``)?

Let the atoms be numbered as they stand in the flow. What an atom may see are
atoms with a lower number, the nearest first, and only those that are sure to
have run before it. Its scopes are the flows around it, from the inside out. In
each of them the other atom stands in one child and the asking one in a later
one; so only whether the one child comes before the other in that flow need be
known, and its retry controller comes before all.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lazy_engine import host


class _Flow:
    """A flow: its children in their order, and which of them come before which.

    A child is known by its place in that order. The retry controller is the first.

    :ivar around: the flow around it, or ``None``.
    :ivar place: its own place in that one.
    :ivar starts: for each child, the number of its first atom, or of the next
        one after it if it has none.
    """

    __slots__ = (
        "_before",
        "_first",
        "_is_loose",
        "_is_ordered",
        "_is_row",
        "around",
        "place",
        "starts",
    )

    def __init__(self, around: _Flow | None, place: int, *, has_retry: bool) -> None:
        self.around = around
        self.place = place
        self.starts: list[int] = []
        self._before: list[list[int]] = []
        self._first = 1 if has_retry else 0
        self._is_loose = True
        self._is_row = True
        self._is_ordered = True

    def grow(self, start: int, before: list[int]) -> None:
        """Add a child; *before* are those which are linked to it."""
        place = len(self.starts)
        self.starts.append(start)
        self._before.append(before)
        self._is_loose &= all(other < self._first for other in before)
        self._is_row &= place <= self._first or place - 1 in before
        self._is_ordered &= all(other < place for other in before)

    def visible(self, numbers: Sequence[int], low: int, high: int, place: int) -> Iterable[int]:
        """Return which of some atoms in this flow come before a child, the nearest first.

        :param numbers: of atoms, rising; those from *low* up to *high* are meant.
        """
        if self._is_row:
            return (numbers[index] for index in range(high - 1, low - 1, -1))
        if self._is_loose:
            return numbers[low : low + 1] if numbers[low] < self.starts[self._first] else ()
        return self._search(numbers[low:high], place)

    def _search(self, numbers: Sequence[int], place: int) -> Iterable[int]:
        homes = {number: bisect.bisect_right(self.starts, number) - 1 for number in numbers}
        left = set(homes.values())
        found = {child for child in left if child < self._first}
        left -= found
        lowest = min(left, default=0) if self._is_ordered else 0
        todo, seen = list(self._before[place]), {place}
        while todo and left:
            child = todo.pop()
            if child in seen or child < lowest:
                continue
            seen.add(child)
            if child in left:
                found.add(child)
                left.discard(child)
            todo.extend(self._before[child])
        return [number for number in reversed(numbers) if homes[number] in found]


class Scopes:
    """Where the atoms of a compiled flow stand, and what they see from there."""

    def __init__(self, compilation: Any) -> None:
        self._graph = compilation.execution_graph
        self._count = 0
        self._seats: dict[str, tuple[int, _Flow | None, int]] = {}
        self._walk(compilation.hierarchy, None, 0)

    def _walk(self, node: Any, around: _Flow | None, place: int) -> None:
        if node.metadata["kind"] in host.ATOMS:
            self._seats[node.item.name] = (self._count, around, place)
            self._count += 1
            return
        flow = _Flow(around, place, has_retry=node.item.retry is not None)
        places = {child.item: number for number, child in enumerate(node)}
        for child_place, child in enumerate(node):
            starts = map(host.item_of, self._graph.pred[child.item])
            flow.grow(self._count, [places[start] for start in starts if start in places])
            self._walk(child, flow, child_place)

    def knows(self, atom_name: str) -> bool:
        """Whether the flow has an atom of that name."""
        return atom_name in self._seats

    def number(self, atom_name: str) -> int:
        """Return an atom's number: how many stand before it in the flow."""
        return self._seats[atom_name][0]

    def visible(self, atom_name: str, numbers: Sequence[int]) -> Iterator[Iterable[int]]:
        """Yield, scope by scope, which of some atoms an atom may take arguments from.

        From the inside out, and in each scope the nearest first.

        :param numbers: of the other atoms, rising.
        """
        number, flow, place = self._seats[atom_name]
        high = bisect.bisect_left(numbers, number)
        while high and flow is not None:
            low = bisect.bisect_left(numbers, flow.starts[0], 0, high)
            if low < high:
                yield flow.visible(numbers, low, high, place)
            high, place, flow = low, flow.place, flow.around
