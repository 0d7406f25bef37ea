# SPDX-License-Identifier: Apache-2.0
"""Numbers a process' durable writes, and kills it beside one of them.

Nothing in the code under test knows of it. SQLAlchemy announces every commit
of every engine in the process (TaskFlow's own among them). Kazoo announces
nothing, so the methods by which its clients write are replaced. So a write that
is added later is numbered too, whoever makes it.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import sqlalchemy as sa
from kazoo import client as kazoo_client
from kazoo.handlers import utils as kazoo_utils

Side = Literal["before", "after"]

#: Key in SQLAlchemy's dictionary for each database connection.
_INFO: Final = "lazy_engine_testing"

_WRITES: Final = re.compile(
    r"\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|REPLACE\s+INTO|CREATE|ALTER|DROP)"
    r"(?:\s+(?:UNIQUE|TABLE|INDEX|TYPE|IF\s+NOT\s+EXISTS))*\s+[\"`]?(\w+)",
    re.IGNORECASE,
)


class WriteTap:
    """Numbers the durable writes of this process, from one.

    :param note: told number and description of each write, before it is made;
        from any thread.
    :param kill_at: number and side of the write at which to kill the process
        with ``SIGKILL``, or ``None``. *After* means: made, and nobody told.
    """

    def __init__(
        self, note: Callable[[int, str], None], kill_at: tuple[int, Side] | None = None
    ) -> None:
        self._note = note
        self._kill_at = kill_at
        self._lock = threading.Lock()
        self._count = 0

    def before(self, what: str) -> int:
        """Number a write that is about to be made."""
        with self._lock:
            self._count += 1
            number = self._count
            self._note(number, what)
            self._maybe_kill(number, "before")
        return number

    def after(self, number: int) -> None:
        """Note that a write has been made."""
        self._maybe_kill(number, "after")

    def _maybe_kill(self, number: int, side: Side) -> None:
        if self._kill_at == (number, side):
            os.kill(os.getpid(), signal.SIGKILL)

    # -- databases --------------------------------------------------------

    def watch_databases(self) -> None:
        """Number what any SQLAlchemy engine of this process commits, from now on.

        A transaction that only reads has no number. There is no way back: use
        it in a process that is made for the purpose.
        """
        sa.event.listen(sa.Engine, "after_cursor_execute", self._on_statement)
        sa.event.listen(sa.Engine, "commit", self._on_commit)
        sa.event.listen(sa.Engine, "rollback", self._on_rollback)
        # The first thing that happens once a commit has been carried out is
        # that its connection goes back to the pool.
        sa.event.listen(sa.pool.Pool, "checkin", self._on_checkin)

    def _on_statement(
        self, connection: sa.Connection, _cursor: object, statement: str, *_: object
    ) -> None:
        if found := _WRITES.match(statement):
            names = connection.info.setdefault(_INFO, {"tables": {}, "numbers": []})["tables"]
            names[found.group(1)] = None

    def _on_commit(self, connection: sa.Connection) -> None:
        info = connection.info.get(_INFO)
        if info is not None and info["tables"]:
            info["numbers"].append(self.before("commit " + ", ".join(info["tables"])))
            info["tables"] = {}

    def _on_rollback(self, connection: sa.Connection) -> None:
        connection.info.pop(_INFO, None)

    def _on_checkin(self, _connection: Any, record: Any) -> None:
        info = record.info.pop(_INFO, None)
        for number in info["numbers"] if info is not None else ():
            self.after(number)

    # -- ZooKeeper --------------------------------------------------------

    def watch_zookeeper(self) -> None:
        """Number what any kazoo client of this process writes, from now on.

        A transaction is one write, as is each node that is made, set or deleted
        by itself. One that is refused (the node was there already) has a number
        as well. There is no way back, as with databases.
        """
        # TaskFlow makes its clients by itself, and so does whoever opens a store
        # by its address: a client of our own could not be given to all of them.
        # The synchronous methods call the asynchronous ones.
        for verb in ("create", "set", "delete"):
            self._replace(kazoo_client.KazooClient, f"{verb}_async", _one_node(verb))
        self._replace(kazoo_client.TransactionRequest, "commit_async", _transaction)

    def _replace(self, owner: Any, name: str, describe: Callable[..., str]) -> None:
        write = getattr(owner, name)

        @functools.wraps(write)
        def numbered(asked: Any, *args: Any, **kwargs: Any) -> Any:
            client = getattr(asked, "client", asked)
            answer = client.handler.async_result()
            number = self.before(describe(asked, *args, **kwargs))

            @kazoo_utils.wrap(answer)  # type: ignore[untyped-decorator]  # kazoo has no types
            def tell(result: Any) -> Any:
                self.after(number)  # before anybody is told
                return result.get()

            write(asked, *args, **kwargs).rawlink(tell)
            return answer

        setattr(owner, name, numbered)


def _one_node(verb: str) -> Callable[..., str]:
    def describe(_client: object, path: str, *_: Any, **_options: Any) -> str:
        return f"{verb} {path}"

    return describe


def _transaction(request: Any) -> str:
    return f"transaction {_paths(request.operations)}"


def _paths(operations: Iterable[Any]) -> str:
    return ", ".join(
        f"{type(operation).__name__.lower()} {operation.path}" for operation in operations
    )
