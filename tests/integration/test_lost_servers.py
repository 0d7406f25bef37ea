# SPDX-License-Identifier: Apache-2.0
"""Stores and job boards that are not there, go away in the middle, or are none that will do."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from taskflow import exceptions as taskflow_exceptions
from taskflow import states, task
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards
from taskflow.jobs.backends import impl_zookeeper
from taskflow.patterns import linear_flow
from taskflow.persistence import backends
from taskflow.persistence import base as persistence_base

import lazy_engine
from lazy_engine import Client, Disposition, cli, ledger
from lazy_engine.board import of
from lazy_engine.cli import ExitCode
from tests.integration.parked import Waits, World, make_flow, opened, park
from tests.servers import MySQL, PostgreSQL, ZooKeeper
from tests.servers.process import free_port
from tests.waiting import wait_until


@pytest.fixture(params=[PostgreSQL, MySQL])
def own_database(request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MySQL]:
    with request.param(fsync=False) as server:
        yield server


@pytest.fixture
def own_zookeeper() -> Iterator[ZooKeeper]:
    with ZooKeeper(force_sync=False) as server:
        yield server


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have TaskFlow wait for a job board's server for half a second instead of ten."""
    monkeypatch.setattr(
        impl_zookeeper.ZookeeperJobBoard.connect.__wrapped__, "__defaults__", (0.5,)
    )


def fetch_board(address: str, persistence: Any, **settings: Any) -> Any:
    conf = {"board": "zookeeper", "hosts": address, "path": "/jobs", "timeout": 2.0}
    retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.2}
    conf = {**conf, "check_compatible": False, "connection_retry": retry, **settings}
    return jobboards.fetch("tests", conf, persistence=persistence)


@contextlib.contextmanager
def open_board(address: str, persistence: Any) -> Iterator[Any]:
    with contextlib.closing(fetch_board(address, persistence)) as board:
        board.connect()
        yield board


@contextlib.contextmanager
def conducting(board: Any, persistence: Any) -> Iterator[None]:
    conductor = conductors.fetch("lazy", "tests", board, persistence=persistence)
    thread = threading.Thread(target=conductor.run)
    thread.start()
    try:
        yield
        assert thread.is_alive(), "the conductor gave up"
    finally:
        conductor.stop()
        thread.join(30)
        assert not thread.is_alive(), "the conductor did not stop"


# -- what is no store ------------------------------------------------------


@pytest.mark.parametrize(
    ("persistence", "why"),
    [
        (None, "not a NoneType"),
        (5, "not a int"),
        ([], "not a list"),
        ("", "under 'connection'"),
        ({}, "under 'connection'"),
        ({"connection": 5}, "under 'connection'"),
        ("unknown://somewhere", "'unknown': use sqlite"),
        ({"connection": "unknown://"}, "'unknown': use sqlite"),
        ("oracle+nothing://x", "'oracle.nothing': use sqlite|driver"),
        ("dir://", "names no directory"),
        ("memory://", r"engine\.storage\.backend"),
        ("memory", r"engine\.storage\.backend"),
        ({"connection": "memory"}, r"engine\.storage\.backend"),
    ],
    ids=repr,
)
def test_what_is_no_store_is_refused(persistence: Any, why: str) -> None:
    with pytest.raises(lazy_engine.UnsupportedBackend, match=why):
        Client(persistence)


class TapeBackend(persistence_base.Backend):
    """A backend of somebody else's, which nobody has to touch to find out."""

    def get_connection(self) -> Any:
        raise AssertionError("asked for a connection")

    def close(self) -> None:
        pass


def test_backend_without_a_ledger_is_refused_by_name() -> None:
    backend = TapeBackend({})
    for call in (
        lambda: Client(backend),
        lambda: ledger.beside(backend),
        lambda: ledger.upgrade(backend),
    ):
        with pytest.raises(lazy_engine.UnsupportedBackend, match=r"Tape.*memory, sqlite"):
            call()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_sqlite_in_memory_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(backends.fetch({"connection": url})) as backend:
        with pytest.raises(lazy_engine.UnsupportedBackend, match="give it a file"):
            Client(backend)
        backend.engine.dispose()
    assert cli.main(["init", "--persistence", url]) == ExitCode.WRONG_USE
    assert "give it a file" in capsys.readouterr().err


# -- not there at the start ------------------------------------------------


