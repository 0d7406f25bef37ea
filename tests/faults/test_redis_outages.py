# SPDX-License-Identifier: Apache-2.0
"""A Redis job board that is away, hangs, or comes back without its jobs: nobody waits for it, and no flow is lost."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from taskflow import states
from taskflow.conductors import backends as conductors
from taskflow.exceptions import JobFailure
from taskflow.jobs import backends as jobboards

from lazy_engine import Client, Disposition, cli, rules
from lazy_engine.board import RedisBoard, of
from lazy_engine.cli import ExitCode
from tests.faults.load import Load, conducting, open_backend
from tests.integration import wake_flows
from tests.integration.parked import make_flow, opened, park
from tests.servers import Redis
from tests.servers.proxy import Proxy
from tests.waiting import wait_until

pytestmark = pytest.mark.fault

#: Less than redis-py's own tries take, whose last socket timeout alone is five seconds.
_SOON_SECONDS = 4.8


@pytest.fixture(autouse=True)
def _quick_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the watchdog ring again after a second, not after a minute."""
    monkeypatch.setattr(rules, "RING_FRESH_SECONDS", 1.0)


@pytest.fixture(params=[False, True], ids=["forgets", "keeps"])
def server(request: pytest.FixtureRequest) -> Iterator[Redis]:
    with Redis(keeps=request.param) as made:
        yield made


@pytest.fixture
def forgetful() -> Iterator[Redis]:
    with Redis() as made:
        yield made


@contextlib.contextmanager
def open_board(port: int, store: Any, name: str = "tests") -> Iterator[Any]:
    conf = {"board": "redis", "host": "127.0.0.1", "port": port}
    with contextlib.closing(jobboards.fetch(name, conf, persistence=store)) as board:
        of(board).connect()
        yield board


@contextlib.contextmanager
def soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < _SOON_SECONDS


def test_load_survives_restarts(server: Redis, sqlite_url: str, tmp_path: pathlib.Path) -> None:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(open_backend(sqlite_url))
        boards = [
            stack.enter_context(open_board(server.port, store, name))
            for name in ("first", "second", "client")
        ]
        for board in boards[:2]:
            stack.enter_context(conducting(board, store, board.name))
        load = stack.enter_context(Load(Client(store, boards[2]), tmp_path))
        load.await_progress()
        for end in (server.stop, server.kill):
            end()
            refused = sum(load.refusals.values())
            wait_until(lambda refused=refused: sum(load.refusals.values()) > refused)
            server.start()
            load.await_progress()
        load.finish(boards)


