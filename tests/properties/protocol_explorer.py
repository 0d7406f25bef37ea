# SPDX-License-Identifier: Apache-2.0
"""Goes through every interleaving of a scenario, breadth first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tests.properties.protocol_model import Model
from tests.properties.protocol_state import Scenario, System, Violation


@dataclasses.dataclass
class Explored:
    """What an exploration has seen; ``rests`` are states in which nothing is due."""

    states: int
    steps: int
    rests: int


def explore(scenario: Scenario, step_names: Callable[[str], None] | None = None) -> Explored:
    """Go through every interleaving of a scenario, breadth first.

    :raises Violation: with the shortest way there in its text.
    """
    model = Model(scenario)
    number_of: dict[System, int] = {scenario.start: 0}
    found = [scenario.start]
    came_from: list[tuple[int, str]] = [(-1, "")]
    backward: list[list[int]] = [[]]
    rests: list[int] = []
    count = 0
    for number, system in enumerate(found):  # grows meanwhile
        is_at_rest = True
        try:
            for label, is_due, after in model.steps(system):
                count += 1
                if step_names is not None:
                    step_names(label)
                is_at_rest = is_at_rest and not is_due
                known = number_of.get(after)
                if known is None:
                    known = number_of[after] = len(found)
                    found.append(after)
                    came_from.append((number, label))
                    backward.append([])
                if is_due:
                    backward[known].append(number)
            if is_at_rest:
                rests.append(number)
                model.check_rest(system)
        except Violation as violation:
            raise _with_way(violation, came_from, number) from None
    _check_that_rest_comes(found, came_from, backward, rests)
    return Explored(len(found), count, len(rests))


def _with_way(violation: Violation, came_from: list[tuple[int, str]], number: int) -> Violation:
    way: list[str] = []
    while number > 0:
        number, label = came_from[number]
        way.append(label)
    text = "; ".join(reversed(way))
    return Violation(violation.invariant, f"{violation} | after: {text}")


def _check_that_rest_comes(
    found: list[System],
    came_from: list[tuple[int, str]],
    backward: list[list[int]],
    rests: list[int],
) -> None:
    reached = bytearray(len(found))
    pending = list(rests)
    for number in rests:
        reached[number] = 1
    while pending:
        for before in backward[pending.pop()]:
            if not reached[before]:
                reached[before] = 1
                pending.append(before)
    lost = reached.find(0)
    if lost >= 0:
        raise _with_way(Violation("I3", "this never comes to rest"), came_from, lost)
