# SPDX-License-Identifier: Apache-2.0
"""Delivers what comes on a message queue; needs the extra ``mq``.

A message is strict JSON: ``{"token": str, "result": JSON}`` or ``{"token": str,
"error": str, "kind": str | null, "details": JSON}``. It is acknowledged once its
receipt is durable, so a queue that hands a message out twice makes a
duplicate, which is done.
"""

from __future__ import annotations

import enum
import logging
import threading
from typing import Any, Final

import kombu
from kombu.mixins import ConsumerMixin
from taskflow import exceptions as taskflow_exceptions

from lazy_engine import errors, strict_json
from lazy_engine.client import Client
from lazy_engine.outcome import Failed, Result
from lazy_engine.receipt import Disposition
from lazy_engine.token import mask

LOG = logging.getLogger(__name__)

#: How long to leave a message alone when the store is away.
PAUSE_SECONDS: Final = 5.0

_RESULT_NAMES: Final = frozenset({"token", "result"})
_FAILURE_NAMES: Final = frozenset({"token", "error", "kind", "details"})


class Fate(enum.Enum):
    """What becomes of a message."""

    #: Its outcome is recorded, or nothing will ever come of it: take it away.
    DONE = "done"
    #: Somebody has to look at it: put it aside.
    DEAD = "dead"
    #: The store is away: have it come again.
    AGAIN = "again"


def read(body: bytes) -> tuple[str, Result | Failed]:
    """Return the token and the outcome of a message.

    :raises ValueError: it is not one, in words that hold nothing of it.
    """
    sent = strict_json.read(body)
    if not isinstance(sent, dict) or not isinstance(sent.get("token"), str):
        raise ValueError("it is not an object with a token")
    if "result" in sent and sent.keys() <= _RESULT_NAMES:
        return sent["token"], Result(sent["result"])
    if isinstance(sent.get("error"), str) and sent.keys() <= _FAILURE_NAMES:
        return sent["token"], Failed(
            sent["error"], kind=sent.get("kind"), details=sent.get("details")
        )
    raise ValueError(
        "beside its token it has neither a result alone, nor an error (text), perhaps with kind"
        " and details"
    )


def deliver(client: Client, body: bytes) -> Fate:
    """Deliver one message, and say what is to become of it."""
    try:
        token, outcome = read(body)
    except ValueError as error:
        LOG.warning("a message is not a delivery: %s", error)
        return Fate.DEAD
    (answer,) = client.deliver_many([(token, outcome)])
    if isinstance(answer, taskflow_exceptions.StorageFailure):
        LOG.warning("a delivery has to wait, the store does not answer: %s", mask(str(answer)))
        return Fate.AGAIN
    if isinstance(answer, errors.LazyEngineError):
        LOG.warning("a delivery was refused: %s", mask(str(answer)))
        return Fate.DEAD
    whom = (answer.task_name, answer.flow_uuid, answer.disposition.value)
    if answer.disposition is Disposition.CONFLICT:
        # The ledger keeps the first outcome; this one is nowhere else.
        LOG.warning("delivery for task %r of flow %s: %s", *whom)
        return Fate.DEAD
    LOG.info("delivery for task %r of flow %s: %s", *whom)
    return Fate.DONE


class Consumer:
    """Delivers what comes on a queue, one message after the other, in a thread of its own.

    Reconnects to a broker that went away. Several may share a queue.

    :param client: rings, if it has a job board.
    :param url: the broker, as kombu knows it.
    :param queue: its name; it is made (durable) if it is not there.
    :param dead_letter: the name of a queue for messages that cannot be
        delivered: as they came, with their tokens in them. Without one they
        are rejected, and the broker's own rules decide.
    :param pause_seconds: how long to wait when the store is away.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        queue: str,
        *,
        dead_letter: str | None = None,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._client = client
        self._connection = kombu.Connection(url)
        self._queue = kombu.Queue(queue, durable=True)
        self._dead_letter = kombu.Queue(dead_letter, durable=True) if dead_letter else None
        self._pause_seconds = pause_seconds
        self._is_ending = threading.Event()
        self._loop = _Loop(self._connection, self)
        self._thread = threading.Thread(target=self._loop.run, name="lazy-engine-mq", daemon=True)

    @property
    def is_running(self) -> bool:
        """Whether messages are taken."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to take messages."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the message at work, and end."""
        self._is_ending.set()
        self._loop.should_stop = True
        if self._thread.ident is not None:
            self._thread.join()
        self._connection.release()

    def __enter__(self) -> Consumer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def handle(self, message: Any) -> None:
        """Deliver a message, then acknowledge, reject or return it."""
        try:
            fate = deliver(self._client, _bytes(message.body))
        except Exception:
            # The thread must live: other messages are due. A defect here must
            # not make this one come again for ever.
            LOG.error("a delivery failed", exc_info=LOG.isEnabledFor(logging.DEBUG))
            fate = Fate.DEAD
        if fate is Fate.AGAIN:
            message.requeue()
            self._is_ending.wait(self._pause_seconds)
        elif fate is Fate.DONE:
            message.ack()
        elif self._dead_letter is None:
            message.reject()
        else:
            # Put aside first: if it dies in between, the message comes again.
            self._put_aside(message)
            message.ack()

    def _put_aside(self, message: Any) -> None:
        with kombu.Producer(message.channel) as producer:
            producer.publish(
                _bytes(message.body),
                routing_key=self._dead_letter.name if self._dead_letter else "",
                declare=[self._dead_letter],
                content_type="application/json",
                content_encoding="utf-8",
            )

    @property
    def queues(self) -> list[Any]:
        """The queue that messages are taken from."""
        return [self._queue]


class _Loop(ConsumerMixin):  # type: ignore[misc]  # kombu has no types
    """kombu's loop, which reconnects."""

    def __init__(self, connection: Any, owner: Consumer) -> None:
        self.connection = connection
        self._owner = owner

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:
        # on_message hands a message over as it is: kombu would take JSON that
        # is not strict, and log what it cannot read.
        return [Consumer(self._owner.queues, on_message=self._owner.handle, prefetch_count=1)]


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)
