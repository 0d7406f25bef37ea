# SPDX-License-Identifier: Apache-2.0
"""Counts the crash points that were tried; ``tests/conftest.py`` prints how many in the end."""

from __future__ import annotations

import pytest

from lazy_engine.testing import CrashReport
from tests.conftest import CRASH_POINTS


class Tally:
    """Notes, in a test's own report, what was tried on each store; reports come from every worker."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def add(self, store: str, report: CrashReport) -> None:
        assert report.points, "a scenario without a durable write proves nothing"
        tried = len(report.points) - len(report.unreached)
        self._item.user_properties.append((CRASH_POINTS, (store, tried, report.lives)))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    return Tally(request.node)
