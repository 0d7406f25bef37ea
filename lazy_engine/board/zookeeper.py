# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's ZooKeeper board: it tells of new jobs, and claims end with their session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from kazoo.protocol.states import KeeperState
from taskflow import exceptions as taskflow_exceptions

from lazy_engine.board.protocol import Board, is_unclaimed


class ZookeeperBoard(Board):
    """Sees to what kazoo holds back, loses or forgets when its server goes away."""

    type_name: ClassVar[tuple[str, str]] = (
        "taskflow.jobs.backends.impl_zookeeper",
        "ZookeeperJobBoard",
    )

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

    def hears_of_jobs(self) -> bool:
        """Whether the server would tell the board of a new job.

        Kazoo's ``ChildrenWatch`` (2.11) marks itself as established outside the
        thread that learns of a lost connection. When the two cross, it takes the
        watch that went with the connection for one it still has, and never asks
        for another: the board is deaf until its connection is lost once more.
        False also for the moment between a notice and the watch that follows it.
        """
        return bool(self.jobboard._client._child_watchers.get(self.jobboard.path))

    def listen_for_jobs(self) -> None:
        """Have a deaf board ask its server for all jobs and a new watch, in kazoo's thread."""
        self.jobboard._client.handler.spawn(self.jobboard._job_watcher._get_children)

    def unclaimed_jobs(self, *, ensure_fresh: bool) -> Iterator[Any]:
        """Yield the jobs that nobody has claimed.

        TaskFlow's iterator passes over a job whose state the server did not tell,
        and asks for the next one's; for that kazoo then waits until the server is
        there again. This one ends with the connection.

        :raises taskflow.exceptions.JobFailure: the board cannot be asked.
        """
        for job in self.jobboard._fetch_jobs(ensure_fresh=ensure_fresh):
            self._require_connection()
            try:
                state = job.state
            except taskflow_exceptions.NotFound:
                self.jobboard._remove_job(job.path)
                continue
            if is_unclaimed(state):
                yield job
