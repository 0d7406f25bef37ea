# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's run statistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from taskflow import states

_TIMED: Final = (states.ANALYZING, states.RESUMING, states.SCHEDULING, states.WAITING)


class Counted(Protocol):
    """What is counted at the end of a state."""

    next_up: set[Any]
    not_done: set[Any]


class Stopwatches:
    """Gathers TaskFlow's run statistics."""

    def __init__(self, statistics: dict[str, Any], memory: Counted) -> None:
        self._statistics = statistics
        self._memory = memory
        self._seconds = {state.lower(): 0.0 for state in _TIMED}
        self._keys = {state: state.lower() for state in _TIMED}
        self._entered_at = 0.0
        statistics.update(
            seconds_per_state=self._seconds,
            discarded_failures=0,
            awaiting=0,
            completed=0,
            incomplete=0,
        )

    def hooks(self) -> dict[str, Callable[[str, str], None]]:
        """Return what the automaton calls on entering and leaving a state."""
        return {"on_enter": self._enter, "on_exit": self._leave}

    def _enter(self, state: str, _event: str) -> None:
        self._entered_at = time.monotonic()

    def _leave(self, state: str, _event: str) -> None:
        if state in self._keys:
            self._seconds[self._keys[state]] += time.monotonic() - self._entered_at
        if state in (states.SCHEDULING, states.WAITING):
            self._statistics["incomplete"] = len(self._memory.not_done)
        if state in (states.ANALYZING, states.SCHEDULING):
            self._statistics["awaiting"] = len(self._memory.next_up)
