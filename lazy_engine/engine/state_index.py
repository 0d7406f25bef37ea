# SPDX-License-Identifier: Apache-2.0
"""The atoms of a flow by their states: what a wake looks for is few among many."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator

from taskflow.persistence import models


class StateIndex:
    """Names of atoms by state, in the order in which they came into it."""

    def __init__(self, details: Iterable[models.AtomDetail]) -> None:
        self._names: dict[str, dict[str, None]] = collections.defaultdict(dict)
        self._states: dict[str, str] = {}
        for detail in details:
            self._names[detail.state][detail.name] = None
            self._states[detail.name] = detail.state

    def put(self, name: str, state: str) -> None:
        """Note an atom's state."""
        before = self._states.get(name)
        if before is not None:
            self._names[before].pop(name, None)
        self._names[state][name] = None
        self._states[name] = state

    def knows(self, name: str) -> bool:
        """Whether the atom's state was ever noted."""
        return name in self._states

    def within(self, states: Iterable[str]) -> list[str]:
        """Return the names of the atoms in certain states."""
        return [name for state in states for name in self._names.get(state, ())]

    def outside(self, states: Collection[str]) -> Iterator[str]:
        """Yield the names of the atoms in any other state."""
        for state, names in self._names.items():
            if state not in states:
                yield from names
