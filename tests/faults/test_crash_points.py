# SPDX-License-Identifier: Apache-2.0
"""Every scenario is killed just before and just after each of its durable writes, on every store.

``LAZY_ENGINE_FAULT_SCALE=3`` tells each of them three times at every crash point, the second and third time with a
second crash on top, at a random place of the life after the first one.
"""

from __future__ import annotations

import os
import pathlib
import random
from collections.abc import Iterator

import pytest

from lazy_engine import Client
from lazy_engine.testing import CrashReport, CrashTest, Crew
from tests.faults import scenarios
from tests.faults.conftest import Tally
from tests.servers import ZooKeeper

pytestmark = [pytest.mark.fault, pytest.mark.slow]

SCALE = int(os.environ.get("LAZY_ENGINE_FAULT_SCALE") or 1)

#: What is told on every store.
MAIN = (
    scenarios.submit_park_answer,
    scenarios.early_answer,
    scenarios.late_answer,
    scenarios.two_answers_at_once,
    scenarios.failed_and_retried,
    scenarios.failed_and_reverted,
    scenarios.suspended,
)

SCENARIOS = (
    *MAIN,
    scenarios.early_answer_in_threads,
    scenarios.two_answers_in_one_call,
    scenarios.reverted_by_the_outside,
    scenarios.cancelled,
    scenarios.cancelled_and_unmade_by_the_outside,
    scenarios.timed_out_and_retried,
    scenarios.slept,
    scenarios.probed,
    scenarios.sibling_failed,
)

#: What is told of each store, which needs a fixture ``<store>_url``; all of it only if there is time.
STORES = {
    "sqlite": SCENARIOS,
    "postgresql": (
        SCENARIOS
        if SCALE > 1
        else (*MAIN, scenarios.timed_out_and_retried, scenarios.cancelled_and_unmade_by_the_outside)
    ),
    "zookeeper": SCENARIOS if SCALE > 1 else MAIN,
    # A directory's files are written after the commit in its redo log, so that is where its writes are.
    **({"mysql": SCENARIOS, "dir": SCENARIOS} if SCALE > 1 else {}),
}


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew


@pytest.fixture(scope="module")
def large_crew() -> Iterator[Crew]:
    """For tellings that mostly wait for a session to end."""
    with Crew(6) as crew:
        yield crew


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, store: str) -> str:
    url: str = request.getfixturevalue(f"{store}_url")
    Client({"connection": url}).backend.close()  # makes the tables
    return url


def kill_everywhere(test: CrashTest, dice: random.Random) -> CrashReport:
    report = test.run()
    assert not report.problems, report
    for _ in range(SCALE - 1):
        again = test.run(crashes=2, dice=dice)
        assert not again.problems, again
        report = again
    return report


@pytest.mark.parametrize(
    ("store", "scenario"),
    [
        pytest.param(store, scenario, id=f"{store}-{scenario.__name__}")
        for store, told in STORES.items()
        for scenario in told
    ],
    indirect=["store"],
)
def test_nothing_is_lost_and_nothing_happens_twice(
    scenario: object,
    store: str,
    url: str,
    crew: Crew,
    tmp_path: pathlib.Path,
    dice: random.Random,
    tally: Tally,
) -> None:
    test = CrashTest(scenario, persistence=url, directory=tmp_path, crew=crew, timeout_seconds=180)
    tally.add(store, kill_everywhere(test, dice))


def test_nothing_is_lost_with_a_job_board_either(
    store: str,
    url: str,
    zookeeper: ZooKeeper,
    jobboard_path: str,
    large_crew: Crew,
    tmp_path: pathlib.Path,
    dice: random.Random,
    tally: Tally,
) -> None:
    settings = {"hosts": zookeeper.hosts, "path": jobboard_path, "session_seconds": 1.0}
    test = CrashTest(
        scenarios.woken_through_the_job_board,
        persistence=url,
        directory=tmp_path,
        crew=large_crew,
        settings=settings,
        timeout_seconds=180,
    )
    tally.add(f"{store} with a job board", kill_everywhere(test, dice))
