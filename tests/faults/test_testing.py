# SPDX-License-Identifier: Apache-2.0
"""``lazy_engine.testing`` finds out what is broken, and numbers what is durable."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterator

import pytest

from lazy_engine import Client
from lazy_engine.testing import CrashReport, CrashTest, Crew
from tests.faults import broken
from tests.servers import ZooKeeper

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew


@pytest.fixture
def killed(sqlite_url: str, tmp_path: pathlib.Path, crew: Crew) -> Callable[..., CrashReport]:
    Client({"connection": sqlite_url}).backend.close()

    def kill_everywhere(scenario: object) -> CrashReport:
        test = CrashTest(scenario, persistence=sqlite_url, directory=tmp_path, crew=crew)
        return test.run()

    return kill_everywhere


@pytest.mark.parametrize(
    ("scenario", "complaint"),
    [
        (broken.new_attempt_after_a_crash, "executed, as would not have happened"),
        (broken.random_ids, "another id or token after re-execution"),
        (broken.early_outcomes_overlooked, "executed again"),
        (broken.absorbed_in_a_second_transaction, "is open, but its task is SUCCESS"),
        (broken.believed_delivered, "ended with status 1"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_broken_is_found_out(
    killed: Callable[..., CrashReport], scenario: object, complaint: str
) -> None:
    report = killed(scenario)
    assert complaint in str(report)
    assert len(report.problems) < len(report.points), "broken with any crash, wherever"


def test_only_commits_that_write_are_numbered(killed: Callable[..., CrashReport]) -> None:
    points = killed(broken.stored_twice).points
    assert [(point.number, point.side, point.write) for point in points] == [
        (1, "before", "commit lazy_flows, logbooks, flowdetails"),
        (1, "after", "commit lazy_flows, logbooks, flowdetails"),
        (2, "before", "commit lazy_delays"),
        (2, "after", "commit lazy_delays"),
    ]


def test_whatever_kazoo_writes_is_numbered(
    zookeeper: ZooKeeper, zookeeper_url: str, jobboard_path: str, tmp_path: pathlib.Path, crew: Crew
) -> None:
    Client(zookeeper_url).backend.close()
    test = CrashTest(
        broken.znodes_written,
        persistence=zookeeper_url,
        directory=tmp_path,
        settings={"hosts": zookeeper.hosts, "path": jobboard_path},
        crew=crew,
    )
    report = test.run()
    assert not report.problems, report
    writes = [point.write for point in report.points if point.side == "before"]
    assert [re.sub(r"/\S*/(top|made)[-\w]*", r"/\1", write) for write in writes[1:]] == [
        "create /top",
        "create /made",
        "set /made",
        "transaction checkversion /made, setdata /made",
        "delete /made",
        "delete /top",
    ]
    # Killed beside the flow, /top, /made or what was set, a first life was never told that it was set.
    untold = [path for path in tmp_path.iterdir() if not (path / "told-1").exists()]
    assert len(untold) == 8


def test_what_is_broken_on_zookeeper_is_found_out(
    zookeeper_url: str, tmp_path: pathlib.Path, crew: Crew
) -> None:
    Client(zookeeper_url).backend.close()
    scenario = broken.guarded_in_a_first_transaction
    report = CrashTest(scenario, persistence=zookeeper_url, directory=tmp_path, crew=crew).run()
    assert "its details say" in str(report)
    assert len(report.problems) < len(report.points), "broken with any crash, wherever"


def test_a_scenario_that_fails_without_a_crash_is_no_scenario(
    killed: Callable[..., CrashReport],
) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        killed(broken.fails_anyway)
