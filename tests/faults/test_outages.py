# SPDX-License-Identifier: Apache-2.0
"""Job boards that fail under load: conductors go on by themselves, and no receipt turns out to be wrong."""

from __future__ import annotations

import contextlib
import pathlib
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient
from taskflow.conductors import backends as conductors
from taskflow.exceptions import JobFailure
from taskflow.jobs import backends as jobboards

from lazy_engine import Client, Disposition, StoreUnavailable, rules
from lazy_engine.board import ZookeeperBoard, of
from tests.faults.load import Load, conducting, open_backend, open_board
from tests.integration.parked import make_flow, opened, park
from tests.servers import Ensemble, ZooKeeper
from tests.servers.proxy import Proxy
from tests.waiting import wait_until

pytestmark = pytest.mark.fault

_SESSION_SECONDS = 2.0

# What a claim's node holds, and how a deletion within a transaction begins (MultiHeader: type 2, not done, no error).
_CLAIMS = b'"owner"'
_DELETES = struct.pack("!i?i", 2, False, -1)


@pytest.fixture(autouse=True)
def _quick_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the watchdog ring again after two seconds, not after a minute."""
    monkeypatch.setattr(rules, "RING_FRESH_SECONDS", 2.0)


@pytest.fixture(scope="module")
def own_zookeeper() -> Iterator[ZooKeeper]:
    with ZooKeeper(force_sync=False) as server:
        yield server


@pytest.fixture
def proxy(own_zookeeper: ZooKeeper) -> Iterator[Proxy]:
    with Proxy(own_zookeeper.port) as made:
        yield made


class Site:
    """Two conductors and a load, all with one job board in one place."""

    def __init__(self, load: Load, boards: list[Any], conductors: list[Any]) -> None:
        self.load = load
        self.boards = boards
        self.conductors = conductors

    def await_connection(self, is_connected: bool = True) -> None:
        for board in self.boards:
            wait_until(
                lambda board=board: of(board).is_connected is is_connected, timeout_seconds=20
            )

    def end(self) -> None:
        """See the load come to its end, and both conductors registered."""
        self.load.finish(self.boards)
        names = {conductor.conductor.name for conductor in self.conductors}
        path = f"{self.boards[0].entity_path}/conductor"
        wait_until(lambda: set(self.boards[0]._client.get_children(path)) == names)


@pytest.fixture
def start(
    tmp_path: pathlib.Path, sqlite_url: str
) -> Callable[[str], contextlib.AbstractContextManager[Site]]:
    @contextlib.contextmanager
    def begin(hosts: str) -> Iterator[Site]:
        with contextlib.ExitStack() as stack:
            backend = stack.enter_context(open_backend(sqlite_url))
            path = f"/{tmp_path.name}/jobs"
            boards = [
                stack.enter_context(open_board(hosts, backend, name, path=path))
                for name in ("first", "second", "client")
            ]
            at_work = [
                stack.enter_context(conducting(board, backend, board.name)) for board in boards[:2]
            ]
            load = stack.enter_context(Load(Client(backend, boards[2]), tmp_path))
            load.await_progress()
            yield Site(load, boards, at_work)

    return begin


def test_server_is_stopped_and_started(own_zookeeper: ZooKeeper, start: Any) -> None:
    with start(own_zookeeper.hosts) as site:
        for end in (own_zookeeper.stop, own_zookeeper.kill):
            end()
            site.await_connection(False)
            own_zookeeper.start()
            site.load.await_progress()
        site.end()
        assert site.load.refusals["submit: the job board"] > 0


def test_sessions_expire(own_zookeeper: ZooKeeper, start: Any) -> None:
    with start(own_zookeeper.hosts) as site:
        for board in site.boards:
            expire(own_zookeeper, board)
        site.load.await_progress()
        site.end()


def expire(server: ZooKeeper, board: Any) -> None:
    """End a board's session behind its back: whoever knows its password may."""
    session = board._client.client_id
    thief = KazooClient(server.hosts, client_id=session)
    thief.start()
    thief.stop()
    thief.close()
    wait_until(
        lambda: of(board).is_connected and board._client.client_id != session, timeout_seconds=20
    )


@pytest.mark.parametrize("sessions", [0.25, 1.75], ids=["shorter", "longer"])
@pytest.mark.parametrize("way", ["cut", "stall"])
def test_network_is_away(proxy: Proxy, start: Any, way: str, sessions: float) -> None:
    with start(proxy.hosts) as site:
        before = [board._client.client_id for board in site.boards]
        for _ in range(1 if sessions > 1 else 2):
            getattr(proxy, way)()
            # This is the outage, and not a wait for anything.
            time.sleep(sessions * _SESSION_SECONDS)
            proxy.restore()
            site.load.await_progress()
        site.end()
        after = [board._client.client_id for board in site.boards]
        assert (before == after) is (sessions < 1), "the session must have lived, or not"


def test_ensemble_loses_its_leader(start: Any) -> None:
    with Ensemble(3, force_sync=False) as ensemble, start(ensemble.hosts) as site:
        leader = ensemble.leader
        assert leader is not None
        leader.kill()
        site.load.await_progress()
        site.end()


# -- claims, and conductors that begin or stop while the server is away ----


@pytest.fixture
def site(proxy: Proxy, sqlite_url: str, tmp_path: pathlib.Path) -> Iterator[tuple[Any, Any]]:
    """A store and a board; nobody is at work yet."""
    with (
        opened(sqlite_url) as backend,
        # A session that outlives every cut here, also on a busy machine.
        open_board(
            proxy.hosts, backend, "tests", path=f"/{tmp_path.name}/jobs", timeout=15.0
        ) as board,
    ):
        yield backend, board


