# SPDX-License-Identifier: Apache-2.0
"""Each rule for transactions of ``design.md`` is needed: with it nothing is lost, and without it something is.

Every test runs twice, with the rule and without it. A rule is taken away by rewriting the SQL that reaches the
database, or by doing in two transactions what belongs in one; the interleaving is arranged, not hoped for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import pytest
import sqlalchemy as sa

from lazy_engine import Client, errors, ledger
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import TakeRequest, sql_connection
from lazy_engine.ledger import record as r
from lazy_engine.ledger.sql_ownership import SqlOwnership
from lazy_engine.outcome import Result
from tests.faults import owners
from tests.waiting import wait_until

pytestmark = pytest.mark.fault

PARKS = r.Ending(state=DELAYED, is_final=False, absorbs=True)
A_LONG_LEASE = 600.0
A_SHORT_LEASE = 0.05

#: SQL that asks who owns the flow, and what to put there so that it asks nothing.
FENCE = {r"lazy_flows\.(?:epoch|commit_number|owner) = (\S+)": r"(\1 IS NOT NULL)"}
IMMEDIATELY = {r"BEGIN IMMEDIATE": "BEGIN"}
#: A delivery that writes nothing to the flow's row; the values stay in their order.
LOOKING_ONLY = {
    r"(?s)UPDATE lazy_flows SET arrival_number=\(lazy_flows.arrival_number \+ (\S+)\)"
    r"\s*WHERE lazy_flows.flow_uuid = (\S+)\s*RETURNING (.*)": (
        r"WITH given (a_number, a_uuid) AS (SELECT \1, \2)"
        r" SELECT \3 FROM lazy_flows, given WHERE flow_uuid = a_uuid"
    ),
    # MySQL returns nothing from an UPDATE; it is asked for the row afterwards.
    r"(?s)UPDATE lazy_flows SET arrival_number=.*": "SELECT 1",
}
CLEARING_THE_RING = {r"rung_at=(\S+?)(,|\s)": r"rung_at=coalesce(rung_at, \1)\2"}


@contextlib.contextmanager
def rewritten(book: Any, changes: Mapping[str, str]) -> Iterator[None]:
    """Change the SQL that one ledger sends."""

    def rewrite(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> tuple[str, Any]:
        for pattern, text in changes.items():
            statement = re.sub(pattern, text, statement)
        return statement, parameters

    engine = book._transactor.engine
    sa.event.listen(engine, "before_cursor_execute", rewrite, retval=True)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", rewrite)


@dataclasses.dataclass
class Flow:
    """A parked flow with two open delays, and two ledgers of the store it is in."""

    client: Client
    mine: Any
    other: Any
    uuid: str
    #: Whether it is all in one SQLite file, where one transaction writes at a time.
    is_one_file: bool

    def take(self, book: Any, seconds: float = A_LONG_LEASE) -> r.Lease:
        request = TakeRequest(
            flow_uuid=self.uuid,
            owner=f"test/-/1/-/{id(book)}",
            seconds=seconds,
            newcomer=r.Newcomer(flow_name="flow", has_factory=True, key_id="-"),
            known=None,
            may_rerun=False,
            resumes=False,
            is_dead=lambda _owner: False,
        )
        taken: list[r.Lease] = []

        def is_taken() -> bool:
            answer = book.take(request)
            if isinstance(answer, r.Taken):
                taken.append(answer.lease)
            return bool(taken)

        wait_until(is_taken)
        return taken[0]

    def changes(self, **changes: Any) -> r.Changes:
        detail = self.mine.detail(self.uuid)
        detail.meta = {**detail.meta, "written": "by whoever"}
        return r.Changes(flow=detail, flow_is_dirty=True, open_delays=2, **changes)

    def key(self, task_name: str) -> Any:
        (found,) = (d.key for d in self.mine.delays_of(self.uuid) if d.task_name == task_name)
        return found

    def deliver(self, task_name: str) -> r.DeliveredToFlow:
        delivery = r.Delivery(
            key=self.key(task_name), outcome=self.other.encode(Result("answer")), delivery_id="-"
        )
        done: r.DeliveredToFlow = self.other.deliver(self.uuid, [delivery], rings=True)
        return done

    def is_written(self) -> bool:
        """Whether changes have reached the store."""
        return "written" in self.mine.detail(self.uuid).meta

    def expire(self) -> None:
        """Wait until the lease has run out."""
        wait_until(lambda: self.mine.flow(self.uuid).lease_expires_at < self.mine.now())


@pytest.fixture(params=["sqlite", "postgresql", "mysql", "dir"])
def flow(request: pytest.FixtureRequest) -> Iterator[Flow]:
    url = request.getfixturevalue(f"{request.param}_url")
    clients = [Client({"connection": url}) for _ in range(2)]
    books = [ledger.beside(client.backend) for client in clients]
    flow_uuid = clients[0].submit(owners.ask_two)
    assert clients[0].resume(flow_uuid) == "DELAYED"
    yield Flow(clients[0], books[0], books[1], flow_uuid, request.param in ("sqlite", "dir"))
    for client, book in zip(clients, books, strict=True):
        book.close()
        client.backend.close()


@pytest.fixture(params=["with the rule", "without it"])
def has_rule(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "with the rule")


# -- every write of an owner names its epoch ---------------------------------


@pytest.mark.parametrize("write", ["commit", "renew"])
def test_every_write_of_an_owner_is_fenced(flow: Flow, has_rule: bool, write: str) -> None:
    """Without: an owner that slept writes over its successor's work."""
    stale = flow.take(flow.mine, A_SHORT_LEASE)
    flow.take(flow.other)
    changes = flow.changes()
    before = flow.mine.flow(flow.uuid)
    writes: dict[str, Callable[[], Any]] = {
        "commit": lambda: flow.mine.commit(stale, changes),
        "renew": lambda: flow.mine.renew(stale),
    }
    with contextlib.ExitStack() as stack:
        if not has_rule:
            stack.enter_context(rewritten(flow.mine, FENCE))
        else:
            stack.enter_context(pytest.raises(errors.Fenced))
        writes[write]()
    assert (flow.mine.flow(flow.uuid) == before) is has_rule
    assert flow.is_written() is (write == "commit" and not has_rule)


