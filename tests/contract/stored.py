# SPDX-License-Identifier: Apache-2.0
"""Stores with a ledger, and what engines and deliverers do to a flow in them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from kazoo import exceptions as kazoo_exceptions
from taskflow import states
from taskflow.persistence import models

from lazy_engine.delay import DELAYED
from lazy_engine.ledger import TakeRequest
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import META_ATTEMPTS
from lazy_engine.outcome import Failed, Result
from lazy_engine.receipt import Disposition
from lazy_engine.terms import Terms
from lazy_engine.token import EXECUTE, DelayKey

#: The backend of an engine that was loaded without one is "shared memory": it copies nothing.
STORES = ("memory", "shared memory", "sqlite", "postgresql", "mysql", "dir", "zookeeper")
SERVERS = ("postgresql", "mysql")
LEDGER_TABLES = ("lazy_delays", "lazy_flows", "lazy_keys")
A_LONG_LEASE = 600.0
A_SHORT_LEASE = 0.2
PARKS = r.Ending(state=DELAYED, is_final=False, absorbs=True)
RESTS = r.Ending(state=states.SUSPENDED, is_final=False, absorbs=False)
SUCCEEDS = r.Ending(state=states.SUCCESS, is_final=True, absorbs=True)


@dataclasses.dataclass
class Store:
    """One store with a ledger, and a second ledger on it as another process would have one."""

    name: str
    url: str | None
    backend: Any
    ledger: Any
    other: Any

    def set_clock(self, seconds: float) -> None:
        """Have the store's clock be that far ahead."""
        self.ledger.clock_offset_seconds = self.other.clock_offset_seconds = seconds

    def only_shared(self) -> None:
        """Skip where there is one process and no connection, so nothing of this can happen."""
        if not self.ledger.guarantees.is_shared:
            pytest.skip("only where other processes and connections can be lost")


@dataclasses.dataclass
class Flow:
    """A stored flow with one task, and what an engine and a deliverer would do to it."""

    ledger: Any
    other: Any
    uuid: str
    detail: models.FlowDetail
    task: models.TaskDetail

    def request(self, **changes: Any) -> TakeRequest:
        wanted: dict[str, Any] = {
            "flow_uuid": self.uuid,
            "owner": f"somewhere/-/1/-/{uuid.uuid4().hex[:8]}",
            "seconds": A_LONG_LEASE,
            "newcomer": r.Newcomer(
                flow_name="flow", has_factory=True, key_id=self.ledger.signing_key().key_id
            ),
            "known": None,
            "may_rerun": False,
            "resumes": False,
            "is_dead": lambda _owner: False,
        }
        return TakeRequest(**{**wanted, **changes})

    def take(self, **changes: Any) -> r.Taken:
        taken = self.ledger.take(self.request(**changes))
        assert isinstance(taken, r.Taken), taken
        return taken

    def refused(self, **changes: Any) -> r.Refused:
        refused = self.other.take(self.request(**changes))
        assert isinstance(refused, r.Refused), refused
        return refused

    def key(self, attempt: int = 1, kind: str = EXECUTE, atom_uuid: str | None = None) -> DelayKey:
        return DelayKey(
            flow_uuid=self.uuid,
            atom_uuid=atom_uuid or self.task.uuid,
            kind=kind,
            attempt=attempt,
        )

    def changes(self, **changes: Any) -> r.Changes:
        flow = self.detail.copy(retain_contents=False)
        flow.state = changes.pop("flow_state", states.RUNNING)
        return r.Changes(flow=flow, flow_is_dirty=True, **changes)

    def mark(self, state: str, attempt: int) -> r.AtomChange:
        """Return the change that stores the task's state and attempt."""
        self.task.state = state
        self.task.meta = {META_ATTEMPTS: {EXECUTE: attempt}}
        return r.AtomChange(detail=self.task.copy(), columns=frozenset(("state", "meta")))

    def begin(self, lease: r.Lease, attempt: int = 1) -> None:
        self.ledger.commit(lease, self.changes(atoms=[self.mark(states.RUNNING, attempt)]))

    def opening(
        self,
        attempt: int = 1,
        details_text: str | None = None,
        kind: str = EXECUTE,
        **asked: Any,
    ) -> r.Changes:
        """Return the changes that open a delay, which asks that of the clock."""
        opened = r.DelayOpening(
            key=self.key(attempt, kind),
            task_name=self.task.name,
            details_text=details_text,
            terms=Terms(**asked),
        )
        return self.changes(
            flow_state=DELAYED, open_delays=1, atoms=[self.mark(DELAYED, attempt)], opened=[opened]
        )

    def park(self, attempt: int = 1, **asked: Any) -> r.Lease:
        """Take the flow, open a delay, and give the flow up."""
        lease = self.take().lease
        done = self.ledger.commit(lease, self.opening(attempt, **asked), PARKS)
        assert done.has_ended
        return lease

    def absorb(
        self, lease: r.Lease, *keys: DelayKey, ending: r.Ending | None = None
    ) -> r.Committed:
        change = self.mark(states.SUCCESS, 1)
        return self.ledger.commit(lease, self.changes(atoms=[change], absorbed=keys), ending)

    def closing(self, reason: str, up_to_attempt: int = 1) -> r.DelayClosing:
        return r.DelayClosing(
            atom_uuid=self.task.uuid, kind=EXECUTE, up_to_attempt=up_to_attempt, reason=reason
        )

    def delivery(self, value: Any = "answer", **changes: Any) -> r.Delivery:
        wanted = value if isinstance(value, (Result, Failed)) else Result(value)
        key = changes.pop("key", None) or self.key(**changes)
        return r.Delivery(key=key, outcome=self.other.encode(wanted), delivery_id=str(uuid.uuid4()))

    def deliver(self, value: Any = "answer", *, rings: bool = True, **changes: Any) -> Any:
        return self.other.deliver(self.uuid, [self.delivery(value, **changes)], rings=rings)

    def disposition(self, value: Any = "answer", **changes: Any) -> Disposition:
        (item,) = self.deliver(value, **changes).items
        return item.disposition

    def record(self) -> r.FlowRecord:
        record = self.other.flow(self.uuid)
        assert record is not None
        return record

    def delay(self, attempt: int = 1, kind: str = EXECUTE) -> r.DelayRecord:
        key = self.key(attempt, kind)
        (found,) = (d for d in self.other.delays_of(self.uuid) if d.key == key)
        return found

    def stored_task(self) -> models.TaskDetail:
        detail = self.other.detail(self.uuid)
        assert detail is not None
        return detail.find(self.task.uuid)

    def snapshot(self) -> Any:
        """Return all that is stored of the flow, for comparison."""
        detail = self.other.detail(self.uuid)
        return (
            self.other.flow(self.uuid),
            self.other.delays_of(self.uuid),
            None if detail is None else (detail.to_dict(), [a.to_dict() for a in detail]),
        )


