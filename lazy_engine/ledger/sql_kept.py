# SPDX-License-Identifier: Apache-2.0
"""Connections that are kept out of SQLAlchemy's pool, ready for the next use.

To get a connection from the pool and to give it back takes as long as several
statements of SQLite. What comes again and again finds one here; more than are
kept at most come from the pool, as any others do.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from lazy_engine.ledger import sql_pipeline

#: One that nobody used for so long is replaced: whatever lies between may have
#: forgotten it, and then nobody would tell that what is sent goes nowhere.
_IDLE_SECONDS: Final = 240.0

#: Connections that a fork brought here. They are their parent's: to let go of
#: them would close them, and SQLite's or a server's end of them with it.
_INHERITED: Final[list[sa.Connection]] = []


class _Idle(NamedTuple):
    """A connection that nobody uses.

    :ivar pid: the process that opened it.
    :ivar since: when it was used last, in seconds of the monotonic clock.
    """

    pid: int
    connection: sa.Connection
    since: float

    @property
    def is_ours(self) -> bool:
        """Whether this process may use it, and close it."""
        return self.pid == os.getpid()


class KeptConnections:
    """Keeps connections for one purpose.

    :param connect: takes a connection from the pool.
    :param equip: makes it ready, and returns it.
    :param most: how many there are of them at once; they are opened as they are needed.
    """

    def __init__(
        self,
        connect: Callable[[], sa.Connection],
        equip: Callable[[sa.Connection], sa.Connection],
        *,
        most: int,
    ) -> None:
        self._connect = connect
        self._equip = equip
        self._most = most
        self._idle: list[_Idle] = []
        self._begin()
        # A driver that is left to the garbage collector complains.
        weakref.finalize(self, _close_idle, self._idle)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._count = 0
        self._generation = object()

    def _require_own(self) -> None:
        """Begin anew in a forked child: a thread of its parent's may have had the lock."""
        if self._pid != os.getpid():
            self._begin()

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[sa.Connection | None]:
        """Yield a connection, or ``None`` if all are in use.

        It is closed if what it is used for fails by the store, or is interrupted.
        """
        self._require_own()
        generation, connection = self._take()
        if generation is None:
            yield None
            return
        raw: Any = None
        pipeline = None
        try:
            if connection is None:
                connection = self._open()
            # Once it is known to be lost, SQLAlchemy would open another one to tell.
            raw, pipeline = connection.connection.dbapi_connection, sql_pipeline.of(connection)
            yield connection
        except BaseException as error:
            if connection is not None:
                if _is_sound(connection, error) and self._give_back(generation, connection):
                    raise
                _close(connection, raw, pipeline)
            self._forget(generation)
            if isinstance(error, sa_exc.DBAPIError) and error.connection_invalidated:
                self.close()  # the others lead to the same server
            raise
        if not self._give_back(generation, connection):
            _close(connection, raw, pipeline)

    def _open(self) -> sa.Connection:
        connection = self._connect()
        try:
            connection = self._equip(connection)
            connection.detach()
        except BaseException:
            connection.close()
            raise
        return connection

    def _take(self) -> tuple[object | None, sa.Connection | None]:
        stale = []
        try:
            with self._lock:
                while self._idle:
                    idle = self._idle.pop()
                    if idle.is_ours and time.monotonic() - idle.since < _IDLE_SECONDS:
                        return self._generation, idle.connection
                    self._count -= idle.is_ours
                    stale.append(idle)
                if self._count >= self._most:
                    return None, None
                self._count += 1
                return self._generation, None
        finally:
            _close_idle(stale)

    def _give_back(self, generation: object, connection: sa.Connection) -> bool:
        with self._lock:
            if generation is not self._generation:
                return False
            self._idle.append(_Idle(self._pid, connection, time.monotonic()))
            return True

    def _forget(self, generation: object) -> None:
        with self._lock:
            self._count -= generation is self._generation

    def close(self) -> None:
        """Close those that nobody uses, and the others when they come back."""
        self._require_own()
        with self._lock:
            self._generation = object()
            self._count = 0
            idle = list(self._idle)
            self._idle.clear()
        _close_idle(idle)


def _is_sound(connection: sa.Connection, error: BaseException) -> bool:
    """Whether a connection can be used again after an error: one that is not the store's, and was rolled back."""
    return (
        isinstance(error, Exception)
        and not isinstance(error, sa_exc.SQLAlchemyError)
        and not connection.invalidated
    )


def _close_idle(idle: Iterable[_Idle]) -> None:
    for one in idle:
        if one.is_ours:
            connection = one.connection
            raw, pipeline = connection.connection.dbapi_connection, sql_pipeline.of(connection)
            _close(connection, raw, pipeline)
        else:
            _INHERITED.append(one.connection)


def _close(connection: sa.Connection, raw: Any, pipeline: sql_pipeline.Pipeline | None) -> None:
    """Close a connection that may be lost: SQLAlchemy would ask it to roll back first, and complain."""
    if raw is None:  # interrupted before anybody used it
        with contextlib.suppress(Exception):
            raw = connection.connection.dbapi_connection
    for end in (
        *(() if raw is None else (raw.close,)),
        connection.invalidate,
        connection.close,
        *(() if pipeline is None else (pipeline.leave,)),
    ):
        with contextlib.suppress(Exception):
            end()
