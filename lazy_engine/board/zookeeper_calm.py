# SPDX-License-Identifier: Apache-2.0
"""For how long a change of a ZooKeeper board is most likely known already: a claim, and its end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

#: Longer than jobs take here of late, but within these.
SHORTEST_SECONDS: Final = 0.025
LONGEST_SECONDS: Final = 0.1
_FACTOR: Final = 2.5


class Calm:
    """The claims that are made on a board here, and until when they explain what changes on it.

    It has no lock: whoever has it guards it.

    :ivar until: when a change is looked at again, of :func:`time.monotonic`.
    """

    def __init__(self) -> None:
        self.until = 0.0
        #: When the claims at work were made, by the names of their jobs.
        self._made_at: dict[str, float] = {}
        self._usual_seconds = 0.0

    @property
    def _seconds(self) -> float:
        return min(LONGEST_SECONDS, max(SHORTEST_SECONDS, _FACTOR * self._usual_seconds))

    def has_claimed(self, name: str) -> bool:
        """Whether a job is claimed here, or is about to be."""
        return name in self._made_at

    def begin(self, name: str) -> None:
        """Note a claim that is about to be made here, and will change the board."""
        now = time.monotonic()
        self._made_at[name] = now
        self.until = now + self._seconds

    def expect(self, now: float) -> None:
        """Note a job that somebody else is about to claim."""
        self.until = max(self.until, now + self._seconds)

    def end(self, name: str) -> None:
        """Note that a claim is given up, or was not made, before that changes the board."""
        made_at = self._made_at.pop(name, None)
        if made_at is not None:
            took = time.monotonic() - made_at
            usual_seconds = self._usual_seconds or took
            self._usual_seconds = usual_seconds + (took - usual_seconds) / 8
        if not self._made_at:
            self.until = 0.0

    def forget_others(self, there: Iterable[str]) -> None:
        """Forget the claims of jobs that are gone."""
        for name in self._made_at.keys() - set(there):
            del self._made_at[name]

    def forget_all(self) -> None:
        """Forget all claims: they went with the session."""
        self._made_at.clear()