def make_flow(store: Store, name: str = "task") -> Flow:
    """Store a flow with one task that has not begun, and no ledger record of it yet."""
    detail = models.FlowDetail("flow", str(uuid.uuid4()))
    detail.meta = {}
    task = models.TaskDetail(name, str(uuid.uuid4()))
    task.state, task.intention, task.meta, task.version = states.PENDING, states.EXECUTE, {}, "1.0"
    book = models.LogBook("book")
    stored = detail.copy()
    stored.add(task.copy())
    book.add(stored)
    with contextlib.closing(store.backend.get_connection()) as connection:
        connection.save_logbook(book)
    return Flow(store.ledger, store.other, detail.uuid, detail, task)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Call all at the same moment, each in a thread, and return what they answer."""
    barrier = threading.Barrier(len(works))

    def one(work: Callable[[], Any]) -> Any:
        barrier.wait(timeout=30)
        return work()

    with concurrent.futures.ThreadPoolExecutor(len(works)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(one, w) for w in works]]


@contextlib.contextmanager
def answer_lost_once(on: Any, *, gives_up: bool = False) -> Iterator[None]:
    """Carry the next transaction out, and lose the connection instead of answering.

    :param gives_up: the store stays away, so that the ledger gives up.
    """
    lose_answers = _lose_sql_answer if hasattr(on, "_transactor") else _lose_zookeeper_answer
    with lose_answers(on, gives_up) as lost:
        yield
    assert lost


@contextlib.contextmanager
def _lose_sql_answer(on: Any, gives_up: bool) -> Iterator[list[bool]]:
    engine = on._transactor.engine
    lost: list[bool] = []

    def lose(connection: sa.Connection) -> None:
        if not lost:
            lost.append(True)
            connection.connection.dbapi_connection.commit()
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")  # something for the driver to roll back
        elif not gives_up:
            return
        raise sa.exc.OperationalError(
            "COMMIT", {}, Exception("server closed the connection"), connection_invalidated=True
        )

    def refuse(_connection: sa.Connection) -> None:
        if lost:
            raise sa.exc.OperationalError(
                "BEGIN", {}, Exception("no server"), connection_invalidated=True
            )

    sa.event.listen(engine, "commit", lose)
    if gives_up:
        sa.event.listen(engine, "begin", refuse)
    try:
        yield lost
    finally:
        sa.event.remove(engine, "commit", lose)
        if gives_up:
            sa.event.remove(engine, "begin", refuse)


@contextlib.contextmanager
def _lose_zookeeper_answer(on: Any, gives_up: bool) -> Iterator[list[bool]]:
    connection = on._connection
    transact, wait = connection._transact, connection._wait
    lost: list[bool] = []

    def lose(*transaction: Any) -> Any:
        answer = transact(*transaction)
        was_carried_out = not any(isinstance(one, Exception) for one in answer)
        if was_carried_out and not lost:
            lost.append(True)
            raise kazoo_exceptions.ConnectionLoss
        return answer

    def refuse(asked: Any) -> Any:
        if lost and gives_up:
            raise kazoo_exceptions.ConnectionLoss
        return wait(asked)

    connection._transact, connection._wait = lose, refuse
    try:
        yield lost
    finally:
        del connection._transact, connection._wait
