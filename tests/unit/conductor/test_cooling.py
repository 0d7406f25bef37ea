# SPDX-License-Identifier: Apache-2.0
"""How long jobs are left alone whose runs fail."""

from __future__ import annotations

import dataclasses

import pytest

from lazy_engine.conductor import cooling
from lazy_engine.conductor.cooling import Cooling


@dataclasses.dataclass(frozen=True)
class Job:
    uuid: str


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(cooling.time, "monotonic", lambda: now[0])
    return now


def test_each_pause_is_twice_the_one_before_up_to_the_longest(clock: list[float]) -> None:
    pauses = []
    left_alone = Cooling()
    for _ in range(4):
        left_alone.add(Job("a"), longest_seconds=1.0)
        pauses.append(left_alone.next_in(60.0))
        clock[0] += pauses[-1]
        assert not left_alone.holds(Job("a"))
    assert pauses == [0.25, 0.5, 1.0, 1.0]


def test_next_look_is_when_the_first_pause_ends(clock: list[float]) -> None:
    left_alone = Cooling()
    assert left_alone.next_in(7.0) == 7.0
    left_alone.add(Job("soon"), longest_seconds=9.0)
    clock[0] += 0.1
    left_alone.add(Job("later"), longest_seconds=9.0)
    assert left_alone.next_in(7.0) == pytest.approx(0.15)
    assert left_alone.holds(Job("soon"))
    assert not left_alone.holds(Job("never"))
    clock[0] += 1.0
    assert left_alone.next_in(7.0) == 7.0, "what has cooled down is not waited for"
    left_alone.forget(["soon", "never"])
    assert left_alone.uuids() == {"later"}
