# SPDX-License-Identifier: Apache-2.0
"""Threads for the client, which is synchronous."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Overloaded(Exception):
    """Too many requests wait; come again later."""


class Pool:
    """Runs calls in a bounded number of the event loop's worker threads.

    The threads belong to the loop (anyio reuses them and ends them with it),
    so that an app that is mounted somewhere, and is never told that its
    server stops, leaves none behind.

    :param threads: how many calls run at the same time, in each event loop.
    :param waiting: how many more wait.
    :param waiting_seconds: how long one waits.
    """

    def __init__(self, *, threads: int, waiting: int, waiting_seconds: float) -> None:
        self._threads = threads
        self._waiting = waiting
        self._waiting_seconds = waiting_seconds
        self._limiters: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, anyio.CapacityLimiter
        ] = weakref.WeakKeyDictionary()

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a call in a thread and return what it returns.

        :raises Overloaded: it was not begun.
        """
        limiter = self._limiter()
        borrower = object()
        try:
            limiter.acquire_on_behalf_of_nowait(borrower)
        except anyio.WouldBlock:
            await self._wait_for_turn(limiter, borrower)
        try:
            unbounded = anyio.CapacityLimiter(1)
            bound: Callable[[], _T] = functools.partial(call, *args, **kwargs)
            return await anyio.to_thread.run_sync(bound, limiter=unbounded)
        finally:
            limiter.release_on_behalf_of(borrower)

    async def _wait_for_turn(self, limiter: anyio.CapacityLimiter, borrower: object) -> None:
        if limiter.statistics().tasks_waiting >= self._waiting:
            raise Overloaded
        # Whoever waits for a thread may give up; what runs in one is waited for.
        try:
            with anyio.fail_after(self._waiting_seconds):
                await limiter.acquire_on_behalf_of(borrower)
        except TimeoutError:
            raise Overloaded from None

    def _limiter(self) -> anyio.CapacityLimiter:
        loop = asyncio.get_running_loop()
        if loop not in self._limiters:
            self._limiters[loop] = anyio.CapacityLimiter(self._threads)
        return self._limiters[loop]
