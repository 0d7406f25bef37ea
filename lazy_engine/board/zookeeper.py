# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's ZooKeeper board: it tells of new jobs, and claims end with their session."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Final

from kazoo import exceptions as kazoo_exceptions
from kazoo.protocol import paths
from kazoo.protocol.states import KeeperState
from oslo_serialization import jsonutils
from taskflow import exceptions as taskflow_exceptions
from taskflow.utils import misc

from lazy_engine.board import zookeeper_colleagues, zookeeper_hearing
from lazy_engine.board.protocol import Board

#: Version of a znode that nobody has changed since it was made.
_AS_POSTED: Final = 0
#: What the parts of a transaction can fail with that says how the board stands.
_EXPLAINED: Final = (
    kazoo_exceptions.NoNodeError,
    kazoo_exceptions.BadVersionError,
    kazoo_exceptions.NodeExistsError,
)


class ZookeeperBoard(Board):
    """Sees to what kazoo holds back, loses or forgets when its server goes away."""

    type_name: ClassVar[tuple[str, str]] = (
        "taskflow.jobs.backends.impl_zookeeper",
        "ZookeeperJobBoard",
    )

    def __init__(self, jobboard: Any) -> None:
        super().__init__(jobboard)
        self._made: dict[str, tuple[str, Any]] = {}
        self._session: Any = None

    @property
    def _hearing(self) -> zookeeper_hearing.Hearing:
        return zookeeper_hearing.of(self.jobboard)

    @property
    def is_connected(self) -> bool:
        """Whether the board can reach its server now.

        TaskFlow's board says ``connected`` never again once a session was
        lost, though its client has long had a new one.
        """
        return bool(self.jobboard._client.connected)

    @property
    def is_closed(self) -> bool:
        """Whether the client was never started, or has been stopped."""
        return bool(self.jobboard._client.client_state == KeeperState.CLOSED)

    def connect(self) -> None:
        """Connect the board.

        :raises taskflow.exceptions.JobFailure: its server does not answer, or
            refuses to tell its version.
        """
        try:
            self.jobboard.connect()
        except taskflow_exceptions.JobFailure as error:
            if "server version" not in str(error):
                raise
            raise taskflow_exceptions.JobFailure(
                "the job board's ZooKeeper does not tell its version (its"
                " 4lw.commands.whitelist lacks 'envi', as by default): set"
                " 'check_compatible': False in the job board's configuration, or add envi to"
                " the server's whitelist",
                error,
            ) from error

    def watch_connection(self, note: Callable[[], None]) -> Callable[[], None]:
        """Have changes of the connection noted, in kazoo's thread; return what ends that."""

        def listen(_state: object) -> None:
            note()

        client = self.jobboard._client
        client.add_listener(listen)
        return lambda: client.remove_listener(listen)

    def fail_held_calls(self) -> None:
        """Have calls that kazoo holds back for a server that is away fail.

        Kazoo does so itself with the calls that are under way when a connection is
        lost, but keeps those that are made afterwards, and with them their threads.
        """
        if not self.jobboard._client.connected:
            self.jobboard._client._notify_pending(KeeperState.CONNECTING)

    # -- jobs -------------------------------------------------------------

    def prepare(self) -> None:
        """Have the board hear of jobs in fewer requests than TaskFlow's own watch makes."""
        self._hearing.begin()

    def attend(
        self, name: str, tell: Callable[[Any], None], note: Callable[[], None]
    ) -> Callable[[], None]:
        """Have a conductor told of jobs when their turns have come; see :meth:`.Board.attend`."""
        return self._hearing.attend(name, tell, note)

    def is_turn(self, job: Any) -> bool:
        """Whether a job may be claimed now: it is nobody's, and others had their chance."""
        return self._hearing.is_turn(job)

    def hears_of_jobs(self) -> bool:
        """Whether the server would tell the board of a new job.

        Kazoo's ``ChildrenWatch`` (2.11) marks itself as established outside the
        thread that learns of a lost connection. When the two cross, it takes the
        watch that went with the connection for one it still has, and never asks
        for another: the board is deaf until its connection is lost once more.
        False also for the moment between a notice and the watch that follows it.
        """
        return self._hearing.is_listening

    def listen_for_jobs(self) -> None:
        """Have a deaf board ask its server for all jobs and a new watch, in kazoo's thread."""
        self._hearing.look()

    def unclaimed_jobs(self, *, ensure_fresh: bool) -> Iterator[Any]:
        """Yield the jobs that nobody has claimed.

        TaskFlow's iterator asks three things of each job to find out whether it
        is claimed, here the names of the locks tell. It also passes over a job
        that the server says nothing of, and asks for the next one's; for that
        kazoo then waits until the server is there again. This one ends with the
        connection.

        :raises taskflow.exceptions.JobFailure: the board cannot be asked.
        """
        self._require_connection()
        if ensure_fresh:
            self._hearing.look_and_wait()
        for job in self.jobboard._fetch_jobs():
            self._require_connection()
            if not self._hearing.is_claimed(job):
                yield job

    def register(self, entity: Any) -> None:
        """Register a conductor, and learn of the others on the same board.

        :raises taskflow.exceptions.JobFailure: the board did not take it.
        """
        shares = {**entity.metadata, zookeeper_colleagues.SHARES: self.jobboard.path}
        super().register(type(entity)(entity.kind, entity.name, shares))
        self._hearing.conductors.meet()

    def unregister(self, entity: Any) -> None:
        """Have the others answer what was this conductor's to answer first.

        :raises taskflow.exceptions.JobFailure: nobody knows whether it is registered.
        """
        place = paths.join(self.jobboard.entity_path, entity.kind, entity.name)
        what = "A conductor cannot be taken off the list"
        with self._translated(what), contextlib.suppress(kazoo_exceptions.NoNodeError):
            self.jobboard._client.delete(place)

    def post(self, name: str, **options: Any) -> None:
        """Post a job in one request; raises as :meth:`.Board.post` does."""
        self._require_connection()
        self._hearing.begin()
        self._hearing.note_post()
        self.jobboard.post(name, **options)

    # -- claims -----------------------------------------------------------

    def claim(self, job: Any, who: str) -> None:
        """Claim a job in one request; raises as :meth:`.Board.claim` does.

        TaskFlow first reads the job, to claim it as it was read. It was read as
        it was posted, unless somebody has changed it; then TaskFlow claims it.
        """
        if job.path not in self.jobboard._known_jobs:
            raise taskflow_exceptions.NotFound(f"job {job.uuid} is not on the board any more")
        client = self.jobboard._client
        session = client.client_id
        if session != self._session:
            self._session = session
            self._made.clear()  # claims went with the session that made them
        claim = client.transaction()
        claim.check(job.path, version=_AS_POSTED)
        claim.create(
            job.lock_path, value=misc.binary_encode(jsonutils.dumps({"owner": who})), ephemeral=True
        )
        self._hearing.note_claim(job)
        try:
            with self._translated(f"Job {job.uuid} could not be claimed"):
                _raise_first(claim.commit())
        except kazoo_exceptions.BadVersionError:
            self._claim_as_read(job, who)
        except kazoo_exceptions.NoNodeError as error:
            self._hearing.note_end(job)
            raise taskflow_exceptions.NotFound(f"job {job.uuid} is gone") from error
        except kazoo_exceptions.NodeExistsError as error:
            self._hearing.note_end(job)
            raise taskflow_exceptions.UnclaimableJob(f"job {job.uuid} is claimed") from error
        except BaseException:
            self._hearing.note_end(job)
            raise
        else:
            self._made[job.path] = (who, session)

    def _claim_as_read(self, job: Any, who: str) -> None:
        try:
            super().claim(job, who)
        except BaseException:
            self._hearing.note_end(job)
            raise

    def consume(self, job: Any, who: str) -> None:
        """Take a claimed job off the board, in one request; raises as :meth:`.Board.consume` does."""
        if self._end(job, who, [job.lock_path, job.path]):
            self.jobboard._remove_job(job.path)
        else:
            super().consume(job, who)
        self._hearing.catch_up()

    def abandon(self, job: Any, who: str) -> None:
        """Give a claimed job back, in one request; raises as :meth:`.Board.consume` does."""
        if not self._end(job, who, [job.lock_path]):
            super().abandon(job, who)
        self._hearing.note_freed(job)
        self._hearing.catch_up()

    def _end(self, job: Any, who: str, nodes: list[str]) -> bool:
        """Delete a claim that was made here; false if that is for TaskFlow, which asks whose it is.

        A lock that this session has made is there, and its own, for as long as
        the session lasts.
        """
        client = self.jobboard._client
        made = self._made.pop(job.path, None)
        self._hearing.note_end(job)
        if made is None or made != (who, client.client_id):
            return False
        ending = client.transaction()
        for node in nodes:
            ending.delete(node, version=_AS_POSTED)
        with self._translated(f"Job {job.uuid} could not be given up"):
            return not any(isinstance(result, Exception) for result in ending.commit())

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Raise what kazoo raises, but for what explains itself, as a ``JobFailure``."""
        try:
            yield
        except _EXPLAINED:
            raise
        except (
            kazoo_exceptions.KazooException,
            self.jobboard._client.handler.timeout_exception,
        ) as error:
            raise taskflow_exceptions.JobFailure(
                f"{what}: {type(error).__name__} {error}", error
            ) from error


def _raise_first(results: Iterable[Any]) -> None:
    """Raise why a transaction failed, if it did: not that the rest was rolled back with it."""
    failures = [result for result in results if isinstance(result, Exception)]
    for failure in failures:
        if isinstance(failure, _EXPLAINED):
            raise failure
    for failure in failures:
        raise failure
