# SPDX-License-Identifier: Apache-2.0
"""Children that are forked off while their parent's threads are at work, and use the same client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay
from lazy_engine.ledger import key
from lazy_engine.ledger.keeper import RENEWALS_PER_LEASE
from tests.forking import fork, wait_for

LEASE_SECONDS = 0.6


class Ask(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=3600)


class Holds(task.Task):
    """A task that is at work until it is told."""

    begun = threading.Event()
    may_end = threading.Event()

    def execute(self) -> None:
        self.begun.set()
        assert self.may_end.wait(20)


def asks() -> Any:
    return Ask("ask")


def holds() -> Any:
    return linear_flow.Flow("holds").add(Holds("hold"))


def load(client: Client, flow_uuid: str) -> Any:
    return taskflow.engines.load(
        holds(),
        flow_detail=client._ledger.detail(flow_uuid),
        backend=client.backend,
        engine="lazy",
        lease_seconds=LEASE_SECONDS,
    )


@pytest.fixture
def client(sqlite_url: str) -> Iterator[Client]:
    made = Client({"connection": sqlite_url}, keep_engines=4)
    yield made
    made.backend.close()


@pytest.fixture
def holding(client: Client) -> Iterator[str]:
    """A flow that a thread of this process runs."""
    Holds.begun.clear()
    Holds.may_end.clear()
    flow_uuid = client.submit(holds)
    engine = load(client, flow_uuid)
    thread = threading.Thread(target=engine.run)
    thread.start()
    assert Holds.begun.wait(10)
    yield flow_uuid
    Holds.may_end.set()
    thread.join(10)
    assert client.flow(flow_uuid).state == "SUCCESS"


def test_child_renews_its_own_leases_and_none_of_its_parents(client: Client, holding: str) -> None:
    def work() -> None:
        renewed: list[str] = []
        renew = client._ledger.renew

        def note(lease: Any) -> Any:
            renewed.append(lease.flow_uuid)
            if len(renewed) > RENEWALS_PER_LEASE:
                Holds.may_end.set()
            return renew(lease)

        client._ledger.renew = note
        Holds.may_end = threading.Event()
        flow_uuid = client.submit(holds)
        assert load(client, flow_uuid).run() == "SUCCESS"
        assert set(renewed) == {flow_uuid}

    wait_for(fork(work))


@pytest.mark.parametrize("lock", ["keeper", "keys", "engines"])
def test_child_waits_for_no_lock_of_its_parents_threads(client: Client, lock: str) -> None:
    client._ledger.signing_key()
    ring = client._ledger._keys
    assert isinstance(ring, key.KeyRing)
    held = {
        "keeper": client._ledger.keeper._changed,
        "keys": ring._lock,
        "engines": client._shelf._lock,
    }[lock]
    has_it, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with held:
            has_it.set()
            may_go.wait(20)

    def work() -> None:
        ring._stored = {}
        flow_uuid = client.submit(asks)
        assert client.resume(flow_uuid) == "DELAYED"
        client.complete(client.token(flow_uuid, "ask"), 1)
        assert client.resume(flow_uuid) == "SUCCESS"
        client._ledger.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert has_it.wait(10)
    try:
        wait_for(fork(work))
    finally:
        may_go.set()
        thread.join(10)
