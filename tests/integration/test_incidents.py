# SPDX-License-Identifier: Apache-2.0
"""Flows that cannot be run for a reason that is not their own, and their only way back."""

from __future__ import annotations

import contextlib
import importlib
import json
import pathlib
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa
import taskflow.engines
from taskflow import states
from taskflow.conductors import backends as conductors
from taskflow.jobs import base as jobs_base
from taskflow.persistence import backends, models
from taskflow.utils import persistence_utils

from lazy_engine import DELAYED, Client, FlowIncident, errors, incident, ledger
from tests.integration.parked import World, park
from tests.integration.test_conductor import open_board
from tests.servers import ZooKeeper
from tests.waiting import wait_until

CODE = """
from taskflow.patterns import linear_flow
from tests.integration.parked import Echo, Waits

def make():
    return linear_flow.Flow("flow").add({tasks})
"""
GOOD = CODE.format(tasks='Waits("waits"), Echo("echo")')

Release = Callable[[str], str]


@pytest.fixture
def release(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    """Writes a module with a factory, as a new release of somebody's program would."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"released_{uuid.uuid4().hex}"

    def write(text: str) -> str:
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return f"{name}.make"

    yield write
    sys.modules.pop(name, None)


@pytest.fixture
def board(backend: Any, zookeeper: ZooKeeper, jobboard_path: str) -> Iterator[Any]:
    with open_board(zookeeper, jobboard_path, backend) as opened:
        yield opened


def conduct(kind: str, board: Any, backend: Any, answers: int = 1) -> list[str]:
    """Have a conductor of that kind answer doorbells; return what became of the jobs."""
    conductor = conductors.fetch(kind, "tests", board, persistence=backend, engine="lazy")
    told: list[str] = []
    for event in ("job_consumed", "job_abandoned", "job_trashed"):
        conductor.notifier.register(event, lambda event, details: told.append(event))
    thread = threading.Thread(target=conductor.run)
    thread.start()
    try:
        wait_until(lambda: len(told) >= answers, timeout_seconds=30)
    finally:
        conductor.stop()
        thread.join(30)
    assert not thread.is_alive()
    return told


def edit(backend: Any, statement: str, **values: Any) -> None:
    with backend.engine.begin() as connection:
        assert connection.execute(sa.text(statement), values).rowcount == 1


# Each breaks a parked flow that has been answered, and returns what mends it.


def change_code(world: World, release: Release) -> Callable[[], Any]:
    release(CODE.format(tasks='Waits("renamed"), Echo("echo")'))
    return lambda: release(GOOD)


def break_code(world: World, release: Release) -> Callable[[], Any]:
    wrong = 'Waits("waits"), Echo("echo", rebind={"answer": "nobody_has_it"})'
    release(CODE.format(tasks=wrong))
    return lambda: release(GOOD)


def double_a_name(world: World, release: Release) -> Callable[[], Any]:
    release(CODE.format(tasks='Waits("waits"), Echo("echo"), Echo("echo")'))
    return lambda: release(GOOD)


def end_the_process(world: World, release: Release) -> Callable[[], Any]:
    ends = "\nclass Ends(Echo):\n    def execute(self, answer):\n        raise SystemExit(1)\n"
    release(CODE.format(tasks='Waits("waits"), Ends("echo")') + ends)
    return lambda: release(GOOD)


def lose_the_key(world: World, release: Release) -> Callable[[], Any]:
    with world.backend.engine.begin() as connection:
        (kept,) = connection.execute(sa.text("SELECT * FROM lazy_keys")).mappings().all()
    edit(world.backend, "UPDATE lazy_keys SET key_id = 'other'")
    world.ledger._keys.__init__(world.ledger._fetch_keys)
    return lambda: edit(world.backend, "UPDATE lazy_keys SET key_id = :id", id=kept["key_id"])


def damage_the_outcome(world: World, release: Release) -> Callable[[], Any]:
    where = f"WHERE flow_uuid = '{world.flow_uuid}'"
    edit(world.backend, f"UPDATE lazy_delays SET outcome_body = '{{' {where}")
    good = json.dumps("answer")
    return lambda: edit(world.backend, f"UPDATE lazy_delays SET outcome_body = :b {where}", b=good)


def damage_the_details(world: World, release: Release) -> Callable[[], Any]:
    where = f"WHERE parent_uuid = '{world.flow_uuid}' AND name = 'waits'"
    with world.backend.engine.begin() as connection:
        good = connection.execute(sa.text(f"SELECT meta FROM atomdetails {where}")).scalar_one()
    edit(world.backend, f"UPDATE atomdetails SET meta = '{{' {where}")
    return lambda: edit(world.backend, f"UPDATE atomdetails SET meta = :m {where}", m=good)


BREAKING: dict[str, tuple[Any, str]] = {
    "task renamed": (change_code, "code changed"),
    "value missing": (break_code, "code broken"),
    "name doubled": (double_a_name, "code broken"),
    "key gone": (lose_the_key, "key gone"),
    "outcome damaged": (damage_the_outcome, "store corrupt"),
    "details damaged": (damage_the_details, "store corrupt"),
}


def answered(backend: Any, release: Release) -> World:
    world = park(backend, release(GOOD))
    world.client.complete(world.token, "answer")
    return world


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", BREAKING)
def test_resume_that_fails_is_recorded_counted_and_cleared(
    backend: Any, release: Release, name: str
) -> None:
    do, kind = BREAKING[name]
    world = answered(backend, release)
    mend = do(world, release)
    for count in (1, 2):
        with pytest.raises(FlowIncident) as caught:
            world.client.resume(world.flow_uuid)
        assert (caught.value.kind, caught.value.is_recorded) == (kind, True)
        assert world.flow_uuid in str(caught.value)
        record = world.ledger.flow(world.flow_uuid)
        assert record.incident["kind"] == kind
        assert record.incident["count"] == count
        assert record.check_at == record.incident["next_try_at"]
        pause = record.incident["next_try_at"] - record.incident["last_at"]
        assert pause == 10_000_000 * count
        assert (record.owner, record.state) == (None, DELAYED)
    seen = world.client.flow(world.flow_uuid)
    assert seen.incident is not None
    assert (seen.incident.kind, seen.incident.count) == (kind, 2)
    assert seen.incident.next_try_at is not None
    mend()
    assert world.client.resume(world.flow_uuid) == states.SUCCESS
    after = world.client.flow(world.flow_uuid)
    assert after.incident is None
    assert after.results["echo"] == "answer"


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", ["lazy", "blocking"])
@pytest.mark.parametrize("name", ["task renamed", "value missing", "outcome damaged"])
def test_no_conductor_consumes_the_only_way_back(
    backend: Any, release: Release, board: Any, kind: str, name: str
) -> None:
    """The job is consumed, but by then the flow itself says when it is tried again."""
    do, incident_kind = BREAKING[name]
    world = park(backend, release(GOOD))
    client = Client(backend, board)
    assert client.complete(world.token, "answer").woken
    wait_until(lambda: board.job_count == 1)
    mend = do(world, release)
    assert conduct(kind, board, backend) == ["job_consumed"]
    record = world.ledger.flow(world.flow_uuid)
    assert record.incident["kind"] == incident_kind
    assert record.check_at == record.incident["next_try_at"]
    assert record.rung_at is None
    assert client.complete(world.token, "answer").woken is False, "it rests"
    mend()
    assert client.resume(world.flow_uuid) == states.SUCCESS


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_conductor_outlives_code_that_ends_its_process(
    backend: Any, release: Release, board: Any
) -> None:
    world = park(backend, release(GOOD))
    client = Client(backend, board)
    client.complete(world.token, "answer")
    mend = end_the_process(world, release)
    assert conduct("lazy", board, backend) == ["job_consumed"]
    record = world.ledger.flow(world.flow_uuid)
    assert (record.incident["kind"], record.owner) == ("code broken", None)
    assert record.check_at == record.incident["next_try_at"]
    mend()
    assert client.resume(world.flow_uuid) == states.SUCCESS


@pytest.mark.parametrize("backend", ["memory", "sqlite", "postgresql"], indirect=True)
def test_watchdog_has_a_flow_tried_again_when_that_is_due_and_not_before(
    backend: Any, release: Release
) -> None:
    world = answered(backend, release)
    mend = change_code(world, release)
    pause = 10
    for _ in range(3):
        with pytest.raises(FlowIncident):
            world.client.resume(world.flow_uuid)
        world.ledger.clock_offset_seconds += pause / 2
        assert world.flow_uuid not in world.client.sweep()
        world.ledger.clock_offset_seconds += pause / 2
        assert world.flow_uuid in world.client.sweep()
        pause *= 2
    mend()
    assert world.client.resume(world.flow_uuid) == states.SUCCESS
    world.ledger.clock_offset_seconds += 10_000
    assert world.flow_uuid not in world.client.sweep()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_flow_that_was_tried_often_enough_is_left_for_a_person(
    backend: Any, release: Release
) -> None:
    world = answered(backend, release)
    mend = change_code(world, release)
    for _ in range(incident.MOST_TRIES):
        with pytest.raises(FlowIncident):
            world.client.resume(world.flow_uuid)
    seen = world.client.flow(world.flow_uuid).incident
    assert seen is not None
    assert (seen.count, seen.next_try_at) == (incident.MOST_TRIES, None)
    world.ledger.clock_offset_seconds += 1_000_000
    assert world.client.sweep() == []
    mend()
    assert world.client.resume(world.flow_uuid) == states.SUCCESS


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_flow_whose_job_was_consumed_is_run_once_its_code_is_mended(
    backend: Any, release: Release, board: Any
) -> None:
    """No person has to do anything but mend the code."""
    world = park(backend, release(GOOD))
    client = Client(backend, board)
    client.complete(world.token, "answer")
    release("raise RuntimeError('broken release')")
    assert conduct("lazy", board, backend) == ["job_consumed"]
    assert board.job_count == 0
    release(GOOD)
    world.ledger.clock_offset_seconds += 11
    assert client.sweep() == [world.flow_uuid]
    wait_until(lambda: board.job_count == 1)
    assert conduct("lazy", board, backend) == ["job_consumed"]
    assert client.flow(world.flow_uuid).state == states.SUCCESS


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_stock_conductor_that_trashes_a_doorbell_leaves_the_ring_noted(
    backend: Any, release: Release, board: Any
) -> None:
    """TaskFlow calls the factory before any of our code, and trashes the job if it fails.

    The ring that was noted goes stale with nobody having answered it, which is
    what the watchdog looks for; and a person may resume the flow at any time.
    """
    world = park(backend, release(GOOD))
    client = Client(backend, board)
    client.complete(world.token, "answer")
    wait_until(lambda: board.job_count == 1)
    release("raise RuntimeError('broken release')")
    assert conduct("blocking", board, backend) == ["job_trashed"]
    record = world.ledger.flow(world.flow_uuid)
    assert record.rung_at is not None
    assert (record.state, record.open_delays) == (DELAYED, 1)
    release(GOOD)
    world.ledger.clock_offset_seconds += 61
    assert client.sweep() == [world.flow_uuid], "the ring that nobody answered is repeated"
    assert client.resume(world.flow_uuid) == states.SUCCESS


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("broken", ["factory", "code"])
def test_flow_posted_by_a_stock_poster_is_known_before_its_first_job_goes(
    backend: Any, release: Release, board: Any, broken: str
) -> None:
    """Nobody but the job knew of it: the lazy conductor writes it down, and then consumes."""
    book = models.LogBook("posted")
    detail = models.FlowDetail("flow", str(uuid.uuid4()))
    taskflow.engines.save_factory_details(detail, release(GOOD), [], {})
    book.add(detail)
    with contextlib.closing(backend.get_connection()) as connection:
        connection.save_logbook(book)
    if broken == "factory":
        release("raise RuntimeError('broken release')")
    else:
        release(CODE.format(tasks='Echo("echo")'))
    board.post("first", book=book, details={"flow_uuid": detail.uuid})
    assert conduct("lazy", board, backend) == ["job_consumed"]
    client = Client(backend)
    seen = client.flow(detail.uuid)
    assert seen.incident is not None
    assert (seen.state, seen.incident.count, seen.owner) == ("PENDING", 1, None)
    record = ledger.beside(backend).flow(detail.uuid)
    assert record is not None
    assert (record.job_name, record.check_at) == ("first", record.incident["next_try_at"])
    release(GOOD)
    assert client.resume(detail.uuid) == DELAYED


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_lazy_conductor_leaves_jobs_on_the_board_that_lead_to_no_flow_it_knows(
    backend: Any, board: Any
) -> None:
    """It may look into the wrong store; then every job on the board is somebody's only way back."""
    board.post("elsewhere", details={"flow_uuid": str(uuid.uuid4())})
    board.post("nothing", details={})
    told = conduct("lazy", board, backend, answers=4)
    assert set(told) == {"job_abandoned"}
    assert board.job_count == 2


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_job_of_a_flow_that_cannot_be_made_nor_written_down_stays(backend: Any, board: Any) -> None:
    """It has no factory, and no lazy engine ever had it: only the job leads to it."""
    book, detail = persistence_utils.temporary_flow_detail(backend=backend)
    board.post("first", book=book, details={"flow_uuid": detail.uuid})
    assert set(conduct("lazy", board, backend, answers=2)) == {"job_abandoned"}
    assert board.job_count == 1


def test_conductor_does_not_look_for_jobs_that_are_gone() -> None:
    """What it left alone for a while may be consumed by somebody else meanwhile."""
    backend = backends.fetch({"connection": "memory://"})
    with contextlib.closing(backend):
        conductor = conductors.fetch(
            "lazy",
            "tests",
            mock.Mock(spec=jobs_base.NotifyingJobBoard),
            persistence=backend,
            wait_timeout=7.0,
        )
        conductor._cooling.add(mock.Mock(uuid="gone"), longest_seconds=1.0)
        conductor._jobboard.iterjobs.return_value = iter(())
        assert list(conductor._round.look_through()) == []
        assert not conductor._cooling.uuids()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_stale_doorbell_of_an_ended_flow_goes_without_an_incident(
    backend: Any, release: Release, board: Any
) -> None:
    world = answered(backend, release)
    assert world.client.resume(world.flow_uuid) == states.SUCCESS
    release("raise RuntimeError('broken release')")
    board.post("stale", details={"flow_uuid": world.flow_uuid})
    assert conduct("lazy", board, backend) == ["job_consumed"]
    assert world.client.flow(world.flow_uuid).incident is None


def test_flow_without_factory_raises_taskflows_own_errors(backend: Any) -> None:
    """An engine that somebody has in hand is not a flow that somebody must find again."""
    from taskflow import exceptions

    from tests.integration.parked import Echo

    _book, detail = persistence_utils.temporary_flow_detail(backend=backend)
    engine = taskflow.engines.load(Echo("echo"), engine="lazy", backend=backend, flow_detail=detail)
    with pytest.raises(exceptions.MissingDependencies):
        engine.run()
    assert ledger.beside(backend).flow(detail.uuid) is None


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_incident_that_cannot_be_written_keeps_the_job(
    backend: Any, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = answered(backend, release)
    release(CODE.format(tasks='Waits("renamed"), Echo("echo")'))

    def fails(*_args: Any, **_kwargs: Any) -> Any:
        raise errors.StoreUnavailable("away")

    monkeypatch.setattr(world.ledger, "note_incident", fails)
    with pytest.raises(errors.StoreUnavailable, match="away"):
        world.client.resume(world.flow_uuid)
