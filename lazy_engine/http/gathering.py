# SPDX-License-Identifier: Apache-2.0
"""Deliveries that come at the same time, handed to the store together."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import traceback
import weakref
from collections.abc import Callable
from typing import Final, cast

from lazy_engine import Client, Failed, Receipt, Result
from lazy_engine.http.pool import Overloaded, Pool
from lazy_engine.token import mask

LOG = logging.getLogger(__name__)

#: How many are handed over together at most.
_MOST: Final = 64
#: How many such parties are at work while none is stuck, and how many more wait
#: for each of them before another one begins.
_AT_WORK: Final = 2
_FEW: Final = 2
#: How long one waits for those before it, until they count as stuck and another
#: thread goes on: the row of a flow may be locked by whoever runs it.
_PATIENCE_SECONDS: Final = 0.02


@dataclasses.dataclass(eq=False, slots=True)
class _Item:
    token: str
    outcome: Result | Failed
    alone: Callable[[], Receipt]
    answer: asyncio.Future[Receipt]


@dataclasses.dataclass(eq=False, slots=True)
class _Line:
    """What waits in one event loop, and what sees to it."""

    waiting: collections.deque[_Item] = dataclasses.field(default_factory=collections.deque)
    workers: set[asyncio.Task[None]] = dataclasses.field(default_factory=set)


class Gathering:
    """Delivers outcomes; those that come while others are at work share a transaction.

    So the store is waited for once for all of them. Each gets an answer of its
    own, and a bad one does not touch the others.

    :param threads: how many transactions at the same time.
    :param waiting: how many outcomes wait for one of them.
    :param waiting_seconds: how long one waits.
    """

    def __init__(
        self, client: Client, pool: Pool, *, threads: int, waiting: int, waiting_seconds: float
    ) -> None:
        self._client = client
        self._pool = pool
        self._threads = threads
        self._most_waiting = waiting
        self._waiting_seconds = waiting_seconds
        self._lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = (
            weakref.WeakKeyDictionary()
        )

    async def deliver(
        self, token: str, outcome: Result | Failed, alone: Callable[[], Receipt]
    ) -> Receipt:
        """Deliver an outcome; durable before this returns.

        :param alone: delivers the same by itself.
        :raises Overloaded: it was not begun.
        :raises LazyEngineError: as ``Client.complete`` does.
        """
        loop = asyncio.get_running_loop()
        line = self._lines.setdefault(loop, _Line())
        if line.workers and len(line.waiting) >= self._most_waiting:
            raise Overloaded
        item = _Item(token, outcome, alone, loop.create_future())
        line.waiting.append(item)
        if self._wants_worker(line):
            self._start(loop, line)
            return await item.answer
        timers = [
            loop.call_later(_PATIENCE_SECONDS, self._go_on_without, loop, line, item),
            loop.call_later(self._waiting_seconds, _give_up, line, item),
        ]
        try:
            return await item.answer
        finally:
            for timer in timers:
                timer.cancel()

    def _wants_worker(self, line: _Line) -> bool:
        """Whether to begin with what waits now, and not with what comes meanwhile.

        Two take turns: while one waits for the store, the other's requests are read
        and answered.
        """
        workers = len(line.workers)
        return workers < min(_AT_WORK, self._threads) and len(line.waiting) > _FEW * workers

    def _start(self, loop: asyncio.AbstractEventLoop, line: _Line) -> None:
        line.workers.add(loop.create_task(self._work(line)))

    def _go_on_without(self, loop: asyncio.AbstractEventLoop, line: _Line, item: _Item) -> None:
        if item in line.waiting and len(line.workers) < self._threads:
            self._start(loop, line)

    async def _work(self, line: _Line) -> None:
        try:
            await self._work_off(line)
        finally:
            # Before anybody else looks: whoever finds a worker waits for it.
            line.workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _work_off(self, line: _Line) -> None:
        while line.waiting:
            items = [line.waiting.popleft() for _ in range(min(_MOST, len(line.waiting)))]
            try:
                answers = await self._pool.run(self._deliver, items)
            except BaseException as error:
                # Whoever waits is to learn of it, even of the end of this worker.
                for item in items:
                    _settle(item, error)
                if not isinstance(error, Exception):
                    raise
            else:
                for item, answer in zip(items, answers, strict=True):
                    _settle(item, answer)

    def _deliver(self, items: list[_Item]) -> list[Receipt | BaseException]:
        if len(items) > 1:
            try:
                pairs = [(item.token, item.outcome) for item in items]
                return list(self._client.deliver_many(pairs))
            except Exception:
                # Whosever it is, it is not everybody's; each learns its own below.
                text = mask(traceback.format_exc())
                LOG.error(
                    "%d deliveries together failed; each is tried alone: %s", len(items), text
                )
        return [_attempt(item.alone) for item in items]


def _attempt(call: Callable[[], Receipt]) -> Receipt | BaseException:
    try:
        return call()
    except Exception as error:  # for whoever waits for this one alone
        return error


def _settle(item: _Item, answer: Receipt | BaseException) -> None:
    if item.answer.done():  # whoever asked has gone
        return
    if isinstance(answer, BaseException):
        item.answer.set_exception(answer)
    else:
        item.answer.set_result(answer)


def _give_up(line: _Line, item: _Item) -> None:
    if item in line.waiting:
        line.waiting.remove(item)
        _settle(item, Overloaded())
