# SPDX-License-Identifier: Apache-2.0
"""The doctor finds every defect that is planted, and nothing in a sound store."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import taskflow.engines
from taskflow import states
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards
from taskflow.persistence import backends

from lazy_engine import DELAYED, Client, FlowIncident, checkup, doctor, ledger
from lazy_engine.cli import main
from lazy_engine.cli.exit_code import ExitCode
from tests.integration import wake_flows
from tests.integration.parked import make_flow, make_flow_that_waits_to_undo
from tests.integration.test_conductor import open_board
from tests.servers import ZooKeeper
from tests.waiting import wait_until


class Ward:
    """A store with flows in many states, each by its name."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.backend = backends.fetch({"connection": url})
        ledger.upgrade(self.backend)
        self.client = Client(self.backend)
        self.ledger = ledger.beside(self.backend)
        self.flows: dict[str, str] = {}
        for name in ("parked", "answered", "ended", "failed", "suspended", "incident", "early"):
            self.flows[name] = self.client.submit(make_flow)
            assert self.client.resume(self.flows[name]) == DELAYED
        self.flows["pending"] = self.client.submit(make_flow)
        self.answer("answered")
        self.answer("ended")
        assert self.client.resume(self.flows["ended"]) == states.SUCCESS
        self.client.fail(self.client.token(self.flows["failed"], "waits"), "no")
        assert self.client.resume(self.flows["failed"]) == states.REVERTED
        self.client.suspend(self.flows["suspended"])
        self.answer("suspended")
        self.ledger.note_incident(self.flows["incident"], "factory failed", "broken")
        self.answer("incident")

    def answer(self, name: str) -> None:
        self.client.complete(self.client.token(self.flows[name], "waits"), name)

    def close(self) -> None:
        self.ledger.close()
        self.backend.close()

    def edit(self, statement: str, **values: Any) -> None:
        """Change exactly one row, as only a defect or a person could."""
        with self.backend.engine.begin() as connection:
            assert connection.execute(sa.text(statement), values).rowcount == 1

    def plant(self, name: str, table: str, change: str) -> None:
        column = {"flowdetails": "uuid", "atomdetails": "parent_uuid"}.get(table, "flow_uuid")
        extra = " AND name = 'waits'" if table == "atomdetails" else ""
        flow_uuid = self.flows[name]
        what = change if change.startswith("DELETE") else f"UPDATE {table} SET {change}"
        self.edit(f"{what} WHERE {column} = :uuid{extra}", uuid=flow_uuid)

    def found(self) -> set[tuple[str, str | None]]:
        """Return which checks failed, and for which flows."""
        names = {flow_uuid: name for name, flow_uuid in self.flows.items()}
        report = doctor.examine(self.ledger)
        return {
            (finding.check, names.get(finding.flow_uuid or "", finding.flow_uuid))
            for finding in report.findings
        }


@pytest.fixture
def ward(sqlite_url: str) -> Iterator[Ward]:
    with contextlib.closing(Ward(sqlite_url)) as made:
        yield made


OPEN = "outcome_kind = NULL, outcome_body = NULL, outcome_digest = NULL, arrived_at = NULL"

