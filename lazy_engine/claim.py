# SPDX-License-Identifier: Apache-2.0
"""What a conductor has claimed on a job board, until it is surely given up.

A claim lives as long as the board's session. One that could not be given up
(or whose making was never confirmed) before the connection was lost would, if
the session outlives that, keep its job from everybody for ever.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions

from lazy_engine import host

LOG = logging.getLogger(__name__)

#: What to do with a job after its run: it has done its work; it is for another
#: conductor; it is for later; it is all there is that leads to its flow.
CONSUME: Final = "consume"
ABANDON: Final = "abandon"
COOL: Final = "cool"
KEEP: Final = "keep"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Unsettled:
    job: Any
    claimant: str
    fate: str


class Claims:
    """The claims of one conductor. Safe to use from its threads.

    :param board: a TaskFlow job board.
    :param label: who claims; each claim adds a part of its own, since
        TaskFlow's boards know owners by name alone.
    """

    def __init__(self, board: Any, label: str) -> None:
        self._board = board
        self._label = label
        self._lock = threading.Lock()
        self._claimants: dict[str, str] = {}
        self._unsettled: list[_Unsettled] = []

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
        self._claimants[job.uuid] = claimant
        return True

    def give_up(self, job: Any, fate: str) -> bool:
        """Consume a claimed job, or give it back; false if that is left for :meth:`settle`."""
        claim = _Unsettled(job=job, claimant=self._claimants.pop(job.uuid, ""), fate=fate)
        if not host.is_connected(self._board):
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
                if self._board.find_owner(claim.job) == claim.claimant:
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
