# SPDX-License-Identifier: Apache-2.0
"""Conductors and their watchdogs on a real ZooKeeper: what is due or lost gets its doorbell."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from taskflow import states

from lazy_engine import DELAYED, Client, ledger
from lazy_engine.watchdog import Watchdog
from tests import child
from tests.integration import wake_flows
from tests.integration.test_conductor import open_board, running
from tests.servers import ZooKeeper
from tests.waiting import wait_until


class Site:
    """One store and one job board."""

    def __init__(self, url: str, client: Client, board: Any) -> None:
        self.url = url
        self.client = client
        self.board = board

    @property
    def ledger(self) -> Any:
        return ledger.beside(self.client.backend)

    def conducting(self, **options: Any) -> Any:
        return running("lazy", self.board, self.client.backend, **options)

    def park(self, factory: Any, **store: Any) -> str:
        """Submit a flow and run it here until it waits; leave the board empty."""
        flow_uuid = self.client.submit(factory, store=store)
        assert self.client.resume(flow_uuid) == DELAYED
        self.lose_doorbells()
        return flow_uuid

    def lose_doorbells(self) -> None:
        wait_until(lambda: self.board.job_count)
        for job in list(self.board.iterjobs()):
            self.board.claim(job, "tests")
            self.board.consume(job, "tests")
        wait_until(lambda: self.board.job_count == 0)

    def wait(self, flow_uuid: str, seconds: float = 30) -> str:
        return self.client.wait(flow_uuid, timeout_seconds=seconds)


@pytest.fixture(params=["sqlite", "postgresql"])
def site(
    request: pytest.FixtureRequest, zookeeper: ZooKeeper, jobboard_path: str
) -> Iterator[Site]:
    url = request.getfixturevalue(f"{request.param}_url")
    backend = Client({"connection": url}).backend
    with (
        contextlib.closing(backend),
        contextlib.closing(ledger.beside(backend)),
        open_board(zookeeper, jobboard_path, backend) as board,
    ):
        yield Site(url, Client(backend, board), board)


def test_sleep_ends_within_a_moment_of_its_time(site: Site) -> None:
    with site.conducting():
        flow_uuid = site.client.submit(wake_flows.naps, store={"seconds": 1.0})
        assert site.wait(flow_uuid) == states.SUCCESS
    flow = site.client.flow(flow_uuid)
    late_seconds = flow.results["woken"] - flow.results["begun"] - 1.0
    print(f"late by {late_seconds:.3f} s")
    assert 0 <= late_seconds < 5, "one second is promised where the machine is not overloaded"


def test_deadline_is_seen_to_while_the_flow_is_parked(site: Site) -> None:
    with site.conducting():
        flow_uuid = site.client.submit(wake_flows.gives_up, store={"seconds": 0.5})
        assert site.wait(flow_uuid) == states.REVERTED
        wait_until(lambda: site.board.job_count == 0)


def test_two_conductors_with_watchdogs_run_a_due_flow_once(site: Site, tmp_path: Any) -> None:
    path = tmp_path / "runs"
    with site.conducting(), site.conducting():
        uuids = [
            site.client.submit(
                wake_flows.naps_and_counts, store={"path": str(path), "seconds": 0.2}
            )
            for _ in range(5)
        ]
        assert {site.wait(flow_uuid) for flow_uuid in uuids} == {states.SUCCESS}
    assert path.read_text() == "x" * 5


def test_lost_doorbell_is_found_and_rung_again(site: Site) -> None:
    flow_uuid = site.park(wake_flows.one_wait)
    assert site.client.complete(site.client.token(flow_uuid, "ask"), 1).woken
    site.lose_doorbells()
    with site.conducting():
        site.ledger.clock_offset_seconds = 61
        assert site.wait(flow_uuid) == states.SUCCESS


def test_flow_whose_owner_was_killed_is_run_on_after_its_lease(
    site: Site, tmp_path: pathlib.Path
) -> None:
    flow_uuid = site.client.submit(wake_flows.goes_step_by_step, store={"directory": str(tmp_path)})
    site.lose_doorbells()
    script = (
        "import sys\nfrom lazy_engine import Client\n"
        "Client({'connection': sys.argv[1]}).resume(sys.argv[2])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, site.url, flow_uuid],
        env=child.environment(PYTHONWARNINGS="ignore"),
    ) as victim:
        wait_until((tmp_path / "begun").exists, timeout_seconds=30)
        victim.kill()
    (tmp_path / "go").touch()
    with site.conducting():
        assert site.client.flow(flow_uuid).state == states.RUNNING, "its lease still runs"
        site.ledger.clock_offset_seconds = 31
        assert site.wait(flow_uuid) == states.SUCCESS
    assert (tmp_path / "went on").exists()


def test_cancelled_flow_is_reverted_by_a_conductor(site: Site) -> None:
    told: list[tuple[str, str]] = []
    flow_uuid = site.park(wake_flows.one_wait)
    with site.conducting() as conductor:
        conductor.notifier.register(
            "flow_ended",
            lambda _event, details: told.append((details["flow_uuid"], details["state"])),
        )
        assert site.client.cancel(flow_uuid, "enough")
        assert site.wait(flow_uuid) == states.REVERTED
        wait_until(lambda: told == [(flow_uuid, states.REVERTED)])


def test_cancelled_compensation_is_answered_through_a_conductor(site: Site) -> None:
    flow_uuid = site.park(wake_flows.compensates)
    with site.conducting():
        assert site.client.cancel(flow_uuid, "enough")
        wait_until(lambda: [d.kind for d in site.client.delays(flow_uuid=flow_uuid)] == ["revert"])
        receipt = site.client.complete(site.client.token(flow_uuid, "made"), "gone")
        assert receipt.woken
        assert site.wait(flow_uuid) == states.REVERTED


def test_probe_is_run_by_a_conductor(site: Site, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "answer"
    with site.conducting():
        flow_uuid = site.client.submit(wake_flows.polls, store={"path": str(path)})
        wait_until(lambda: site.client.flow(flow_uuid).state == DELAYED, timeout_seconds=30)
        path.write_text("found")
        assert site.wait(flow_uuid) == states.SUCCESS
    assert site.client.flow(flow_uuid).results["look"] == "found"


def test_conductor_without_a_watchdog_leaves_time_to_others(site: Site) -> None:
    flow_uuid = site.park(wake_flows.one_wait)
    site.client.complete(site.client.token(flow_uuid, "ask"), 1)
    site.lose_doorbells()
    site.ledger.clock_offset_seconds = 61
    with site.conducting(watchdog=False):
        assert site.wait(flow_uuid, seconds=1.5) == DELAYED
        with Watchdog(site.client):
            assert site.wait(flow_uuid) == states.SUCCESS


def test_watchdog_goes_on_when_its_store_is_back(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lazy_engine import errors

    ask = site.ledger.next_due_in
    seen: list[float] = []

    def away(within_seconds: float) -> Any:
        seen.append(within_seconds)
        raise errors.StoreUnavailable("no server")

    monkeypatch.setattr(site.ledger, "next_due_in", away)
    with caplog.at_level(logging.WARNING), Watchdog(site.client, period_seconds=0.01):
        wait_until(lambda: len(seen) >= 5)
        complaints = [record for record in caplog.records if "cannot reach" in record.message]
        assert len(complaints) == 1, "it does not fill the log"
        flow_uuid = site.park(wake_flows.one_wait)
        site.client.complete(site.client.token(flow_uuid, "ask"), 1)
        site.lose_doorbells()
        site.ledger.clock_offset_seconds = 61
        monkeypatch.setattr(site.ledger, "next_due_in", ask)
        wait_until(lambda: site.board.job_count == 1)
