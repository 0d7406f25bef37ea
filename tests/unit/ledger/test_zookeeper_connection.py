# SPDX-License-Identifier: Apache-2.0
"""What is done when ZooKeeper does not answer, or others were faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kazoo import exceptions as kazoo_exceptions
from kazoo.handlers.threading import KazooTimeoutError

from lazy_engine import errors
from lazy_engine.ledger import zookeeper_connection
from lazy_engine.ledger.zookeeper_connection import Changed, Connection


class Client:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def sync_async(self, path: str) -> Client:
        self.events.append(f"sync {path}")
        return self

    def get(self, timeout: float) -> None:
        assert timeout > 0


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(zookeeper_connection.time, "sleep", lambda _seconds: None)
    return Client()


def failing_with(client: Client, failures: list[type[Exception]]) -> Any:
    left: Iterator[type[Exception]] = iter(failures)

    def work() -> str:
        client.events.append("work")
        for failure in left:
            raise failure
        return "done"

    return work


@pytest.mark.parametrize(
    "error",
    [
        kazoo_exceptions.ConnectionLoss,
        kazoo_exceptions.SessionExpiredError,
        kazoo_exceptions.SessionMovedError,
        kazoo_exceptions.ConnectionClosedError,
        kazoo_exceptions.OperationTimeoutError,
    ],
)
def test_work_that_lost_its_connection_is_repeated_on_what_is_newest(
    client: Client, error: type[Exception]
) -> None:
    connection = Connection(client, "/root")
    assert connection.repeat(failing_with(client, [error])) == "done"
    assert client.events == ["work", "sync /root", "work"]


def test_work_that_lost_a_race_is_repeated_at_once(client: Client) -> None:
    assert Connection(client, "/root").repeat(failing_with(client, [Changed] * 20)) == "done"
    assert client.events == ["work"] * 21


def test_store_that_stays_away_is_given_up(client: Client) -> None:
    work = failing_with(client, [kazoo_exceptions.ConnectionLoss] * 100)
    with pytest.raises(errors.StoreUnavailable, match="ConnectionLoss"):
        Connection(client, "/root").repeat(work)
    assert client.events.count("work") == zookeeper_connection._TRIES


@pytest.mark.parametrize("error", [kazoo_exceptions.NoAuthError, KazooTimeoutError])
def test_refusal_and_silence_are_not_repeated(client: Client, error: type[Exception]) -> None:
    with pytest.raises(errors.StoreUnavailable, match=error.__name__):
        Connection(client, "/root").repeat(failing_with(client, [error]))
    assert client.events == ["work"]


def test_endless_contention_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zookeeper_connection, "_CONTENTION_SECONDS", -1.0)
    with pytest.raises(errors.StoreUnavailable, match="others wrote"):
        Connection(client, "/root").repeat(failing_with(client, [Changed]))
