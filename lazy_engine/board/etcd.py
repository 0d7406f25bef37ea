# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's etcd board, through etcd's HTTP gateway: it tells of nothing by itself, and claims are for a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from taskflow import exceptions as taskflow_exceptions

from lazy_engine.board.protocol import Board, in_turn, is_unclaimed

#: How long a server may take to answer whether it is there.
_PROBE_SECONDS: Final = 2.0


class EtcdBoard(Board):
    """Gives claims an end, asks the server and not the board's memory, and hands jobs out in turn.

    TaskFlow's board (6.5) has a thread that watches for jobs. It hears of
    nothing any more once its connection was lost, so what it knows is not used.
    """

    claim_seconds: ClassVar[float | None] = 15.0
    type_name: ClassVar[tuple[str, str]] = ("taskflow.jobs.backends.impl_etcd", "EtcdJobBoard")

    @property
    def is_connected(self) -> bool:
        """Whether the server answers; TaskFlow's ``connected`` says only that nobody closed it."""
        client = self.jobboard._client
        if client is None:
            return False
        from urllib3 import exceptions as urllib3_exceptions

        url = f"{client.base_url}/health"
        # What requests raises is an OSError; some of urllib3's it lets through.
        with contextlib.suppress(OSError, urllib3_exceptions.HTTPError):
            return bool(client.session.get(url, timeout=_PROBE_SECONDS).ok)
        return False

    def connect(self) -> None:
        """Connect the board.

        :raises taskflow.exceptions.JobFailure: the server does not answer.
        """
        try:
            with _translated():
                self.jobboard.connect()
        except taskflow_exceptions.JobFailure:
            # TaskFlow would take it for connected, and never try again.
            self.jobboard._client = None
            raise

    def jobs(self) -> Iterator[Any]:
        """Yield all jobs on the board.

        :raises taskflow.exceptions.JobFailure: the board cannot be read, or had
            a job on it that nobody could read; TaskFlow has then removed that one.
        """
        with _translated():
            found = self.jobboard._fetch_jobs(ensure_fresh=True)
        yield from in_turn(found)

    def unclaimed_jobs(self, *, ensure_fresh: bool) -> Iterator[Any]:
        """Yield the jobs that nobody has claimed."""
        for job in self.jobs():
            with _translated():
                state = job.state
            if is_unclaimed(state):
                yield job

    def post(self, name: str, **options: Any) -> None:
        """Post a job; raises as :meth:`.Board.post` does."""
        with _translated():
            super().post(name, **options)

    def claim(self, job: Any, who: str) -> None:
        """Claim a job for :attr:`claim_seconds`; raises as :meth:`.Board.claim` does."""
        assert self.claim_seconds is not None
        with _translated():
            self.jobboard.claim(job, who, expiry=int(self.claim_seconds))

    def renew(self, job: Any, who: str) -> bool:
        """Make a claim last longer, unless it has ended.

        TaskFlow's ``extend_expiry`` (6.5) is of no use: a job remembers the
        lease of the first claim that it was asked about, and renews that.
        """
        import etcd3gw

        with _translated():
            claim = self.jobboard.get_owner_data(job)
            if claim is None or claim["owner"] != who:
                return False
            lease = etcd3gw.Lease(id=claim["lease_id"], client=self.jobboard._client)
            return int(lease.refresh()) > 0

    def owner_of(self, job: Any) -> str | None:
        """Return who has claimed a job."""
        with _translated():
            return super().owner_of(job)

    def consume(self, job: Any, who: str) -> None:
        """Take a claimed job off the board; raises as :meth:`.Board.consume` does."""
        with _translated():
            super().consume(job, who)

    def abandon(self, job: Any, who: str) -> None:
        """Give a claimed job back; raises as :meth:`.Board.consume` does."""
        with _translated():
            super().abandon(job, who)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise what etcd3gw and requests raise, which TaskFlow lets through, as a ``JobFailure``."""
    import requests
    from etcd3gw import exceptions as etcd_exceptions

    try:
        yield
    except (
        etcd_exceptions.Etcd3Exception,
        requests.RequestException,
        OSError,
        AttributeError,  # closed by another thread: its client is None
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise taskflow_exceptions.JobFailure(
            f"the etcd job board failed: {type(error).__name__}: {error}", error
        ) from error
