# SPDX-License-Identifier: Apache-2.0
"""Deliveries from a message queue: kombu's memory transport, and a real Redis."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import kombu
import pytest
from taskflow import states

from lazy_engine import Client, errors
from lazy_engine.mq import Consumer, Fate, deliver, read
from lazy_engine.resumer import Resumer
from tests.integration.parked import World, opened, park
from tests.servers import Redis
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(f"sqlite:///{tmp_path_factory.mktemp('mq') / 'lazy.sqlite'}") as made:
        yield made


@pytest.fixture
def world(store: Any) -> World:
    return park(store)


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with Redis() as running:
        yield running


class Broker:
    """One queue, and one for what cannot be delivered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"answers-{uuid.uuid4().hex}"
        self.dead = f"{self.name}-dead"

    def put(self, *messages: bytes) -> None:
        with kombu.Connection(self.url) as connection:
            queue = connection.SimpleQueue(self.name)
            for message in messages:
                queue.put(message, content_type="application/json", content_encoding="utf-8")
            queue.close()

    def left(self, name: str) -> Sequence[bytes]:
        """Take and return what is on a queue."""
        found = []
        with kombu.Connection(self.url) as connection:
            queue = connection.SimpleQueue(name)
            with contextlib.suppress(queue.Empty):
                while True:
                    message = queue.get(block=False)
                    message.ack()
                    body = message.body
                    found.append(body.encode() if isinstance(body, str) else bytes(body))
            queue.close()
        return found

    def consuming(self, client: Client, *, dead_letter: bool = True, **options: Any) -> Consumer:
        dead = self.dead if dead_letter else None
        return Consumer(client, self.url, self.name, dead_letter=dead, **options)


@pytest.fixture(params=["memory", "redis"])
def broker(request: pytest.FixtureRequest) -> Broker:
    if request.param == "memory":
        return Broker("memory://")
    return Broker(request.getfixturevalue("redis").url)


def message(token: str, **content: Any) -> bytes:
    return json.dumps({"token": token, **content}).encode()


def outcome_of(world: World) -> Any:
    (delay,) = world.ledger.delays_of(world.flow_uuid)
    return json.loads(delay.outcome.body) if delay.outcome else None


def test_messages_become_deliveries_and_bad_ones_are_put_aside(broker: Broker, store: Any) -> None:
    one, two = park(store), park(store)
    bad = [b"{", message("lz1.no.such.token", result=1), message(one.token, result="other")]
    done = [message(one.token, result=1), message(one.token, result=1)]
    broker.put(*done, *bad, message(two.token, error="no", kind="Nope", details=[1]))
    with broker.consuming(one.client):
        wait_until(lambda: outcome_of(two))
    assert outcome_of(one) == 1
    assert (outcome_of(two)["message"], outcome_of(two)["kind"]) == ("no", "Nope")
    assert broker.left(broker.name) == []
    assert broker.left(broker.dead) == bad


class _Flaky(Client):
    """Finds its store away, the first two times."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.tries = 0

    def deliver_many(self, items: Any) -> Any:
        self.tries += 1
        if self.tries <= 2:
            return [errors.StoreUnavailable("away")]
        return super().deliver_many(items)


def test_message_comes_again_while_the_store_is_away(broker: Broker, world: World) -> None:
    client = _Flaky(world.backend)
    broker.put(message(world.token, result=1))
    with broker.consuming(client, pause_seconds=0.01):
        wait_until(lambda: outcome_of(world))
    assert client.tries == 3
    assert broker.left(broker.name) == broker.left(broker.dead) == []


class _Held(Client):
    """Delivers, and does not come back before it is told to."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.recorded, self.go = threading.Event(), threading.Event()

    def deliver_many(self, items: Any) -> Any:
        answers = super().deliver_many(items)
        self.recorded.set()
        self.go.wait(20)
        return answers


def test_message_is_acknowledged_after_its_receipt(redis: Redis, world: World) -> None:
    from redis import Redis as Connection

    broker, client = Broker(redis.url), _Held(world.backend)
    broker.put(message(world.token, result=1))
    with broker.consuming(client), contextlib.closing(Connection(port=redis.port)) as look:
        assert client.recorded.wait(20)
        # Where kombu's transport keeps what was handed out and not acknowledged.
        assert look.hlen("unacked") == 1
        client.go.set()
        wait_until(lambda: look.hlen("unacked") == 0)


def test_broker_that_comes_back_is_found_again(world: World) -> None:
    with Redis() as own:
        broker = Broker(own.url)
        with broker.consuming(world.client) as consumer:
            wait_until(lambda: consumer.is_running)
            own.kill()
            own.start()
            broker.put(message(world.token, result=1))
            wait_until(lambda: outcome_of(world), timeout_seconds=30)


def test_without_a_dead_letter_queue_a_bad_message_is_rejected(world: World) -> None:
    broker = Broker("memory://")
    broker.put(b"{", message(world.token, result=1))
    with broker.consuming(world.client, dead_letter=False):
        wait_until(lambda: outcome_of(world))
    assert broker.left(broker.name) == broker.left(broker.dead) == []


def test_what_a_queue_brings_wakes_the_flow(world: World) -> None:
    broker = Broker("memory://")
    broker.put(message(world.token, result="good"))
    with Resumer(world.backend) as resumer, broker.consuming(resumer.client):
        assert resumer.client.wait(world.flow_uuid, timeout_seconds=10) == states.SUCCESS


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"result": 1}',
        b'{"token": 1, "result": 1}',
        b'{"token": "secret"}',
        b'{"token": "secret", "result": 1, "error": "x"}',
        b'{"token": "secret", "result": 1, "kind": "x"}',
        b'{"token": "secret", "error": 1}',
        b'{"token": "secret", "result": NaN}',
        b'{"token": "secret", "result": 1, "result": 2}',
    ],
)
def test_message_that_is_no_delivery_is_refused_without_repeating_it(body: bytes) -> None:
    with pytest.raises(ValueError, match="it ") as caught:
        read(body)
    assert "secret" not in str(caught.value)


def test_late_message_is_done_and_a_conflict_is_not(world: World) -> None:
    assert deliver(world.client, message(world.token, result=1)) is Fate.DONE
    assert deliver(world.client, message(world.token, result=2)) is Fate.DEAD
    assert world.client.resume(world.flow_uuid) == states.SUCCESS
    # The ledger keeps it.
    assert deliver(world.client, message(world.token, result=2)) is Fate.DONE
