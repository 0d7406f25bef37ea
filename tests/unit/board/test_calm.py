# SPDX-License-Identifier: Apache-2.0
"""For how long changes of a ZooKeeper board are explained by claims."""

from __future__ import annotations

import pytest

from lazy_engine.board import zookeeper_calm
from lazy_engine.board.zookeeper_calm import LONGEST_SECONDS, SHORTEST_SECONDS, Calm


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(zookeeper_calm, "time", made)
    return made


def work(calm: Calm, clock: Clock, seconds: float) -> None:
    calm.begin("job")
    clock.now += seconds
    calm.end("job")


def test_claim_explains_changes_until_it_ends(clock: Clock) -> None:
    calm = Calm()
    calm.begin("job")
    calm.begin("other")
    assert calm.until == clock.now + SHORTEST_SECONDS
    calm.end("other")
    assert calm.until > clock.now
    assert calm.has_claimed("job")
    calm.end("job")
    assert calm.until == 0.0
    assert not calm.has_claimed("job")


@pytest.mark.parametrize(
    ("took", "calm_seconds"), [(0.001, SHORTEST_SECONDS), (0.02, 0.05), (1.0, LONGEST_SECONDS)]
)
def test_calm_lasts_longer_than_jobs_do_of_late(
    clock: Clock, took: float, calm_seconds: float
) -> None:
    calm = Calm()
    work(calm, clock, took)
    calm.begin("job")
    assert calm.until - clock.now == pytest.approx(calm_seconds)


def test_claim_of_somebody_else_makes_calm_no_shorter(clock: Clock) -> None:
    calm = Calm()
    calm.expect(clock.now)
    assert calm.until == clock.now + SHORTEST_SECONDS
    calm.expect(clock.now - 1.0)
    assert calm.until == clock.now + SHORTEST_SECONDS


def test_claims_of_jobs_that_are_gone_and_of_a_lost_session_are_forgotten(clock: Clock) -> None:
    calm = Calm()
    calm.begin("gone")
    calm.begin("there")
    calm.forget_others(["there", "new"])
    assert [name for name in ("gone", "there", "new") if calm.has_claimed(name)] == ["there"]
    calm.forget_all()
    assert not calm.has_claimed("there")
