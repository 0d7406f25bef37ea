# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's Redis board: it tells of nothing by itself, and claims are for a time.

TaskFlow's ``claim`` makes a claim without an end unless told otherwise: that of
a conductor that died would keep its job from everybody for ever.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from taskflow import exceptions as taskflow_exceptions

from lazy_engine.board.protocol import Board, in_turn

#: How long a server may take to answer whether it is there.
_PROBE_SECONDS: Final = 1.0
#: How long a server that did not answer at all counts as away without being
#: asked: a round of the watchdog may have hundreds of doorbells to post.
_SILENT_SECONDS: Final = 2.0
#: For how many jobs owners are asked for at once.
_PAGE: Final = 100


class RedisBoard(Board):
    """Gives claims an end, asks before it waits, and hands jobs out in turn."""

    claim_seconds: ClassVar[float | None] = 15.0
    type_name: ClassVar[tuple[str, str]] = ("taskflow.jobs.backends.impl_redis", "RedisJobBoard")

    def __init__(self, jobboard: Any) -> None:
        super().__init__(jobboard)
        self._silent_until = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether the server answers, asked over a connection of its own.

        TaskFlow's ``connected`` says only that nobody has closed the board, and
        redis-py's own calls try for seconds to reach a server that is away.
        """
        return not self.is_closed and self._answers()

    def connect(self) -> None:
        """Connect the board, and prepare it.

        :raises taskflow.exceptions.JobFailure: the server does not answer, or refuses.
        """
        with _translated():
            self.jobboard.connect()
        self.prepare()

    def prepare(self) -> None:
        """Have calls fail at once, and not after ten tries, if the client is the board's own.

        redis-py (8.1) tries up to eleven times, over four seconds if it is
        refused and over a minute if nothing answers, and TaskFlow's
        configuration has no word for it. Tries after a lost answer are no good
        either: they find a job claimed by themselves. One more try is left, for
        connections that went stale while nobody used them.
        """
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        if self.jobboard._owns_client:
            self.jobboard._client.set_retry(Retry(NoBackoff(), 1))

    def fail_held_calls(self) -> None:
        """Break the connections of calls that a server does not answer.

        The pool's own ``disconnect`` also closes sockets and buffers that other
        threads are reading from.
        """
        if self._answers():
            return
        for connection in list(self.jobboard._client.connection_pool._in_use_connections):
            if (held := connection._sock) is not None:
                with contextlib.suppress(OSError):  # closed in the meantime
                    held.shutdown(socket.SHUT_RDWR)

    def jobs(self) -> Iterator[Any]:
        """Yield all jobs on the board.

        :raises taskflow.exceptions.JobFailure: the board cannot be read, or had
            a job on it that nobody could read; TaskFlow has then removed that one.
        """
        with _translated():
            found = self.jobboard._fetch_jobs() if self.jobboard.job_count else []
        yield from in_turn(found)

    def unclaimed_jobs(self, *, ensure_fresh: bool) -> Iterator[Any]:
        """Yield the jobs that nobody has claimed; TaskFlow would ask for each job's state alone."""
        jobs = list(self.jobs())
        for start in range(0, len(jobs), _PAGE):
            page = jobs[start : start + _PAGE]
            with _translated():
                owners = self.jobboard._client.mget([job.owner_key for job in page])
            for job, owner in zip(page, owners, strict=True):
                if owner is None:
                    yield job

    def post(self, name: str, **options: Any) -> None:
        """Post a job; raises as :meth:`.Board.post` does."""
        with _translated():
            super().post(name, **options)

    def claim(self, job: Any, who: str) -> None:
        """Claim a job for :attr:`claim_seconds`; raises as :meth:`.Board.claim` does."""
        with _translated():
            try:
                self.jobboard.claim(job, who, expiry=self.claim_seconds)
            except taskflow_exceptions.UnclaimableJob:
                # redis-py repeats a request whose answer was lost, and the
                # second one finds what the first has done.
                if self.owner_of(job) != who:
                    raise

    def renew(self, job: Any, who: str) -> bool:
        """Make a claim last longer, unless it has ended.

        TaskFlow's ``extend_expiry`` asks for no owner. Should the claim change
        hands between the two steps, the new owner's lasts a moment longer.
        """
        with _translated():
            return self.owner_of(job) == who and bool(job.extend_expiry(self.claim_seconds))

    def owner_of(self, job: Any) -> str | None:
        """Return who has claimed a job; TaskFlow's ``find_owner`` (6.5) fails if nobody has."""
        with _translated():
            raw: bytes | None = self.jobboard._client.get(job.owner_key)
        return None if raw is None else raw.decode()

    def consume(self, job: Any, who: str) -> None:
        """Take a claimed job off the board; raises as :meth:`.Board.consume` does."""
        with _translated():
            super().consume(job, who)

    def abandon(self, job: Any, who: str) -> None:
        """Give a claimed job back; raises as :meth:`.Board.consume` does."""
        with _translated():
            super().abandon(job, who)

    def _answers(self) -> bool:
        asked_at = time.monotonic()
        if asked_at < self._silent_until:
            return False
        answers = _is_there(self.jobboard._client.connection_pool)
        if not answers and time.monotonic() - asked_at > _PROBE_SECONDS / 2:
            self._silent_until = time.monotonic() + _SILENT_SECONDS
        return answers


def _is_there(pool: Any) -> bool:
    """Whether a server answers over a connection like those of the pool, but with little patience."""
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry

    settings = dict(pool.connection_kwargs)
    for name in ("socket_timeout", "socket_connect_timeout"):
        settings[name] = min(_PROBE_SECONDS, settings.get(name) or _PROBE_SECONDS)
    settings["retry"] = Retry(NoBackoff(), 0)
    settings.pop("retry_on_error", None)
    settings.pop("retry_on_timeout", None)
    connection = pool.connection_class(**settings)
    try:
        connection.connect()
        connection.send_command("PING")
        connection.read_response()
    except (RedisError, OSError):
        return False
    else:
        return True
    finally:
        connection.disconnect()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise whatever TaskFlow lets through as a ``JobFailure``."""
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError, KeyError, TypeError, ValueError) as error:
        raise taskflow_exceptions.JobFailure(
            f"the Redis job board failed: {type(error).__name__}: {error}", error
        ) from error
