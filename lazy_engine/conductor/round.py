# SPDX-License-Identifier: Apache-2.0
"""Which jobs a conductor may claim, in the order in which it hears of them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions

from lazy_engine.board import Board
from lazy_engine.claim import Claims
from lazy_engine.conductor.cooling import Cooling

#: How often a board is read that does not tell of new jobs.
_READ_SECONDS: Final = 0.5


class Round:
    """What a conductor hears of jobs, and its looks at the board in between.

    :param entity: what the board is to list the conductor as.
    :param wait_seconds: longest time between two looks at what is known of the board.
    :param settle: gives up what could not be given up before.
    """

    def __init__(
        self,
        board: Board,
        claims: Claims,
        cooling: Cooling,
        *,
        entity: Callable[[], Any],
        wait_seconds: Callable[[], float],
        settle: Callable[[], None],
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._board = board
        self._claims = claims
        self._cooling = cooling
        self._entity = entity
        self._wait_seconds = wait_seconds
        self._settle = settle
        self._log = log
        self._rings: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._is_news = threading.Event()
        self._has_read = False
        self._seems_deaf = False

    def begin(self, *, is_stopped: bool) -> None:
        """Get ready to yield jobs; *is_stopped* if that was called off before."""
        self._stopping.clear()
        if is_stopped:
            self._stopping.set()
        self._is_news.set()

    @property
    def is_stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Yield no more jobs."""
        self._stopping.set()
        self._rings.put(None)

    # -- what others tell, in their threads --------------------------------

    def ring(self, job: Any) -> None:
        """Tell of a job that may be claimed."""
        self._rings.put(job)

    def look_anew(self) -> None:
        """Have the whole board read again: something may have been missed."""
        self._is_news.set()
        self._rings.put(None)

    def look_in_time(self) -> None:
        """Have it found out again when the next look is due."""
        self._rings.put(None)

    # -- in the conductor's thread ------------------------------------------

    def jobs(self) -> Iterator[Any]:
        """Yield jobs that may be claimable, until stopped."""
        next_look = 0.0
        while not self.is_stopping:
            now = time.monotonic()
            if now >= next_look or self._is_news.is_set():
                yield from self.look_through()
                next_look = time.monotonic() + self._cooling.next_in(self._timeout_seconds)
            try:
                job = self._rings.get(timeout=max(0.0, next_look - time.monotonic()))
            except queue.Empty:
                continue
            if job is None:
                # A job that cools down from now on may be due before the next look.
                due = time.monotonic() + self._cooling.next_in(self._timeout_seconds)
                next_look = min(next_look, due)
            elif not self._cooling.holds(job) and self._board.is_turn(job):
                yield job

    def look_through(self) -> Iterator[Any]:
        """Yield the unclaimed jobs on the board."""
        if not self._board.is_connected:
            # Kazoo would hold calls back until its server is there again, and
            # nobody could stop this conductor until then.
            self._is_news.clear()
            self._has_read = False
            return
        cooled = self._cooling.uuids()
        seen = set()
        self._has_read = self._has_read and not self._is_news.is_set()
        self._is_news.clear()
        try:
            if not self._has_read:
                self._board.register(self._entity())
            if self._claims.has_unsettled:
                self._settle()
            self._mend_hearing()
            # Of what was posted while the connection was lost TaskFlow's board
            # may never hear, and after a lost session it knows of no job at all.
            for job in self._board.unclaimed_jobs(ensure_fresh=not self._has_read):
                if self.is_stopping:
                    return
                seen.add(job.uuid)
                if not self._cooling.holds(job) and self._board.is_turn(job):
                    yield job
        except taskflow_exceptions.JobFailure:
            # Its server may be restarting; the next look finds out.
            self._log.warning("the job board could not be read", exc_info=True)
            self._has_read = False
            return
        self._has_read = True
        self._cooling.forget(cooled - seen)  # somebody else has them, or has done with them

    def _mend_hearing(self) -> None:
        """Have the board listen again if it was deaf at two looks in a row."""
        has_seemed_deaf = self._seems_deaf
        self._seems_deaf = not self._board.hears_of_jobs()
        if self._seems_deaf and has_seemed_deaf:
            self._log.warning("the job board heard of no new job; it listens again")
            self._board.listen_for_jobs()

    @property
    def _timeout_seconds(self) -> float:
        seconds = self._wait_seconds()
        return seconds if self._board.notifies else min(seconds, _READ_SECONDS)