#: What is planted where, and which checks see it there.
DEFECTS: dict[str, tuple[str, str, str, set[str]]] = {
    "record gone": ("parked", "lazy_flows", "DELETE FROM lazy_flows", {"orphan-delay"}),
    "record of an answered flow gone": (
        "answered",
        "lazy_flows",
        "DELETE FROM lazy_flows",
        {"orphan-delay"},
    ),
    "delay of no task": (
        "ended",
        "lazy_delays",
        "atom_uuid = 'nobody'",
        {"orphan-delay"},
    ),
    "details gone": ("ended", "flowdetails", "DELETE FROM flowdetails", {"orphan-flow"}),
    "lease of an ended flow": (
        "ended",
        "lazy_flows",
        "owner = 'me', lease_expires_at = 1",
        {"orphan-lease"},
    ),
    "owner without a lease": (
        "parked",
        "lazy_flows",
        "owner = 'me', check_at = 9000000000000000",
        {"orphan-lease"},
    ),
    "open delay closed": (
        "parked",
        "lazy_delays",
        "closed_at = 1, waiting_at = NULL, due_at = NULL",
        {"waiting"},
    ),
    "another attempt": ("parked", "lazy_delays", "attempt = 7", {"waiting", "open-delay"}),
    "task does not wait": (
        "parked",
        "atomdetails",
        "state = 'SUCCESS'",
        {"open-delay", "stored-state"},
    ),
    "ended with an open delay": (
        "ended",
        "lazy_delays",
        f"closed_at = NULL, absorbed_at = NULL, waiting_at = opened_at, arrival_number = NULL, {OPEN}",
        {"open-delay", "ended-delay"},
    ),
    "ended with an outcome to absorb": (
        "ended",
        "lazy_delays",
        "closed_at = NULL, absorbed_at = NULL",
        {"open-delay", "ended-delay"},
    ),
    "ended without an end": ("ended", "lazy_flows", "ended_at = NULL", {"ended-state"}),
    "two ends": ("failed", "lazy_flows", "state = 'SUCCESS'", {"ended-state"}),
    "stored state": ("parked", "flowdetails", "state = 'RUNNING'", {"stored-state"}),
    "miscounted": ("parked", "lazy_flows", "open_delays = 2", {"stored-state"}),
    "not listed": ("parked", "lazy_delays", "waiting_at = NULL", {"listed"}),
    "listed in vain": ("ended", "lazy_delays", "waiting_at = 1", {"listed"}),
    "half an outcome": ("answered", "lazy_delays", "arrived_at = NULL", {"outcome"}),
    "absorbed nothing": ("parked", "lazy_delays", "absorbed_at = 1", {"outcome"}),
    "number from the future": ("answered", "lazy_delays", "arrival_number = 99", {"outcome"}),
    "early outcome in vain": (
        "suspended",
        "lazy_delays",
        "opened_at = NULL, attempt = 0",
        {"waiting", "early-outcome"},
    ),
    "key gone": ("parked", "lazy_flows", "key_id = 'gone'", {"key"}),
    "details damaged": ("ended", "atomdetails", "meta = '{'", {"damage"}),
    "outcome without a ring": ("answered", "lazy_flows", "check_at = NULL", {"unwatched"}),
    "owner that nobody watches": (
        "parked",
        "lazy_flows",
        "owner = 'me', lease_expires_at = 9000000000000000, check_at = NULL",
        {"unwatched"},
    ),
    "watchdog away": ("answered", "lazy_flows", "check_at = 1", {"overdue"}),
    "begun by nobody": ("pending", "lazy_flows", "created_at = 1", {"begun"}),
    "deadline passed": ("parked", "lazy_delays", "due_at = 1", {"overdue"}),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_planted_defect_is_found_and_nothing_else(ward: Ward, name: str) -> None:
    flow, table, change, checks = DEFECTS[name]
    assert ward.found() == set()
    ward.plant(flow, table, change)
    assert ward.found() == {(check, flow) for check in checks}


@pytest.mark.parametrize("name", ["record gone", "open delay closed", "outcome without a ring"])
def test_planted_defect_is_found_in_postgresql(postgresql_url: str, name: str) -> None:
    flow, table, change, checks = DEFECTS[name]
    with contextlib.closing(Ward(postgresql_url)) as ward:
        assert ward.found() == set()
        ward.plant(flow, table, change)
        assert ward.found() == {(check, flow) for check in checks}


def test_every_check_has_a_planted_defect() -> None:
    planted = {check for _, _, _, checks in DEFECTS.values() for check in checks}
    elsewhere = {"left"}
    assert planted | elsewhere == {check.name for check in checkup.CHECKS}


def test_details_that_say_delayed_and_that_nobody_knows_are_found(ward: Ward) -> None:
    engine = taskflow.engines.load(make_flow(), backend=ward.backend)
    engine.compile()
    engine.prepare()
    flow_uuid = engine.storage.flow_uuid
    assert ward.found() == set(), "a flow of TaskFlow's own engines is nobody's business"
    ward.edit("UPDATE flowdetails SET state = 'DELAYED' WHERE uuid = :uuid", uuid=flow_uuid)
    assert ward.found() == {("orphan-flow", flow_uuid)}


def test_flows_that_are_left_for_a_person_are_named_but_not_wrong(ward: Ward) -> None:
    for _ in range(20):
        ward.ledger.note_incident(ward.flows["incident"], "factory failed", "broken")
    engine = taskflow.engines.load(make_flow(), engine="lazy", backend=ward.backend)
    assert engine.run() == DELAYED
    flow_uuid = engine.storage.flow_uuid
    ward.client.complete(ward.client.token(flow_uuid, "waits"), 1)
    with pytest.raises(FlowIncident):
        ward.client.resume(flow_uuid)
    report = doctor.examine(ward.ledger)
    assert {(f.check, f.flow_uuid) for f in report.findings} == {
        ("left", ward.flows["incident"]),
        ("left", flow_uuid),
    }
    assert (report.is_wrong, report.is_stalled) == (False, True)


def run(url: str, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["--persistence", url, "doctor", *words])
    return code, capsys.readouterr().out


def test_cancelled_flow_whose_compensation_waits_is_sound(ward: Ward) -> None:
    before = ward.found()
    flow_uuid = ward.client.submit(make_flow_that_waits_to_undo)
    assert ward.client.resume(flow_uuid) == DELAYED
    ward.client.cancel(flow_uuid, "not wanted any more")
    assert ward.client.resume(flow_uuid) == DELAYED
    assert ward.found() == before


def test_exit_code_says_which(ward: Ward, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(ward.url, capsys)
    assert code == ExitCode.DONE
    assert text.startswith("looked at 8 flows, 7 delays, 5 outcomes, 0 leases, 1 incidents\n")
    assert text.endswith("all is well\n")
    for check in checkup.CHECKS:
        assert f" {check.says}\n" in text
    ward.plant(*DEFECTS["watchdog away"][:3])
    code, text = run(ward.url, capsys)
    assert code == ExitCode.STALLED
    assert f"    flow {ward.flows['answered']}: the watchdog should have looked " in text
    ward.plant(*DEFECTS["open delay closed"][:3])
    code, text = run(ward.url, capsys, "--json")
    document = json.loads(text)
    assert code == document["exit_code"] == ExitCode.UNSOUND
    assert {finding["check"] for finding in document["findings"]} == {"waiting", "overdue"}
    counts = {check["name"]: check["count"] for check in document["checks"]}
    assert counts["waiting"] == counts["overdue"] == 1
    assert sum(counts.values()) == 2


def test_more_flows_than_a_page_are_read(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PAGE", 3)
    pages: list[int] = []
    report = doctor.examine(ward.ledger, progress=lambda report: pages.append(report.flows))
    assert pages == [3, 6, 8]
    assert (report.flows, report.findings) == (8, [])


@pytest.fixture
def board(ward: Ward, zookeeper: ZooKeeper, jobboard_path: str) -> Iterator[Any]:
    with open_board(zookeeper, jobboard_path, ward.backend) as opened:
        yield opened


def test_doorbell_that_leads_nowhere_is_found(ward: Ward, board: Any) -> None:
    board.post("good", details={"flow_uuid": ward.flows["parked"]})
    board.post("somebody else's", details={})
    report = doctor.examine(ward.ledger, board)
    assert (report.doorbells, report.findings) == (2, [])
    nowhere = str(uuid.uuid4())
    board.post("bad", details={"flow_uuid": nowhere})
    (finding,) = doctor.examine(ward.ledger, board).findings
    assert (finding.check, finding.level, finding.flow_uuid) == (
        "orphan-doorbell",
        checkup.WRONG,
        nowhere,
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_busy_store_is_sound_at_every_moment(
    kind: str, request: pytest.FixtureRequest, zookeeper: ZooKeeper, jobboard_path: str
) -> None:
    """Examined again and again while conductors run what is submitted and answered."""
    url = request.getfixturevalue(f"{kind}_url")
    backend = backends.fetch({"connection": url})
    ledger.upgrade(backend)
    conf = {
        "board": "zookeeper",
        "hosts": zookeeper.hosts,
        "path": jobboard_path,
        "check_compatible": False,
    }
    with contextlib.closing(backend), contextlib.ExitStack() as stack:
        board = jobboards.fetch("tests", conf, persistence=backend)
        board.connect()
        stack.callback(board.close)
        client = Client(backend, board)
        book = ledger.beside(backend)
        conductor = conductors.fetch("lazy", "tests", board, persistence=backend)
        thread = threading.Thread(target=conductor.run)
        thread.start()
        stack.callback(thread.join, 30)
        stack.callback(conductor.stop)
        uuids: list[str] = []
        reports: list[doctor.Report] = []

        def work() -> None:
            for _ in range(25):
                uuids.append(client.submit(wake_flows.one_wait))
            _answer_all(client, uuids)

        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            reports.append(doctor.examine(book, board))
        worker.join()
        wait_until(
            lambda: all(client.flow(u).state == states.SUCCESS for u in uuids), timeout_seconds=60
        )
        reports.append(doctor.examine(book, board))
        found = [finding for report in reports for finding in report.findings]
        assert found == []
        assert len(reports) > 2
        assert reports[-1].flows == 25
        assert any(report.flows > 0 for report in reports[:-1]), "it was looked at while flows ran"
        book.close()


def _answer_all(client: Client, uuids: list[str]) -> None:
    waiting = list(uuids)

    while waiting:
        for flow_uuid in list(waiting):
            if client.flow(flow_uuid).delays:
                client.complete(client.token(flow_uuid, "ask"), 1)
                waiting.remove(flow_uuid)
