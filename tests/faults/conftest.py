# SPDX-License-Identifier: Apache-2.0
"""Counts the crash points that were tried, and prints how many in the end."""

from __future__ import annotations

from collections import Counter

import pytest

from lazy_engine.testing import CrashReport

_PROPERTY = "crash points"


class Tally:
    """Notes, in a test's own report, what was tried on each store; reports come from every worker."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def add(self, store: str, report: CrashReport) -> None:
        assert report.points, "a scenario without a durable write proves nothing"
        tried = len(report.points) - len(report.unreached)
        self._item.user_properties.append((_PROPERTY, (store, tried, report.lives)))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    return Tally(request.node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    points: Counter[str] = Counter()
    lives: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == _PROPERTY:
                store, tried, lived = value
                points[store] += tried
                lives[store] += lived
    if points:
        terminalreporter.section(_PROPERTY)
        for store, tried in sorted(points.items()):
            terminalreporter.line(f"{store}: {tried} tried, in {lives[store]} processes")