def test_delivery_is_recorded_at_once_while_the_server_is_away_and_rung_for_when_it_is_back(
    forgetful: Redis, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(opened(sqlite_url))
        board = stack.enter_context(open_board(forgetful.port, store))
        worlds = [park(store, board=board) for _ in range(3)]
        stack.enter_context(conducting(board, store))
        for away, back in ((forgetful.stop, forgetful.start), (forgetful.pause, forgetful.resume)):
            away()
            world = worlds.pop()
            with soon():
                receipt = world.client.complete(world.token, "kept")
            assert (receipt.disposition, receipt.woken) == (Disposition.ACCEPTED, False)
            back()
            assert world.client.wait(world.flow_uuid, timeout_seconds=20) == states.SUCCESS
        forgetful.stop()
        (world,) = worlds
        answer = ["complete", "--flow", world.flow_uuid, "--task", "waits", "--result", "1"]
        words = ["--persistence", sqlite_url, "--jobboard", forgetful.url]
        assert cli.main([*answer, *words]) == ExitCode.UNREACHABLE
        seen = capsys.readouterr()
        assert seen.out.startswith("accepted: ")
        assert "recorded, but nobody was woken" in seen.err
        with pytest.raises(JobFailure, match="is stored, but nobody was asked to run it"):
            world.client.submit(make_flow)
        forgetful.start()
        assert world.client.wait(world.flow_uuid, timeout_seconds=20) == states.SUCCESS


@pytest.mark.parametrize("way", ["stop", "pause"])
def test_conductor_stops_while_the_server_is_away(
    forgetful: Redis,
    sqlite_url: str,
    tmp_path: pathlib.Path,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a busy machine the watchdog would ring a second time before the first one is answered.
    monkeypatch.setattr(rules, "RING_FRESH_SECONDS", 60.0)
    with opened(sqlite_url) as store, open_board(forgetful.port, store) as board:
        client = Client(store, board)
        with contextlib.ExitStack() as stack:
            conductor = stack.enter_context(conducting(board, store))
            store_of_flow = {"directory": str(tmp_path)}
            flow_uuid = client.submit(wake_flows.goes_step_by_step, store=store_of_flow)
            wait_until((tmp_path / "begun").exists)
            getattr(forgetful, way)()
            (tmp_path / "go").touch()
            assert client.wait(flow_uuid, timeout_seconds=10) == states.SUCCESS
            with soon():
                stack.close()
        if way == "pause":
            forgetful.resume()
            (job,) = of(board).jobs()
            assert of(board).owner_of(job) is not None, "nobody could be told"
            # A server that was silent is not asked again at once.
            wait_until(lambda: conductor.run(max_dispatches=0) or not list(of(board).jobs()))


def test_calls_that_a_hanging_server_does_not_answer_end_when_the_conductor_stops(
    forgetful: Redis, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(sqlite_url) as store, open_board(forgetful.port, store) as board:
        # So the conductor runs into a call, and not away from it.
        monkeypatch.setattr(RedisBoard, "is_connected", True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(conducting(board, store))
            forgetful.pause()
            pool = board._client.connection_pool
            wait_until(lambda: pool._in_use_connections, what="a call that hangs")
            with soon():
                stack.close()
        forgetful.resume()


def test_conductor_begins_while_the_server_is_away(forgetful: Redis, sqlite_url: str) -> None:
    with opened(sqlite_url) as store, open_board(forgetful.port, store) as board:
        client = Client(store, board)
        flow_uuid = Client(store).submit(make_flow)
        forgetful.stop()
        with conducting(board, store):
            pass
        with conducting(board, store):
            forgetful.start()
            assert client.submit(make_flow, flow_uuid=flow_uuid) == flow_uuid
            wait_until(lambda: client.flow(flow_uuid).state == "DELAYED")


@pytest.mark.parametrize("is_carried_out", [True, False])
@pytest.mark.parametrize("word", [b"EVALSHA", b"HSETNX"], ids=["claim", "post"])
def test_job_is_not_kept_by_a_claim_whose_answer_was_lost(
    forgetful: Redis, sqlite_url: str, word: bytes, is_carried_out: bool
) -> None:
    with (
        Proxy(forgetful.port) as proxy,
        opened(sqlite_url) as store,
        open_board(proxy.port, store) as board,
        open_board(forgetful.port, store) as other,
    ):
        client = Client(store, board)
        with conducting(board, store):
            first = client.submit(make_flow)  # with it the server learns the scripts for claims
            wait_until(lambda: client.flow(first).state == "DELAYED")
            wait_until(lambda: not list(of(other).jobs()))
            flow_uuid = Client(store).submit(make_flow)
            proxy.lose(word, is_carried_out=is_carried_out)
            with contextlib.suppress(JobFailure):
                client.submit(make_flow, flow_uuid=flow_uuid)
            if not list(of(other).jobs()):
                client.submit(make_flow, flow_uuid=flow_uuid)
            wait_until(lambda: client.flow(flow_uuid).state == "DELAYED")
            wait_until(lambda: not list(of(other).jobs()), what="the job to go")
            assert proxy.has_lost


def test_server_that_comes_back_empty_loses_no_flow(forgetful: Redis, sqlite_url: str) -> None:
    with opened(sqlite_url) as store, open_board(forgetful.port, store) as board:
        world = park(store, board=board)
        assert world.client.complete(world.token, "kept").woken
        never_begun = world.client.submit(make_flow)
        forgetful.restart()
        assert list(of(board).jobs()) == []
        with conducting(board, store):
            assert world.client.wait(world.flow_uuid, timeout_seconds=20) == states.SUCCESS
            wait_until(
                lambda: world.client.flow(never_begun).state == "DELAYED", timeout_seconds=20
            )


def test_stock_conductor_that_died_keeps_its_job_but_not_its_flow(
    forgetful: Redis, sqlite_url: str
) -> None:
    """What the how-to says of TaskFlow's own conductors on this board."""
    with opened(sqlite_url) as store, open_board(forgetful.port, store) as board:
        world = park(store, board=board)
        stock = conductors.fetch("blocking", "stock", board, persistence=store, engine="lazy")
        world.client.complete(world.token, "kept")
        (job,) = board.iterjobs()
        board.claim(job, stock._name)  # and dies
        with conducting(board, store):
            assert world.client.wait(world.flow_uuid, timeout_seconds=20) == states.SUCCESS
            wait_until(lambda: len(list(of(board).jobs())) == 1)
        assert of(board).owner_of(job) == "stock"
        assert job.expires_in() == -1
