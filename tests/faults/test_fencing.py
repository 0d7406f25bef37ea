# SPDX-License-Identifier: Apache-2.0
"""One owner: whoever was superseded, by whatever accident, writes nothing any more."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards
from taskflow.persistence import backends

from lazy_engine import Client, Disposition, address, doorbell, errors, ledger
from lazy_engine.board import of
from tests import child
from tests.faults import owners
from tests.servers import ZooKeeper
from tests.waiting import wait_until

pytestmark = pytest.mark.fault


STORES = ("sqlite", "postgresql", "zookeeper")

#: MySQL and directories are like PostgreSQL and SQLite in most; not in what decides here: how rows are counted,
#: where details are kept, whose clock it is.
on_every_store = pytest.mark.parametrize("store", [*STORES, "mysql", "dir"], indirect=True)

#: Long enough for an owner at work not to lose its flow on a machine that is busy.
A_LEASE_SECONDS = 1.0


@dataclasses.dataclass
class Store:
    """A store, and what several owners of its flows would each have of it."""

    url: str
    client: Client
    opened: contextlib.ExitStack

    def backend(self) -> Any:
        """Return one more backend, as another process would have it."""
        backend = backends.fetch(address.configuration(self.url))
        self.opened.callback(lambda: (ledger.beside(backend).close(), backend.close()))
        return backend

    def everything(self, flow_uuid: str) -> Any:
        """Return all that is stored of a flow, for comparison."""
        book = ledger.beside(self.client.backend)
        detail = book.detail(flow_uuid)
        assert detail is not None
        atoms = sorted((atom.name, str(atom.to_dict())) for atom in detail)
        return book.flow(flow_uuid), detail.to_dict(), atoms, book.delays_of(flow_uuid)

    def answer(self, flow_uuid: str, task_name: str = "ask") -> None:
        receipt = self.client.complete(self.client.token(flow_uuid, task_name), "answer")
        assert receipt.disposition is Disposition.ACCEPTED


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    url = request.getfixturevalue(f"{request.param}_url")
    with contextlib.ExitStack() as opened:
        client = Client({"connection": url})
        opened.callback(lambda: (ledger.beside(client.backend).close(), client.backend.close()))
        yield Store(url, client, opened)


# -- paused ------------------------------------------------------------------


class PausedOwner:
    """An owner in a process of its own, stopped by SIGSTOP in the middle of a task.

    :ivar words: what became of it, once it has ended.
    """

    def __init__(self, kind: str, given: dict[str, Any], directory: pathlib.Path) -> None:
        self._directory = directory
        given = {**given, "lease_seconds": A_LEASE_SECONDS, "directory": str(directory)}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", owners.__file__, kind, json.dumps(given)],
            env=child.environment(),
        )

    def pause(self) -> None:
        """Stop it once it is at work."""
        wait_until((self._directory / "held").exists, timeout_seconds=30)
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> list[str]:
        """Let it go on, to its end; return what became of it."""
        (self._directory / "go on").touch()
        self._process.send_signal(signal.SIGCONT)
        assert self._process.wait(60) == 0
        words: list[str] = json.loads((self._directory / "result").read_text())
        return words

    def __enter__(self) -> PausedOwner:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@on_every_store
def test_a_paused_and_superseded_owner_writes_nothing(store: Store, tmp_path: pathlib.Path) -> None:
    flow_uuid = store.client.submit(owners.hold_and_ask, [str(tmp_path)])
    with PausedOwner("engine", {"url": store.url, "flow_uuid": flow_uuid}, tmp_path) as paused:
        paused.pause()
        # Its process lives, so there is nothing for it but to wait for the lease to run out.
        wait_until(
            lambda: store.client.resume(flow_uuid) == "DELAYED", timeout_seconds=30, what="a lease"
        )
        before = store.everything(flow_uuid)
        assert paused.go_on() == ["Fenced"]
        assert store.everything(flow_uuid) == before
    store.answer(flow_uuid)
    assert store.client.resume(flow_uuid) == "SUCCESS"
    assert store.client.flow(flow_uuid).results["hold"] == "a later owner"


def test_a_pause_that_nobody_used_changes_nothing(store: Store, tmp_path: pathlib.Path) -> None:
    flow_uuid = store.client.submit(owners.hold_and_ask, [str(tmp_path)])
    book = ledger.beside(store.client.backend)
    with PausedOwner("engine", {"url": store.url, "flow_uuid": flow_uuid}, tmp_path) as paused:
        paused.pause()
        wait_until(lambda: _expired(book, flow_uuid))
        assert paused.go_on() == ["DELAYED"]
    store.answer(flow_uuid)
    assert store.client.resume(flow_uuid) == "SUCCESS"
    assert store.client.flow(flow_uuid).results["hold"] == "the first owner"


def test_an_owner_paused_inside_a_transaction_is_superseded_as_well(
    postgresql_url: str, tmp_path: pathlib.Path
) -> None:
    """PostgreSQL ends its transaction, if told to; on SQLite everybody waits for the process."""
    with contextlib.ExitStack() as opened:
        client = Client({"connection": postgresql_url})
        opened.callback(client.backend.close)
        store = Store(postgresql_url, client, opened)
        database = sa.make_url(postgresql_url).database
        with client.backend.engine.connect() as connection:
            for setting in ("idle_in_transaction_session_timeout = '1s'", "lock_timeout = '30s'"):
                connection.execute(sa.text(f"ALTER DATABASE {database} SET {setting}"))
            connection.commit()
        client.backend.engine.dispose()  # settings are those of new connections
        flow_uuid = client.submit(owners.hold_and_ask, [str(tmp_path)])
        (tmp_path / "go on").touch()
        given = {"url": postgresql_url, "flow_uuid": flow_uuid, "pauses_in_commit": True}
        with PausedOwner("engine", given, tmp_path) as paused:
            wait_until((tmp_path / "stopped").exists, timeout_seconds=30)
            wait_until(lambda: client.resume(flow_uuid) == "DELAYED", timeout_seconds=60)
            before = store.everything(flow_uuid)
            assert client.flow(flow_uuid).results["hold"] == "a later owner"
            assert paused.go_on() == ["Fenced"]
            assert store.everything(flow_uuid) == before


def _expired(book: Any, flow_uuid: str) -> bool:
    record = book.flow(flow_uuid)
    return bool((record.lease_expires_at or book.now() + 1) < book.now())


@contextlib.contextmanager
def open_board(conf: dict[str, Any], backend: Any) -> Iterator[Any]:
    board = jobboards.fetch("board", conf, persistence=backend)
    board.connect()
    try:
        yield board
    finally:
        board.close()


@pytest.fixture
def board_conf(zookeeper: ZooKeeper, jobboard_path: str) -> dict[str, Any]:
    # A long session: the paused conductor still has its claim when it goes on.
    return {
        "board": "zookeeper",
        "hosts": zookeeper.hosts,
        "path": jobboard_path,
        "check_compatible": False,
        "timeout": 30.0,
    }


def run_conductor_once(board: Any, backend: Any) -> None:
    """Let another conductor answer one doorbell."""
    conductor = conductors.fetch("lazy", "another", board, persistence=backend, wait_timeout=0.1)
    conductor.run(max_dispatches=1)


def test_a_superseded_conductor_consumes_no_job(
    store: Store, board_conf: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    with open_board(board_conf, store.client.backend) as board:
        client = Client(store.client.backend, board)
        flow_uuid = client.submit(owners.hold_and_ask, [str(tmp_path)])
        with PausedOwner("conductor", {"url": store.url, "board": board_conf}, tmp_path) as paused:
            paused.pause()
            wait_until(lambda: client.resume(flow_uuid) == "DELAYED", timeout_seconds=30)
            before = store.everything(flow_uuid)
            assert paused.go_on() == ["job_abandoned"]
            assert store.everything(flow_uuid) == before
        assert board.job_count == 1
        store.answer(flow_uuid)  # its client has no board: the job that is left must do
        run_conductor_once(board, store.client.backend)
        assert client.flow(flow_uuid).state == "SUCCESS"
        wait_until(lambda: board.job_count == 0)


def test_a_stale_job_for_an_ended_flow_changes_nothing(
    store: Store, board_conf: dict[str, Any]
) -> None:
    flow_uuid = store.client.submit(owners.ask)
    store.client.resume(flow_uuid)
    store.answer(flow_uuid)
    assert store.client.resume(flow_uuid) == "SUCCESS"
    before = store.everything(flow_uuid)
    book = ledger.beside(store.client.backend)
    with open_board(board_conf, store.client.backend) as board:
        record = book.flow(flow_uuid)
        assert record is not None
        doorbell.ring(of(board), record, book)
        wait_until(lambda: board.job_count == 1)
        run_conductor_once(board, store.client.backend)
        wait_until(lambda: board.job_count == 0)
    assert store.everything(flow_uuid) == before


# -- busy --------------------------------------------------------------------


def test_a_task_longer_than_many_leases_keeps_its_flow(
    store: Store, tmp_path: pathlib.Path
) -> None:
    """With the serial executor and with threads, at the same time."""
    runs: dict[str, str] = {}
    ended: dict[str, str] = {}
    threads = []
    for executor in ("serial", "threads"):
        directory = tmp_path / executor
        directory.mkdir()
        runs[executor] = store.client.submit(owners.hold_and_ask, [str(directory)])
        options = {"executor": executor, "lease_seconds": A_LEASE_SECONDS}
        engine = owners.load(store.backend(), runs[executor], **options)
        threads.append(
            threading.Thread(
                target=lambda executor=executor, engine=engine: ended.update(
                    {executor: engine.run()}
                )
            )
        )
    for thread in threads:
        thread.start()
    try:
        for executor in runs:
            wait_until((tmp_path / executor / "held").exists)
        until = time.monotonic() + 5 * A_LEASE_SECONDS
        seen = set()
        while time.monotonic() < until:
            seen |= {store.client.resume(flow_uuid) for flow_uuid in runs.values()}
    finally:
        for executor in runs:
            (tmp_path / executor / "go on").touch()
        for thread in threads:
            thread.join(30)
    assert seen == {"RUNNING"}
    assert ended == {"serial": "DELAYED", "threads": "DELAYED"}
    for flow_uuid in runs.values():
        assert store.client.flow(flow_uuid).results["hold"] == "the first owner"
        record = ledger.beside(store.client.backend).flow(flow_uuid)
        assert record is not None and record.epoch == 1


@on_every_store
def test_an_abandoned_run_iter_loses_its_flow(store: Store) -> None:
    flow_uuid = store.client.submit(owners.ask)
    abandoned = owners.load(store.backend(), flow_uuid, lease_seconds=0.2).run_iter()
    assert next(abandoned) == "RESUMING"
    wait_until(lambda: store.client.resume(flow_uuid) == "DELAYED", timeout_seconds=30)
    before = store.everything(flow_uuid)
    with pytest.raises(errors.Fenced):
        for _state in abandoned:
            pass
    assert store.everything(flow_uuid) == before


def test_a_closed_run_iter_gives_its_flow_up(store: Store) -> None:
    flow_uuid = store.client.submit(owners.ask)
    closed = owners.load(store.backend(), flow_uuid, lease_seconds=3600).run_iter()
    assert next(closed) == "RESUMING"
    assert store.client.resume(flow_uuid) == "RUNNING"
    closed.close()
    assert store.client.resume(flow_uuid) == "DELAYED"


# -- loaded beforehand -------------------------------------------------------


@on_every_store
def test_the_second_of_two_engines_goes_on_where_the_first_one_parked(store: Store) -> None:
    flow_uuid = store.client.submit(owners.ask_twice)
    first, second = (owners.load(store.backend(), flow_uuid) for _ in range(2))
    assert first.run() == "DELAYED"
    store.answer(flow_uuid, "first")
    assert second.run() == "DELAYED"
    assert second.storage.fetch_all() == {"first": "answer"}
    store.answer(flow_uuid, "second")
    assert first.run() == "SUCCESS"
    before = store.everything(flow_uuid)
    assert second.run() == "SUCCESS"
    assert second.storage.fetch_all() == {"first": "answer", "second": "answer"}
    assert store.everything(flow_uuid) == before


def test_one_of_two_engines_that_run_at_once_finds_the_flow_busy(
    store: Store, tmp_path: pathlib.Path
) -> None:
    flow_uuid = store.client.submit(owners.hold_and_ask, [str(tmp_path)])
    first, second = (owners.load(store.backend(), flow_uuid, busy_wait_seconds=0) for _ in range(2))
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(first.run()))
    thread.start()
    try:
        wait_until((tmp_path / "held").exists)
        with pytest.raises(errors.FlowBusy):
            second.run()
    finally:
        (tmp_path / "go on").touch()
        thread.join(30)
    assert ended == ["DELAYED"]
    assert store.client.flow(flow_uuid).results["hold"] == "the first owner"