# -- every transaction begins by writing the flow's row ----------------------


def test_a_commit_writes_before_it_reads(
    flow: Flow, has_rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without: the flow is taken over between an owner's look at its epoch and its write.

    SQLite does not let a transaction write that has read what is old by now; there it is repeated, and fenced.
    """
    stale = flow.take(flow.mine, A_SHORT_LEASE)
    changes = flow.changes()
    right = SqlOwnership._commit
    flow.expire()
    taken: list[r.Lease] = []

    def select_first(self: Any, connection: Any, lease: r.Lease, *rest: Any) -> Any:
        row = self._row(connection, lease.flow_uuid)
        if row[0].epoch != lease.epoch:
            raise errors.Fenced("found by looking", flow_uuid=lease.flow_uuid)
        if not taken:
            taken.append(flow.take(flow.other))
        return right(self, connection, lease, *rest)

    with contextlib.ExitStack() as stack:
        if has_rule:
            taken.append(flow.take(flow.other))
            stack.enter_context(pytest.raises(errors.Fenced))
        else:
            monkeypatch.setattr(SqlOwnership, "_commit", select_first)
            stack.enter_context(rewritten(flow.mine, {**FENCE, **IMMEDIATELY}))
            if flow.is_one_file:
                stack.enter_context(pytest.raises(errors.Fenced, match="found by looking"))
        flow.mine.commit(stale, changes)
    assert taken
    assert flow.is_written() is (not has_rule and not flow.is_one_file)


def test_park_and_deliver_do_not_miss_each_other(flow: Flow, has_rule: bool) -> None:
    """Without: the deliverer sees an owner, who will see to it; the owner sees no delivery, and parks.

    On SQLite the delivery is again repeated by itself, and then rings.
    """
    lease = flow.take(flow.mine)
    writes, parked = threading.Event(), threading.Event()

    def pause(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO lazy_delays") and not writes.is_set():
            writes.set()
            # In vain, if the owner has to wait for this very transaction.
            parked.wait(0.5 if has_rule or flow.is_one_file else 10)

    engine = flow.other._transactor.engine
    no_rule = {**LOOKING_ONLY, **IMMEDIATELY}
    with contextlib.ExitStack() as stack:
        if not has_rule:
            stack.enter_context(rewritten(flow.other, no_rule))
        sa.event.listen(engine, "before_cursor_execute", pause)
        stack.callback(sa.event.remove, engine, "before_cursor_execute", pause)
        threads = stack.enter_context(futures.ThreadPoolExecutor(1))
        delivering = threads.submit(flow.deliver, "first")
        assert writes.wait(10)
        done = flow.mine.commit(lease, flow.changes(), PARKS)
        parked.set()
        delivered = delivering.result(30)
    is_seen = bool(done.arrivals) or delivered.must_ring
    assert is_seen is (has_rule or flow.is_one_file)
    (delay,) = (d for d in flow.mine.delays_of(flow.uuid) if d.task_name == "first")
    assert delay.is_unabsorbed


# -- one transaction ends a run ----------------------------------------------


def test_looking_for_arrivals_and_parking_are_one(flow: Flow, has_rule: bool) -> None:
    """Without: what arrives between the look and the parking is neither seen nor rung for."""
    lease = flow.take(flow.mine)
    if has_rule:
        delivered = flow.deliver("first")
        done = flow.mine.commit(lease, flow.changes(), PARKS)
        assert not done.has_ended
    else:
        assert not flow.mine.arrivals(lease)
        delivered = flow.deliver("first")
        ending = dataclasses.replace(PARKS, absorbs=False)
        done = flow.mine.commit(lease, flow.changes(), ending)
        assert done.has_ended
    assert (bool(done.arrivals) or delivered.must_ring) is has_rule


def test_parking_gives_up_the_lease_with_it(flow: Flow, has_rule: bool) -> None:
    """Without: what arrives before the lease is given up counts on an owner that looks no more."""
    lease = flow.take(flow.mine)
    if has_rule:
        assert flow.mine.commit(lease, flow.changes(), PARKS).has_ended
        delivered = flow.deliver("first")
    else:
        flow.mine.commit(lease, flow.changes())
        assert not flow.mine.arrivals(lease)
        delivered = flow.deliver("first")
        flow.mine.release(lease)
    assert delivered.must_ring is has_rule


def test_parking_clears_the_ring(flow: Flow, has_rule: bool) -> None:
    """Without: an old ring, which the owner itself has answered, silences the next one."""
    lease = flow.take(flow.mine, A_SHORT_LEASE)
    flow.expire()
    assert flow.deliver("first").must_ring
    with contextlib.ExitStack() as stack:
        if not has_rule:
            stack.enter_context(rewritten(flow.mine, CLEARING_THE_RING))
        absorbed = flow.changes(absorbed=[flow.key("first")])
        assert flow.mine.commit(lease, absorbed, PARKS).has_ended
    assert flow.deliver("second").must_ring is has_rule


def test_taking_the_lease_clears_the_ring(flow: Flow, has_rule: bool) -> None:
    """Without: a ring that was answered by an owner who died then silences the next one."""
    assert flow.deliver("first").must_ring
    with contextlib.ExitStack() as stack:
        if not has_rule:
            stack.enter_context(rewritten(flow.mine, CLEARING_THE_RING))
        flow.take(flow.mine, A_SHORT_LEASE)
    flow.expire()
    assert flow.deliver("second").must_ring is has_rule


# -- order, and repetition ---------------------------------------------------


def both_at_once(flow: Flow, *, is_ordered: bool) -> list[Any]:
    """Write a flow's row and a delay's in two transactions that wait for each other's first write."""
    together = threading.Barrier(2)
    statements = [
        sa.text("UPDATE lazy_flows SET changed_at = changed_at WHERE flow_uuid = :flow"),
        sa.text("UPDATE lazy_delays SET attempt = attempt WHERE flow_uuid = :flow"),
    ]

    def write(book: Any, order: list[Any]) -> int:
        tries = []

        def work(connection: sa.Connection) -> int:
            tries.append(1)
            for statement in order:
                connection.execute(statement, {"flow": flow.uuid})
                if len(tries) == 1:
                    with contextlib.suppress(threading.BrokenBarrierError):
                        together.wait(0.5)
            return len(tries)

        return int(book._transactor.write(work))

    orders = [statements, statements if is_ordered else statements[::-1]]
    with futures.ThreadPoolExecutor(2) as threads:
        running = [
            threads.submit(write, book, order)
            for book, order in zip((flow.mine, flow.other), orders, strict=True)
        ]
        return [future.exception(30) or future.result() for future in running]


def test_one_order_of_writing_knows_no_deadlock(flow: Flow, has_rule: bool) -> None:
    """Without: two transactions of one flow wait for each other until the database ends one of them."""
    tries = both_at_once(flow, is_ordered=has_rule)
    can_deadlock = not flow.is_one_file
    assert (sorted(tries) == [1, 1]) is (has_rule or not can_deadlock)
    assert max(tries) <= 2


def test_a_deadlock_is_repeated(
    flow: Flow, has_rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without: a transaction that the database ended is lost."""
    if not has_rule:
        monkeypatch.setattr(sql_connection, "_TRIES", 1)
    results = both_at_once(flow, is_ordered=False)
    failed = [result for result in results if isinstance(result, errors.StoreUnavailable)]
    assert len(failed) == (0 if has_rule or flow.is_one_file else 1)