def test_database_that_is_not_there_at_the_start_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"postgresql+psycopg://postgres@127.0.0.1:{free_port()}/nothing"
    with pytest.raises(lazy_engine.StoreUnavailable, match="refused; is the server up"):
        Client({"connection": url})
    backend = backends.fetch({"connection": url})
    with (
        contextlib.closing(backend),
        pytest.raises(lazy_engine.StoreUnavailable, match="refused"),
    ):
        Client(backend)
    for words in (["delays"], ["conductor", "--jobboard", "zookeeper://127.0.0.1:1/jobs"]):
        assert cli.main([*words, "--persistence", url]) == ExitCode.UNREACHABLE
        seen = capsys.readouterr()
        assert "is the server up" in seen.err
        assert seen.err.count("\n") == 1
        assert seen.out == ""


def test_file_that_cannot_be_a_store_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        lazy_engine.StoreUnavailable,
        match=f"unable to open database file; there is no directory {tmp_path}/missing$",
    ):
        Client({"connection": f"sqlite:///{tmp_path / 'missing' / 'flows.db'}"})
    with pytest.raises(lazy_engine.StoreUnavailable, match=f"{tmp_path} is a directory"):
        Client({"connection": f"sqlite:///{tmp_path}"})
    path = tmp_path / "flows.db"
    path.write_text(text := "This is a shopping list, and not a database at all. " * 50)
    with pytest.raises(lazy_engine.StoreUnavailable, match=f"is {path} an SQLite file"):
        Client({"connection": f"sqlite:///{path}"})
    with pytest.raises(lazy_engine.StoreUnavailable, match=f"{path} is a file"):
        Client({"connection": f"dir://{path}/flows"})
    assert path.read_text() == text


