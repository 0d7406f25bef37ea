# SPDX-License-Identifier: Apache-2.0
"""Wait for a condition instead of sleeping for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Seen = TypeVar("_Seen")

_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.05


def wait_until(
    predicate: Callable[[], _Seen], *, timeout_seconds: float = 10.0, what: str = ""
) -> _Seen:
    """Poll ``predicate`` until it answers something true, and return that answer.

    An ``AssertionError`` out of the predicate counts as "not yet"; any other error is raised at once. The predicate
    is asked once more after the time is up, so that a paused test process does not fail for its own pause.

    :param predicate: asked every 2 to 50 ms, in the calling thread
    :param timeout_seconds: how long to go on asking
    :param what: what is waited for, for the failure message
    :raises AssertionError: time is up; the message tells what the predicate answered last
    """
    started = time.monotonic()
    pause = _FIRST_PAUSE_SECONDS
    asked = 0
    while True:
        is_last = time.monotonic() - started >= timeout_seconds
        cause: AssertionError | None = None
        asked += 1
        try:
            seen = predicate()
        except AssertionError as error:
            cause = error
            last = f"AssertionError: {error}"
        else:
            if seen:
                return seen
            last = repr(seen)
        if is_last:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(
                f"waited {timeout_seconds:g} s in vain for {name}; asked {asked} times, last saw {last}"
            ) from cause
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
