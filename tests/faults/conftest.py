# SPDX-License-Identifier: Apache-2.0
"""Counts the crash points that were tried, and prints how many in the end."""

from __future__ import annotations

from collections import Counter

import pytest

from lazy_engine.testing import CrashReport


class Tally:
    """How many crash points were tried on each store."""

    def __init__(self) -> None:
        self.points: Counter[str] = Counter()
        self.lives: Counter[str] = Counter()

    def add(self, store: str, report: CrashReport) -> None:
        assert report.points, "a scenario without a durable write proves nothing"
        self.points[store] += len(report.points) - len(report.unreached)
        self.lives[store] += report.lives


_TALLY = pytest.StashKey[Tally]()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    return request.config.stash.setdefault(_TALLY, Tally())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    tally = config.stash.get(_TALLY, None)
    if tally is not None:
        terminalreporter.section("crash points")
        for store, points in sorted(tally.points.items()):
            terminalreporter.line(f"{store}: {points} tried, in {tally.lives[store]} processes")
