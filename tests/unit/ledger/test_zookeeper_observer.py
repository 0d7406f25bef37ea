# SPDX-License-Identifier: Apache-2.0
"""An observer judges leases by its own clock, from when it saw them first."""

from __future__ import annotations

import pytest

from lazy_engine.ledger import zookeeper_observer
from lazy_engine.ledger.zookeeper_observer import Observer

START = 1_000_000_000_000_000


class Clocks:
    """A wall clock that can be set, and one that only goes."""

    def __init__(self) -> None:
        self.elapsed = 50.0
        self.wall = START

    def wait(self, seconds: float) -> None:
        self.elapsed += seconds
        self.wall += int(seconds * 1e6)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def observer(clocks: Clocks) -> Observer:
    return Observer(now=lambda: clocks.wall, monotonic=lambda: clocks.elapsed)


def test_lease_runs_from_the_first_sight(clocks: Clocks, observer: Observer) -> None:
    first = observer.expires_at("flow", (1, 1), 30.0)
    assert first == START + 30_000_000
    clocks.wait(29.0)
    assert observer.expires_at("flow", (1, 1), 30.0) == first


def test_sign_of_life_begins_the_lease_anew(clocks: Clocks, observer: Observer) -> None:
    observer.expires_at("flow", (1, 1), 30.0)
    clocks.wait(29.0)
    assert observer.expires_at("flow", (1, 2), 30.0) == clocks.wall + 30_000_000
    clocks.wait(1.0)
    assert observer.expires_at("flow", (2, 2), 30.0) == clocks.wall + 30_000_000


@pytest.mark.parametrize("step_seconds", [3600, -3600])
def test_setting_the_wall_clock_changes_nothing_of_what_is_left(
    clocks: Clocks, observer: Observer, step_seconds: int
) -> None:
    observer.expires_at("flow", (1, 1), 30.0)
    clocks.wait(10.0)
    clocks.wall += step_seconds * 1_000_000
    assert observer.expires_at("flow", (1, 1), 30.0) == clocks.wall + 20_000_000


def test_forgotten_lease_is_seen_for_the_first_time_again(
    clocks: Clocks, observer: Observer
) -> None:
    observer.expires_at("flow", (1, 1), 30.0)
    clocks.wait(10.0)
    observer.forget("flow")
    observer.forget("flow")
    assert observer.expires_at("flow", (1, 1), 30.0) == clocks.wall + 30_000_000


def test_only_so_many_leases_are_remembered(
    clocks: Clocks, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zookeeper_observer, "_REMEMBERED", 2)
    first = observer.expires_at("a", (1, 1), 30.0)
    observer.expires_at("b", (1, 1), 30.0)
    clocks.wait(1.0)
    assert observer.expires_at("a", (1, 1), 30.0) == first
    observer.expires_at("c", (1, 1), 30.0)
    clocks.wait(1.0)
    assert observer.expires_at("a", (1, 1), 30.0) == first, "looked at last"
    assert observer.expires_at("b", (1, 1), 30.0) == clocks.wall + 30_000_000
