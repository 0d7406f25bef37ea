# SPDX-License-Identifier: Apache-2.0
"""Jobs that are left alone for a while, since running them just failed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

_FIRST_SECONDS: Final = 0.25
#: The longest pause of a job whose flow is busy, or whose store failed.
LAST_COOL_SECONDS: Final = 30.0
#: The same for a job that leads to no flow that could be run or found again.
LAST_KEEP_SECONDS: Final = 3600.0


class Cooling:
    """Which jobs are left alone, and how long; each pause of a job is twice the one before."""

    def __init__(self) -> None:
        self._pauses: dict[str, tuple[float, float]] = {}

    def add(self, job: Any, longest_seconds: float) -> None:
        """Leave a job alone for a while."""
        _until, seconds = self._pauses.get(job.uuid, (0.0, _FIRST_SECONDS / 2))
        seconds = min(longest_seconds, seconds * 2)
        self._pauses[job.uuid] = (time.monotonic() + seconds, seconds)

    def forget(self, uuids: Iterable[str]) -> None:
        """Forget jobs: somebody else has them, or they are done with."""
        for uuid in uuids:
            self._pauses.pop(uuid, None)

    def uuids(self) -> set[str]:
        """Return the jobs that were left alone and not forgotten since."""
        return set(self._pauses)

    def holds(self, job: Any) -> bool:
        """Whether a job is to be left alone now."""
        until, _seconds = self._pauses.get(job.uuid, (0.0, 0.0))
        return time.monotonic() < until

    def next_in(self, longest_seconds: float) -> float:
        """Return how long until the next pause ends, at most *longest_seconds*."""
        now = time.monotonic()
        ahead = [until - now for until, _ in list(self._pauses.values()) if until > now]
        return max(0.01, min([longest_seconds, *ahead])) if self._pauses else longest_seconds
