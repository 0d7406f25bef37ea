# SPDX-License-Identifier: Apache-2.0
"""A call at an instant that may be moved until it comes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Alarm:
    """Goes off once for each instant that it is set to, in a thread of its own.

    It has no lock: whoever sets it holds the lock of what it is set for, and so
    does whoever is called while asking :meth:`is_for`.

    :param ring: called with the instant, which may have been moved just before.
    """

    def __init__(self, ring: Callable[[float], None]) -> None:
        self._ring = ring
        self._at = math.inf
        self._timer: threading.Timer | None = None

    def set(self, at: float) -> None:
        """Have it go off at an instant and at no other.

        :param at: of :func:`time.monotonic`; infinity is never.
        """
        if at == self._at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at = at
        if at < math.inf:
            self._timer = threading.Timer(max(0.0, at - time.monotonic()), self._ring, [at])
            self._timer.daemon = True
            self._timer.start()

    def is_for(self, at: float) -> bool:
        """Whether a call is for the instant that is set; if so, none is set any more."""
        if at != self._at:
            return False
        self._timer, self._at = None, math.inf
        return True
