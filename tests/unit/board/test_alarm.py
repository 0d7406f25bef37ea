# SPDX-License-Identifier: Apache-2.0
"""An alarm goes off for the instant that it was last set to, and for no other."""

from __future__ import annotations

import math
import threading
import time

from lazy_engine.board.alarm import Alarm
from tests.waiting import wait_until


class Heard:
    """Somebody with an alarm, all calls that it made, and those that were meant."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: list[float] = []
        self.meant: list[float] = []
        self.alarm = Alarm(self.ring)

    def ring(self, at: float) -> None:
        with self.lock:
            self.calls.append(at)
            if self.alarm.is_for(at):
                self.meant.append(at)


def test_it_goes_off_once_for_each_instant() -> None:
    heard, now = Heard(), time.monotonic()
    for number, at in enumerate((now, now + 0.001, now), 1):
        with heard.lock:
            heard.alarm.set(at)
            heard.alarm.set(at)
        wait_until(lambda number=number: len(heard.meant) == number)
    assert heard.calls == heard.meant == [now, now + 0.001, now]


def test_call_for_an_instant_that_was_moved_meanwhile_is_not_meant() -> None:
    heard, now = Heard(), time.monotonic()
    with heard.lock:
        heard.alarm.set(now + 3600)
        heard.alarm.set(now + 7200)
    heard.ring(now + 3600)  # as if it had waited for the lock
    assert heard.meant == []
    with heard.lock:
        heard.alarm.set(now)
    wait_until(lambda: heard.meant)
    assert heard.meant == [now]


def test_one_that_is_set_to_never_has_no_thread_left() -> None:
    heard = Heard()
    with heard.lock:
        heard.alarm.set(time.monotonic() + 3600)
        timer = heard.alarm._timer
        heard.alarm.set(math.inf)
    assert timer is not None
    timer.join(10)
    assert not timer.is_alive()
    assert heard.calls == []