@pytest.mark.parametrize("is_carried_out", [True, False])
@pytest.mark.parametrize("word", [_CLAIMS, _DELETES], ids=["claim", "consumption"])
def test_job_is_not_kept_by_a_claim_whose_answer_was_lost(
    proxy: Proxy, site: tuple[Any, Any], word: bytes, is_carried_out: bool
) -> None:
    backend, board = site
    client = Client(backend, board)
    with conducting(board, backend):
        session = board._client.client_id
        proxy.lose(word, is_carried_out=is_carried_out)
        flow_uuid = client.submit(make_flow)
        wait_until(lambda: client.flow(flow_uuid).state == "DELAYED")
        wait_until(lambda: board.job_count == 0, what="the job to go")
        assert proxy.has_lost
        wait_until(lambda: of(board).is_connected)
        assert board._client.client_id == session, "or else nothing is shown"


def test_conductor_begins_and_stops_while_the_server_is_away_and_works_when_it_is_back(
    proxy: Proxy, site: tuple[Any, Any]
) -> None:
    backend, board = site
    client = Client(backend, board)
    first = client.submit(make_flow)
    proxy.cut()
    wait_until(lambda: not of(board).is_connected)
    with conducting(board, backend):
        pass
    with conducting(board, backend):
        proxy.restore()
        wait_until(lambda: client.flow(first).state == "DELAYED")
        wait_until(lambda: board.job_count == 0)


def test_conductor_on_a_board_that_lost_its_watch_hears_of_new_jobs_again(
    proxy: Proxy, site: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nor shall it take the watchdog, which rings again through a board that it shares.
    monkeypatch.setattr(rules, "RING_FRESH_SECONDS", 60.0)
    backend, board = site
    with (
        open_board(proxy.hosts, backend, "other", path=board.path) as other,
        conducting(board, backend),
    ):
        client = Client(backend, other)
        first = client.submit(make_flow)
        wait_until(lambda: client.flow(first).state == "DELAYED")
        wait_until(lambda: board.job_count == 0)
        # What kazoo leaves behind when a connection is lost while it takes up its watch.
        board._client._child_watchers.clear()
        flow_uuid = client.submit(make_flow)
        wait_until(lambda: client.flow(flow_uuid).state == "DELAYED")


def test_conductor_whose_registration_is_lost_registers_again(
    proxy: Proxy, own_zookeeper: ZooKeeper, site: tuple[Any, Any]
) -> None:
    backend, board = site
    proxy.lose(b"/conductor/", is_carried_out=False)
    with (
        open_board(own_zookeeper.hosts, backend, "other", path=board.path) as other,
        conducting(board, backend) as conductor,
    ):
        wait_until(lambda: proxy.has_lost)
        path = f"{board.entity_path}/conductor/{conductor.conductor.name}"
        wait_until(lambda: other._client.exists(path))


def test_conductor_stops_while_the_server_is_away_and_gives_its_job_up_later(
    proxy: Proxy, site: tuple[Any, Any]
) -> None:
    backend, board = site
    client = Client(backend, board)
    world = park(backend, board=board)
    with conducting(board, backend) as conductor:
        conductor.notifier.register("running_start", lambda *_, **__: proxy.cut())
        assert client.complete(world.token, "kept").woken
        assert client.wait(world.flow_uuid, timeout_seconds=10) == "SUCCESS"
        wait_until(lambda: not of(board).is_connected)
    assert board.job_count == 1, "nobody could be told"
    proxy.restore()
    wait_until(lambda: of(board).is_connected)
    conductor.run(max_dispatches=0)
    wait_until(lambda: board.job_count == 0)


def test_conductor_stops_while_the_server_is_away_though_it_was_looking_at_jobs(
    proxy: Proxy, site: tuple[Any, Any]
) -> None:
    backend, board = site
    proxy.lose(board.path.encode(), is_carried_out=False, and_cut=True)
    with conducting(board, backend):
        wait_until(lambda: proxy.has_lost)


def test_conductor_stops_while_the_server_is_away_though_it_was_just_about_to_claim(
    proxy: Proxy, site: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, board = site
    claim, has_asked = ZookeeperBoard.claim, threading.Event()

    def claim_too_late(driver: ZookeeperBoard, *args: Any) -> None:
        proxy.cut()
        wait_until(lambda: not driver.is_connected)
        has_asked.set()
        claim(driver, *args)

    monkeypatch.setattr(ZookeeperBoard, "claim", claim_too_late)
    with conducting(board, backend):
        Client(backend, board).submit(make_flow)
        assert has_asked.wait(10)


def test_conductor_on_a_board_that_was_never_connected_says_so(sqlite_url: str) -> None:
    with opened(sqlite_url) as backend:
        board = jobboards.fetch("tests", {"board": "zookeeper"}, persistence=backend)
        conductor = conductors.fetch("lazy", "tests", board, persistence=backend)
        with pytest.raises(JobFailure, match=r"'tests' is not connected: call connect\(\) first"):
            conductor.run()


def test_receipt_holds_when_neither_board_nor_store_can_be_told_more(
    proxy: Proxy, site: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, board = site
    world = park(backend, board=board)
    proxy.cut()
    wait_until(lambda: not of(board).is_connected)

    def fail(_flow_uuid: str) -> None:
        raise StoreUnavailable("the store failed")

    monkeypatch.setattr(world.ledger, "unring", fail)
    receipt = world.client.complete(world.token, "kept")
    assert (receipt.disposition, receipt.woken) == (Disposition.ACCEPTED, False)
    proxy.restore()
    with conducting(board, backend):  # the watchdog finds it
        assert world.client.wait(world.flow_uuid, timeout_seconds=10) == "SUCCESS"
