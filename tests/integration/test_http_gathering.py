# SPDX-License-Identifier: Apache-2.0
"""Deliveries that come together are handed to the store together, and each has its own answer."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from taskflow import states

from lazy_engine import Client, errors
from lazy_engine.http import Limits, make_app
from lazy_engine.http import app as app_module
from lazy_engine.http.gathering import Gathering
from lazy_engine.http.server import Server
from tests.integration.parked import World, opened, park
from tests.integration.web import Reply, Web
from tests.waiting import wait_until


class Gated(Client):
    """Lets the first delivery wait until it is told to go on, and notes who calls what."""

    def __init__(self, store: Any, board: Any = None) -> None:
        super().__init__(store, board)
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.batches: list[int] = []
        self.failure: Exception | None = None
        self.alone = 0

    def complete(self, token: str, result: Any = None) -> Any:
        self.alone += 1
        if not self.begun.is_set():
            self.begun.set()
            assert self.go_on.wait(20)
        return super().complete(token, result)

    def deliver_many(self, items: Any) -> Any:
        self.batches.append(len(items))
        if self.failure is not None:
            raise self.failure
        return super().deliver_many(items)


class BrokenBoard:
    """A job board of somebody's own that does not raise what TaskFlow's do."""

    name = "broken"
    connected = True

    def post(self, *_: Any, **__: Any) -> Any:
        raise OSError("no route to it")


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Any]:
    with opened(sqlite_url) as made:
        yield made


@pytest.fixture
def client(store: Any) -> Gated:
    return Gated(store)


def answer_at_once(client: Gated, tokens: list[str], limits: Limits) -> list[Reply]:
    """Have the first token's delivery at work while the others come; return all the answers."""
    made: list[Gathering] = []
    with (
        mock.patch.object(
            app_module, "Gathering", lambda *a, **k: made.append(Gathering(*a, **k)) or made[0]
        ),
        Server(make_app(client, limits=limits)) as server,
        concurrent.futures.ThreadPoolExecutor(len(tokens)) as pool,
    ):

        def ask(token: str) -> Reply:
            return Web(server.url).post(f"/v1/tokens/{token}/complete", {"result": token[-4:]})

        first = pool.submit(ask, tokens[0])
        assert client.begun.wait(20)
        others = [pool.submit(ask, token) for token in tokens[1:]]
        if limits.delivery_threads == 1:
            (line,) = made[0]._lines.values()
            wait_until(lambda: len(line.waiting) == len(others))
        else:
            concurrent.futures.wait(others, timeout=20)
        client.go_on.set()
        return [each.result(20) for each in (first, *others)]


def worlds(store: Any, count: int) -> list[World]:
    return [park(store) for _ in range(count)]


ONE = Limits(delivery_threads=1)


def test_what_comes_meanwhile_shares_a_transaction(store: Any, client: Gated) -> None:
    made = worlds(store, 5)
    tokens = [world.token for world in made]
    replies = answer_at_once(client, [*tokens, tokens[0], "lz1.forged", tokens[1]], ONE)
    assert client.batches == [7]
    assert [reply.status for reply in replies] == [200] * 6 + [404, 200]
    assert [reply.document.get("disposition") for reply in replies] == (
        ["accepted"] * 5 + ["duplicate", None, "duplicate"]
    )
    for world in made:
        assert world.client.resume(world.flow_uuid) == states.SUCCESS
        assert world.client.flow(world.flow_uuid).results["waits"] == world.token[-4:]


def test_batch_that_fails_is_logged_and_done_one_by_one(
    store: Any, client: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = [world.token for world in worlds(store, 3)]
    client.failure = RuntimeError(f"a defect with {tokens[1]}")
    replies = answer_at_once(client, tokens, ONE)
    assert [reply.status for reply in replies] == [200] * 3
    assert (client.batches, client.alone) == ([2], 3)
    (line,) = [one for one in caplog.records if one.name == "lazy_engine.http.gathering"]
    assert line.levelname == "ERROR"
    assert "2 deliveries" in line.getMessage()
    assert "RuntimeError: a defect" in line.getMessage()
    assert tokens[1] not in caplog.text


def test_doorbells_that_no_board_took_are_not_told_of_as_rung(store: Any) -> None:
    client = Gated(store, BrokenBoard())
    made = worlds(store, 4)
    replies = answer_at_once(client, [world.token for world in made], ONE)
    assert client.batches == [3]
    assert [(reply.status, reply.document["disposition"]) for reply in replies] == (
        [(200, "accepted")] * 4
    )
    assert [reply.document["woken"] for reply in replies] == [False] * 4
    assert [world.ledger.flow(world.flow_uuid).rung_at for world in made] == [None] * 4


def test_store_that_is_away_is_told_to_each(store: Any, client: Gated) -> None:
    made = worlds(store, 3)
    client._ledger.deliver_all = lambda by_flow, *, rings: dict.fromkeys(  # type: ignore[method-assign]
        by_flow, errors.StoreUnavailable("gone")
    )
    replies = answer_at_once(client, [world.token for world in made], ONE)
    assert [reply.status for reply in replies] == [200, 503, 503]
    made[1].assert_open()


def test_delivery_that_is_stuck_holds_up_no_other(store: Any, client: Gated) -> None:
    replies = answer_at_once(
        client, [world.token for world in worlds(store, 3)], Limits(delivery_threads=2)
    )
    # The others were answered before the first one was let go on.
    assert [reply.status for reply in replies] == [200] * 3


def test_whoever_waits_too_long_is_told_to_come_again(store: Any, client: Gated) -> None:
    made = worlds(store, 2)
    limits = Limits(delivery_threads=1, waiting_seconds=0.05)
    app = make_app(client, limits=limits)
    with Server(app) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        paths = [f"/v1/tokens/{world.token}/complete" for world in made]
        first = pool.submit(lambda: Web(server.url).post(paths[0], {"result": 1}))
        assert client.begun.wait(20)
        assert Web(server.url).post(paths[1], {"result": 1}).status == 503
        client.go_on.set()
        assert first.result(20).status == 200
        made[1].assert_open()
        assert Web(server.url).post(paths[1], {"result": 1}).status == 200