@pytest.mark.usefixtures("_impatient")
def test_zookeeper_that_is_not_there_at_the_start_is_told(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    with opened(sqlite_url) as backend:
        conductor = conductors.fetch(
            "lazy", "tests", fetch_board(address, backend), persistence=backend
        )
        with pytest.raises(taskflow_exceptions.JobFailure, match=r"'tests'.*is its server up"):
            conductor.connect()
    words = ["conductor", "--persistence", sqlite_url, "--jobboard", f"zookeeper://{address}/jobs"]
    assert cli.main(words) == ExitCode.UNREACHABLE
    seen = capsys.readouterr()
    assert f"cannot reach the job board at zookeeper://{address}/jobs" in seen.err
    assert "is its server up" in seen.err
    assert seen.out == ""


def test_zookeeper_with_closed_four_letter_words_says_what_to_set(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ZooKeeper(whitelist="srvr", force_sync=False) as server, opened(sqlite_url) as backend:
        board = fetch_board(server.hosts, backend, check_compatible=True)
        conductor = conductors.fetch("lazy", "tests", board, persistence=backend)
        with pytest.raises(taskflow_exceptions.JobFailure) as caught:
            conductor.connect()
        address = f"zookeeper://{server.hosts}/jobs?check_compatible=True"
        words = ["submit", "tests.integration.parked.make_flow", "--jobboard", address]
        assert cli.main([*words, "--persistence", sqlite_url]) == ExitCode.UNREACHABLE
        for text in (str(caught.value), capsys.readouterr().err):
            assert "4lw.commands.whitelist" in text
            assert "check_compatible" in text
        assert _books(backend) == []
        with open_board(server.hosts, backend) as opened_board:
            assert opened_board.connected


def _books(backend: Any) -> list[Any]:
    with contextlib.closing(backend.get_connection()) as connection:
        return list(connection.get_logbooks(lazy=True))


# -- a database that goes away ---------------------------------------------

_TO_STOP: list[PostgreSQL] = []


class StopsTheServer(task.Task):
    """Takes the database away while it runs, the first time."""

    def execute(self, answer: Any) -> str:
        if _TO_STOP:
            _TO_STOP[0].stop()
            _TO_STOP.clear()
        return f"after {answer}"


def make_flow_that_stops_the_server() -> Any:
    return linear_flow.Flow("flow").add(Waits("waits"), StopsTheServer("stops"))


def end_lease(world: World) -> None:
    """Let a lease run out that could not be given up; its owner, this process, is known to live."""
    world.ledger._transactor.write(
        lambda c: c.exec_driver_sql("UPDATE lazy_flows SET lease_expires_at = 0")
    )


def test_database_that_goes_away_in_the_middle_loses_nothing(
    own_database: PostgreSQL | MySQL, capsys: pytest.CaptureFixture[str]
) -> None:
    url = own_database.create_database()
    with opened(url) as backend:
        world = park(backend, make_flow_that_stops_the_server)
        before = world.snapshot()
        own_database.stop()
        for call in (
            lambda: world.client.complete(world.token, "lost"),
            lambda: world.client.flow(world.flow_uuid),
            lambda: world.client.resume(world.flow_uuid),
        ):
            with pytest.raises(lazy_engine.StoreUnavailable, match="the store failed"):
                call()
        words = ["complete", "--flow", world.flow_uuid, "--task", "waits", "--persistence", url]
        assert cli.main(words) == ExitCode.UNREACHABLE
        assert "is the server up" in capsys.readouterr().err
        own_database.start()
        assert world.snapshot() == before

        assert world.client.complete(world.token, "kept").disposition is Disposition.ACCEPTED
        _TO_STOP.append(own_database)
        with pytest.raises(lazy_engine.StoreUnavailable, match="the store failed"):
            world.client.resume(world.flow_uuid)
        assert not own_database.is_running
        own_database.start()
        view = world.client.flow(world.flow_uuid)
        assert view.tasks["stops"] != states.SUCCESS, "its result was never written"
        end_lease(world)
        assert world.client.resume(world.flow_uuid) == states.SUCCESS
        results = world.client.flow(world.flow_uuid).results
        assert results == {"waits": "kept", "stops": "after kept"}


def test_conductor_survives_a_database_that_goes_away(
    own_database: PostgreSQL | MySQL, zookeeper: ZooKeeper, jobboard_path: str
) -> None:
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(opened(own_database.create_database()))
        board = fetch_board(zookeeper.hosts, backend, path=jobboard_path)
        stack.enter_context(contextlib.closing(board))
        board.connect()
        world = park(backend, make_flow_that_stops_the_server, board)
        assert world.client.complete(world.token, "kept").woken
        _TO_STOP.append(own_database)
        stack.enter_context(conducting(board, backend))
        wait_until(lambda: not _TO_STOP, timeout_seconds=20, what="the server's end")
        own_database.start()
        # A server that is back soon enough lets the owner give its lease up after all.
        seen = wait_until(
            lambda: (view := world.client.flow(world.flow_uuid)).owner or view.state == "SUCCESS",
            what="a lease that is left behind, or the end",
        )
        if seen is not True:
            end_lease(world)
        assert world.client.wait(world.flow_uuid, timeout_seconds=20) == states.SUCCESS
        results = world.client.flow(world.flow_uuid).results
        assert results == {"waits": "kept", "stops": "after kept"}
        wait_until(lambda: board.job_count == 0)


# -- a ZooKeeper that goes away --------------------------------------------


@pytest.mark.usefixtures("_impatient")
def test_zookeeper_that_goes_away_in_the_middle_loses_nothing(
    own_zookeeper: ZooKeeper, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(opened(sqlite_url))
        board = stack.enter_context(open_board(own_zookeeper.hosts, backend))
        world, other = (park(backend, board=board) for _ in range(2))
        stack.enter_context(conducting(board, backend))
        # It is at work, and not about to register itself, when its server goes.
        first = world.client.submit(make_flow)
        wait_until(lambda: world.client.flow(first).state == "DELAYED", timeout_seconds=20)
        own_zookeeper.stop()
        wait_until(lambda: not of(board).is_connected)

        receipt = world.client.complete(world.token, "kept")
        assert (receipt.disposition, receipt.woken) == (Disposition.ACCEPTED, False)
        address = f"zookeeper://{own_zookeeper.hosts}/jobs"
        words = ["--persistence", sqlite_url, "--jobboard", address]
        answer = ["complete", "--flow", other.flow_uuid, "--task", "waits", "--result", '"kept"']
        assert cli.main([*answer, *words]) == ExitCode.UNREACHABLE
        seen = capsys.readouterr()
        assert seen.out.startswith("accepted: ")
        assert "recorded, but nobody was woken" in seen.err
        flow_uuid = str(uuid.uuid4())
        with pytest.raises(taskflow_exceptions.JobFailure, match=f"{flow_uuid} is stored, but"):
            world.client.submit(make_flow, flow_uuid=flow_uuid)
        assert world.client.flow(flow_uuid).state == states.PENDING

        own_zookeeper.start()
        wait_until(lambda: of(board).is_connected, timeout_seconds=20)
        for each in (world, other):
            receipt = each.client.complete(each.token, "kept")
            assert (receipt.disposition, receipt.woken) == (Disposition.DUPLICATE, True)
            assert each.client.wait(each.flow_uuid, timeout_seconds=20) == states.SUCCESS
            assert each.client.flow(each.flow_uuid).results == {"waits": "kept", "echo": "kept"}
        assert world.client.submit(make_flow, flow_uuid=flow_uuid) == flow_uuid
        wait_until(lambda: world.client.flow(flow_uuid).state == "DELAYED", timeout_seconds=20)
