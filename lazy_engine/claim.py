# SPDX-License-Identifier: Apache-2.0
"""What a conductor has claimed on a job board, until it is surely given up.

On some boards a claim lives as long as the board's session. One that could not
be given up (or whose making was never confirmed) before the connection was lost
would, if the session outlives that, keep its job from everybody for ever.

On the others a claim is for a time, and is renewed while its job is at work.
One that ends in between, for its board was away, does no harm: whoever claims
the job next finds the flow's lease taken, or fences its owner.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import threading
from collections.abc import Iterator
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions

from lazy_engine.board import Board

LOG = logging.getLogger(__name__)

#: What to do with a job after its run: it has done its work; it is for another
#: conductor; it is for later; it is all there is that leads to its flow.
CONSUME: Final = "consume"
ABANDON: Final = "abandon"
COOL: Final = "cool"
KEEP: Final = "keep"

#: How often a claim that is for a time is renewed before it would end.
_RENEWALS: Final = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Unsettled:
    job: Any
    claimant: str
    fate: str


class Claims:
    """The claims of one conductor. Safe to use from its threads.

    :param label: who claims; each claim adds a part of its own, since
        TaskFlow's boards know owners by name alone.
    """

    def __init__(self, board: Board, label: str) -> None:
        self._board = board
        self._label = label
        self._lock = threading.Lock()
        self._taken: dict[str, tuple[Any, str]] = {}
        self._unsettled: list[_Unsettled] = []

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """While this lasts, renew what is claimed, in a thread of its own, if the board needs it."""
        if self._board.claim_seconds is None:
            yield
            return
        ended = threading.Event()
        pause_seconds = self._board.claim_seconds / _RENEWALS
        thread = threading.Thread(
            target=self._renew_until,
            args=(ended, pause_seconds),
            name="lazy-engine-claims",
            daemon=True,
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _renew_until(self, ended: threading.Event, pause_seconds: float) -> None:
        while not ended.wait(pause_seconds):
            for job, claimant in list(self._taken.values()):
                if ended.is_set() or not self._renew(job, claimant):
                    break

    def _renew(self, job: Any, claimant: str) -> bool:
        """Renew one claim; false if the board is away, so that there is no point in going on."""
        try:
            # Given up in the meantime is no reason to complain.
            if not self._board.renew(job, claimant) and job.uuid in self._taken:
                LOG.warning("the claim on job %s has ended before its work", job)
        except taskflow_exceptions.TaskFlowException:
            LOG.warning("claims could not be renewed", exc_info=True)
            return False
        except Exception:
            # The thread must live: other claims hang on it.
            LOG.exception("the claim on job %s could not be renewed", job)
        return True

    @property
    def has_unsettled(self) -> bool:
        """Whether there are claims that could not be given up."""
        return bool(self._unsettled)

    def take(self, job: Any) -> bool:
        """Claim a job; false if somebody else has it, or if nobody can tell."""
        claimant = f"{self._label}#{secrets.token_hex(4)}"
        try:
            self._board.claim(job, claimant)
        except (taskflow_exceptions.UnclaimableJob, taskflow_exceptions.NotFound):
            return False  # somebody else was quicker; the flow is in good hands
        except taskflow_exceptions.JobFailure:
            # The board may have taken the claim, and only its answer was lost.
            LOG.warning("job %s could not be claimed", job, exc_info=True)
            self._leave(_Unsettled(job=job, claimant=claimant, fate=ABANDON))
            return False
        self._taken[job.uuid] = (job, claimant)
        return True

    def give_up(self, job: Any, fate: str) -> bool:
        """Consume a claimed job, or give it back; false if that is left for :meth:`settle`."""
        _, claimant = self._taken.pop(job.uuid, (job, ""))
        claim = _Unsettled(job=job, claimant=claimant, fate=fate)
        if not self._board.is_connected:
            # Kazoo would hold the call back until its server is there again,
            # and with it the thread, and with that a conductor that is to stop.
            LOG.warning("job %s is given up later: the job board is away", job)
        else:
            try:
                self._carry_out(claim)
                return True
            except taskflow_exceptions.NotFound:
                LOG.warning("job %s could not be given up, it is gone", job, exc_info=True)
                return False
            except taskflow_exceptions.TaskFlowException:
                LOG.warning("job %s could not be given up yet", job, exc_info=True)
        self._leave(claim)
        return False

    def settle(self) -> list[tuple[Any, str]]:
        """Give up what could not be given up; return jobs and fates of what now was.

        What fails again is left for the next time.
        """
        with self._lock:
            waiting, self._unsettled = self._unsettled, []
        settled: list[tuple[Any, str]] = []
        while waiting:
            claim = waiting[0]
            try:
                if self._board.owner_of(claim.job) == claim.claimant:
                    self._carry_out(claim)
                    settled.append((claim.job, claim.fate))
            except taskflow_exceptions.NotFound:
                pass  # the job is gone, and the claim with it
            except taskflow_exceptions.TaskFlowException:
                with self._lock:
                    self._unsettled += waiting
                LOG.warning("%d jobs could not be given up yet", len(waiting), exc_info=True)
                break
            waiting.pop(0)
        return settled

    def _carry_out(self, claim: _Unsettled) -> None:
        if claim.fate == CONSUME:
            self._board.consume(claim.job, claim.claimant)
        else:
            self._board.abandon(claim.job, claim.claimant)

    def _leave(self, claim: _Unsettled) -> None:
        with self._lock:
            self._unsettled.append(claim)
