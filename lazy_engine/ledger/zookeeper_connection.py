# SPDX-License-Identifier: Apache-2.0
"""Reads, transactions and repetitions on ZooKeeper, and what its errors mean."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from kazoo import exceptions as kazoo_exceptions
from kazoo.handlers.threading import KazooTimeoutError

from lazy_engine import errors

T = TypeVar("T")

#: ZooKeeper takes packets of a little less than 1 MiB (``jute.maxbuffer``) and
#: hangs up on a client that sends more. What one transaction of the ledger holds.
PACKET_BYTES: Final = 900_000

#: What one znode of the ledger may hold, so that it fits into a transaction.
NODE_BYTES: Final = 850_000

#: What an operation takes up beside its path and data, generously.
_OPERATION_BYTES: Final = 100

#: How long one request may take; kazoo itself waits for ever for a server.
_REQUEST_SECONDS: Final = 15.0

#: How many parents are remembered as made.
_REMEMBERED_PARENTS: Final = 100

#: How many requests are under way at a time when many znodes are read.
_BATCH: Final = 256

#: Work that lost its connection is tried this often in all.
_TRIES: Final = 6

#: How long a transaction is tried again because others were faster.
_CONTENTION_SECONDS: Final = 30.0

#: After these nobody knows whether the request was carried out.
_LOST: Final = (
    kazoo_exceptions.ConnectionLoss,
    kazoo_exceptions.SessionExpiredError,
    kazoo_exceptions.SessionMovedError,
    kazoo_exceptions.ConnectionClosedError,
    kazoo_exceptions.OperationTimeoutError,
)


class Changed(Exception):
    """What a transaction was built on is no more; build it anew."""


@dataclasses.dataclass(frozen=True, slots=True)
class Put:
    """Create or overwrite a znode.

    :ivar is_new: whether it has to be created.
    :ivar makes_parent: whether the znode above it is made if need be.
    """

    path: str
    data: bytes
    is_new: bool
    makes_parent: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Delete:
    """Delete a znode."""

    path: str


@dataclasses.dataclass(frozen=True, slots=True)
class Guard:
    """A condition of a transaction, and what is written where it holds.

    :ivar version: the znode's version now; -1: it must not exist, unless
        *data* is ``None``: then it must.
    :ivar data: its new contents, or ``None`` to leave it as it is.
    """

    path: str
    version: int
    data: bytes | None = None


Operation = Put | Delete


def size_of(operation: Operation | Guard) -> int:
    """Return how many bytes of a packet an operation takes up at most."""
    data = b"" if isinstance(operation, Delete) else operation.data or b""
    return len(operation.path) + len(data) + _OPERATION_BYTES


class Connection:
    """What the ledger does with ZooKeeper. Thread-safe.

    Shares the session of TaskFlow's own backend. A session means nothing to
    the ledger: it keeps no ephemeral znode, and all it writes is guarded by
    versions.

    :param client: a kazoo client that has been started.
    :param root_path: any znode; reads are brought up to date through it.
    """

    def __init__(self, client: Any, root_path: str) -> None:
        self._client = client
        self._root_path = root_path
        self._made_parents: set[str] = set()

    # -- repeating --------------------------------------------------------

    def repeat(self, work: Callable[[], T]) -> T:
        """Call *work* until it neither loses the connection nor a race.

        :raises StoreUnavailable: that took too long, or the store refuses.
        """
        pauses = _pauses()
        give_up_at = time.monotonic() + _CONTENTION_SECONDS
        contention = 0.001
        is_lost = False
        while True:
            try:
                if is_lost:
                    # What was lost may have been carried out, and must be seen.
                    self.catch_up()
                    is_lost = False
                return work()
            except Changed:
                if time.monotonic() > give_up_at:
                    raise errors.StoreUnavailable(
                        "the store failed: others wrote to the same flow all the time"
                    ) from None
                time.sleep(contention * random.random())
                contention = min(0.05, contention * 1.6)
            except _LOST as error:
                pause = next(pauses, None)
                if pause is None:
                    raise _unavailable(error) from error
                is_lost = True
                time.sleep(pause)
            except (kazoo_exceptions.KazooException, KazooTimeoutError) as error:
                raise _unavailable(error) from error

    # -- reading ----------------------------------------------------------

    def catch_up(self) -> None:
        """Let the reads that follow see all that anybody had written before.

        A ZooKeeper server answers reads by what it knows itself, which may
        lag behind its leader.
        """
        self._wait(self._client.sync_async(self._root_path))

    def get(self, path: str) -> tuple[bytes, int] | None:
        """Return a znode's contents and version."""
        return self.get_many([path])[0]

    def get_many(self, paths: Sequence[str]) -> list[tuple[bytes, int] | None]:
        """Return contents and version of many znodes, ``None`` for those that are not there."""
        return [
            None if found is None else (found[0], found[1].version)
            for found in self._many(self._client.get_async, paths)
        ]

    def exist(self, paths: Sequence[str]) -> list[bool]:
        """Return of many paths whether there is a znode."""
        return [found is not None for found in self._many(self._client.exists_async, paths)]

    def children(self, path: str) -> list[str]:
        """Return the names below a znode in order; none if it is not there."""
        return self.children_of([path])[0]

    def children_of(self, paths: Sequence[str]) -> list[list[str]]:
        """Return the names below each of many znodes, in order."""
        return [sorted(found or ()) for found in self._many(self._client.get_children_async, paths)]

    def _many(self, ask: Callable[[str], Any], paths: Sequence[str]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(paths), _BATCH):
            asked = [ask(path) for path in paths[start : start + _BATCH]]
            answers.extend(self._wait_unless_missing(one) for one in asked)
        return answers

    def _wait_unless_missing(self, asked: Any) -> Any:
        try:
            return self._wait(asked)
        except kazoo_exceptions.NoNodeError:
            return None

    def _wait(self, asked: Any) -> Any:
        return asked.get(timeout=_REQUEST_SECONDS)

    # -- writing ----------------------------------------------------------

    def ensure(self, path: str) -> None:
        """Make a znode and those above it unless they are there."""
        self._wait(self._client.ensure_path_async(path))

    def discard(self, paths: Iterable[str]) -> None:
        """Delete znodes that may be gone, or not be empty any more."""
        asked = [self._client.delete_async(path) for path in paths]
        for one in asked:
            with contextlib.suppress(kazoo_exceptions.NoNodeError, kazoo_exceptions.NotEmptyError):
                self._wait(one)

    def write(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> list[Any]:
        """Carry out one transaction: all of it, or nothing.

        :returns: ZooKeeper's answers to the guards, in order.
        :raises Changed: a guard did not hold; nothing was written.
        """
        self._make_parents(operations)
        tries = 0
        while True:
            results = self._transact(guards, operations)
            failed = next(
                (number for number, result in enumerate(results) if _is_failure(result)), None
            )
            if failed is None:
                return list(results[: len(guards)])
            if failed < len(guards):
                raise Changed
            fitted = self._fit(operations)
            tries += 1
            if tries == _TRIES:
                raise results[failed]
            operations = fitted

    def _make_parents(self, operations: Sequence[Operation], *, anew: bool = False) -> None:
        """Make the parents that may be missing, lest the whole is sent twice.

        :param anew: those too that were made before, and may have been deleted.
        """
        wanted = {
            operation.path.rpartition("/")[0]
            for operation in operations
            if isinstance(operation, Put) and operation.makes_parent
        }
        for path in wanted if anew else wanted - self._made_parents:
            self.ensure(path)
            if len(self._made_parents) >= _REMEMBERED_PARENTS:
                self._made_parents.clear()
            self._made_parents.add(path)

    def _transact(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> Sequence[Any]:
        transaction = self._client.transaction()
        for guard in guards:
            if guard.data is None:
                transaction.check(guard.path, guard.version)
            elif guard.version < 0:
                transaction.create(guard.path, guard.data)
            else:
                transaction.set_data(guard.path, guard.data, guard.version)
        for operation in operations:
            if isinstance(operation, Delete):
                transaction.delete(operation.path)
            elif operation.is_new:
                transaction.create(operation.path, operation.data)
            else:
                transaction.set_data(operation.path, operation.data)
        results: Sequence[Any] = self._wait(transaction.commit_async())
        return results

    def _fit(self, operations: Sequence[Operation]) -> list[Operation]:
        """Make operations fit what is there: the same end by other means.

        Needed when a redo is carried out, a part of which may have been carried
        out before; for the first entry of a bucket; and where an index has been
        tampered with.
        """
        self._make_parents(operations, anew=True)
        exists = dict(
            zip(
                (operation.path for operation in operations),
                self.exist([operation.path for operation in operations]),
                strict=True,
            )
        )
        fitted: list[Operation] = []
        for operation in operations:
            if isinstance(operation, Put):
                fitted.append(dataclasses.replace(operation, is_new=not exists[operation.path]))
            elif exists[operation.path]:
                fitted.append(operation)
        return fitted


def _is_failure(result: object) -> bool:
    # Operations before the one that failed are "rolled back", those after it
    # "inconsistent".
    return isinstance(result, Exception) and not isinstance(
        result,
        (kazoo_exceptions.RolledBackError, kazoo_exceptions.RuntimeInconsistency),
    )


def _pauses() -> Iterator[float]:
    for number in range(_TRIES - 1):
        yield 0.02 * 3**number * random.uniform(0.5, 1.5)


def _unavailable(error: BaseException) -> errors.StoreUnavailable:
    text = str(error).partition("\n")[0]
    return errors.StoreUnavailable(
        f"the store failed: {type(error).__name__}" + (f": {text}" if text else "")
    )
