# SPDX-License-Identifier: Apache-2.0
"""What the conductor and the client need of a job board, for any board."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final

from taskflow import exceptions as taskflow_exceptions
from taskflow import states
from taskflow.jobs import base as jobs_base

_RANKS: Final = {priority: rank for rank, priority in enumerate(jobs_base.JobPriority)}


class Board:
    """A TaskFlow job board, as far as TaskFlow's own interface goes.

    Whatever a server's own library raises leaves a driver as ``JobFailure``,
    so that nobody who only wanted to ring is told that more has failed.

    :param jobboard: TaskFlow's own object; it keeps all state.
    :cvar claim_seconds: how long a claim lasts that nobody renews; ``None`` if
        it ends by itself with its owner's connection.
    :cvar type_name: module and name of TaskFlow's class. The module is not
        imported for the sake of it: it may need a library that is not there.
    """

    claim_seconds: ClassVar[float | None] = None
    type_name: ClassVar[tuple[str, str]] = ("", "")

    def __init__(self, jobboard: Any) -> None:
        self.jobboard = jobboard

    @classmethod
    def fits(cls, jobboard: Any) -> bool:
        """Whether this driver is for that board."""
        module, name = cls.type_name
        known = getattr(sys.modules.get(module), name, None)
        return known is not None and isinstance(jobboard, known)

    @property
    def name(self) -> str:
        """What the board was called by whoever opened it."""
        return str(self.jobboard.name)

    # -- its server -------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the board can reach its server now; answers within a moment."""
        return bool(self.jobboard.connected)

    @property
    def is_closed(self) -> bool:
        """Whether the board was never connected, or has been closed: nothing will connect it."""
        return not self.jobboard.connected

    def connect(self) -> None:
        """Connect the board.

        :raises taskflow.exceptions.JobFailure: its server does not answer.
        """
        self.jobboard.connect()

    def prepare(self) -> None:
        """Make a connected board fit for a conductor, which tries again by itself."""

    def watch_connection(self, note: Callable[[], None]) -> Callable[[], None]:
        """Have changes of the connection noted; return what ends that.

        :param note: called in a thread that must not be held up. Never called
            by boards that tell nothing about their connection.
        """
        return lambda: None

    def fail_held_calls(self) -> None:
        """Have calls that wait for a server that is away fail, as by a lost connection."""

    # -- jobs -------------------------------------------------------------

    @property
    def notifies(self) -> bool:
        """Whether the board tells of new jobs by itself; others must be asked again and again."""
        return isinstance(self.jobboard, jobs_base.NotifyingJobBoard)

    def attend(
        self, name: str, tell: Callable[[Any], None], note: Callable[[], None]
    ) -> Callable[[], None]:
        """Have a conductor told of jobs when it may claim them; return what ends that.

        :param name: what the conductor is registered as.
        :param tell: called with a job, in a thread that must not be held up.
            Never called by boards that tell of nothing.
        :param note: called likewise when the board is to be looked through.
        """
        if not self.notifies:
            return lambda: None

        def on_posted(_event: str, details: Mapping[str, Any]) -> None:
            tell(details["job"])

        notifier = self.jobboard.notifier
        notifier.register(jobs_base.POSTED, on_posted)
        return lambda: notifier.deregister(jobs_base.POSTED, on_posted)

    def is_turn(self, job: Any) -> bool:
        """Whether a job that was told of may still be claimed, as far as is known without asking."""
        return True

    def hears_of_jobs(self) -> bool:
        """Whether a connected board that notifies would be told of a new job by its server."""
        return True

    def listen_for_jobs(self) -> None:
        """Have a deaf board ask its server for all jobs, and to be told of more."""

    def jobs(self) -> Iterator[Any]:
        """Yield all jobs on the board, as its server knows them now.

        :raises taskflow.exceptions.JobFailure: the board cannot be read.
        """
        yield from self.jobboard.iterjobs(ensure_fresh=True)

    def unclaimed_jobs(self, *, ensure_fresh: bool) -> Iterator[Any]:
        """Yield the jobs that nobody has claimed, the most urgent and then the oldest first.

        :param ensure_fresh: ask the server for all jobs, whatever is known of them.
        :raises taskflow.exceptions.JobFailure: the board cannot be read.
        """
        yield from self.jobboard.iterjobs(only_unclaimed=True, ensure_fresh=ensure_fresh)

    def register(self, entity: Any) -> None:
        """Register a conductor.

        :raises taskflow.exceptions.JobFailure: the board did not take it.
        """
        self.jobboard.register_entity(entity)

    def unregister(self, entity: Any) -> None:
        """Take a conductor off the list, where that is asked for jobs.

        :raises taskflow.exceptions.JobFailure: the board did not do it.
        """

    def post(self, name: str, **options: Any) -> None:
        """Post a job.

        :raises taskflow.exceptions.JobFailure: the board did not take it, its
            answer was lost, or there is no connection: the server's own library
            might hold the call back until there is one, and whoever delivers
            must not wait for that.
        """
        self._require_connection()
        self.jobboard.post(name, **options)

    # -- claims -----------------------------------------------------------

    def claim(self, job: Any, who: str) -> None:
        """Claim a job, where claims end for as long as :attr:`claim_seconds`.

        :param who: unlike that of any other claim.
        :raises taskflow.exceptions.UnclaimableJob: somebody else has it.
        :raises taskflow.exceptions.NotFound: it is gone.
        :raises taskflow.exceptions.JobFailure: nobody knows; the claim may have been made.
        """
        self.jobboard.claim(job, who)

    def renew(self, job: Any, who: str) -> bool:
        """Make a claim last for another :attr:`claim_seconds`; false if it has ended.

        :raises taskflow.exceptions.JobFailure: the board cannot be reached.
        """
        return True

    def owner_of(self, job: Any) -> str | None:
        """Return who has claimed a job.

        :raises taskflow.exceptions.NotFound: it is gone (some boards say ``None`` then, too).
        :raises taskflow.exceptions.JobFailure: the board cannot be asked.
        """
        owner: str | None = self.jobboard.find_owner(job)
        return owner

    def consume(self, job: Any, who: str) -> None:
        """Take a claimed job off the board.

        :raises taskflow.exceptions.NotFound: it is gone, or nobody's.
        :raises taskflow.exceptions.JobFailure: it is somebody else's, or nobody knows.
        """
        self.jobboard.consume(job, who)

    def abandon(self, job: Any, who: str) -> None:
        """Give a claimed job back; raises as :meth:`consume` does."""
        self.jobboard.abandon(job, who)

    def _require_connection(self) -> None:
        if not self.is_connected:
            raise taskflow_exceptions.JobFailure(f"job board '{self.name}' is not connected")


def in_turn(jobs: list[Any]) -> list[Any]:
    """Return jobs in the order in which they are to be done: the most urgent, then the oldest first.

    TaskFlow's Redis board (6.5) hands out the newest of equal priority first,
    so that under a steady load the oldest waits for ever; its etcd board
    begins with the least urgent.
    """
    return sorted(jobs, key=lambda job: (_RANKS[job.priority], job.sequence))


def is_unclaimed(state: str) -> bool:
    """Whether a job's state says that anybody may claim it."""
    return bool(state == states.UNCLAIMED)
