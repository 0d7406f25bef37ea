# SPDX-License-Identifier: Apache-2.0
"""Leases as one observer sees them, by its own clock.

ZooKeeper has no clock that its clients could ask, and the clocks of two
machines need not agree. So a lease in a znode says only how long it lasts and
counts its owner's signs of life. An observer that has seen the same count for
a whole lease, by its own monotonic clock, may take the lease over; one that
looks for the first time knows nothing yet and waits.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Final

#: How many leases are remembered; the one not looked at for longest goes first,
#: and is as good as new when it is seen again.
_REMEMBERED: Final = 10_000

#: A wall clock that moved this much against the monotonic one was set.
_STEP_SECONDS: Final = 1.0


def wall_clock() -> int:
    """Return this machine's time in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


@dataclasses.dataclass(slots=True)
class _Sight:
    sign: tuple[int, int]
    since: float
    since_at: int


class Observer:
    """Remembers since when each lease has looked as it does. Thread-safe.

    :param now: the wall clock, in microseconds.
    :param monotonic: the clock that leases are judged by, in seconds.
    """

    def __init__(
        self,
        now: Callable[[], int] = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._sights: collections.OrderedDict[str, _Sight] = collections.OrderedDict()

    def expires_at(self, flow_uuid: str, sign: tuple[int, int], seconds: float) -> int:
        """Return when a lease runs out if it goes on looking as it does now.

        :param sign: epoch, and count of the owner's signs of life.
        :param seconds: length of the lease.
        :returns: an instant of this machine's wall clock; the same one for the
            same sight, unless the wall clock was set meanwhile.
        """
        now, elapsed_at = self._now(), self._monotonic()
        with self._lock:
            sight = self._sights.get(flow_uuid)
            if sight is None or sight.sign != sign:
                sight = self._sights[flow_uuid] = _Sight(sign, elapsed_at, now)
            seen_for = elapsed_at - sight.since
            if abs((now - sight.since_at) / 1e6 - seen_for) > _STEP_SECONDS:
                sight.since_at = now - int(seen_for * 1e6)
            self._sights.move_to_end(flow_uuid)
            if len(self._sights) > _REMEMBERED:
                self._sights.popitem(last=False)
            return sight.since_at + int(seconds * 1e6)

    def forget(self, flow_uuid: str) -> None:
        """Forget a lease that was given up."""
        with self._lock:
            self._sights.pop(flow_uuid, None)
