# SPDX-License-Identifier: Apache-2.0
"""What every ledger can do, whatever store it is kept in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from taskflow.persistence import models

from lazy_engine import errors
from lazy_engine.ledger import record as r
from lazy_engine.outcome import Encoded, Failed, Result
from lazy_engine.token import DelayKey, Key

if TYPE_CHECKING:
    from lazy_engine.ledger.keeper import Keeper
    from lazy_engine.observer import Several

#: Largest outcome that a ledger takes, in bytes of canonical JSON.
MAX_OUTCOME_BYTES: Final = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guarantees:
    """What a kind of store promises; the one test suite selects by it.

    :ivar store: ``"memory"``, ``"sqlite"``, ``"postgresql"``, ``"mysql"``, ``"dir"``,
        ``"zookeeper"``.
    :ivar needs_json: outcomes and results must be JSON.
    :ivar is_durable: what is committed outlives the process.
    :ivar is_shared: other processes see it.
    :ivar has_clock: leases are timed by one clock for all; without one each
        observer takes over only what it has itself seen unchanged for a whole
        lease.
    """

    store: str
    needs_json: bool
    is_durable: bool
    is_shared: bool
    has_clock: bool = True


#: The kinds of stores, by name.
GUARANTEES: Final[Mapping[str, Guarantees]] = {
    "memory": Guarantees(store="memory", needs_json=False, is_durable=False, is_shared=False),
    "sqlite": Guarantees(store="sqlite", needs_json=True, is_durable=True, is_shared=True),
    "dir": Guarantees(store="dir", needs_json=True, is_durable=True, is_shared=True),
    "postgresql": Guarantees(store="postgresql", needs_json=True, is_durable=True, is_shared=True),
    "mysql": Guarantees(store="mysql", needs_json=True, is_durable=True, is_shared=True),
    "zookeeper": Guarantees(
        store="zookeeper", needs_json=True, is_durable=True, is_shared=True, has_clock=False
    ),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TakeRequest:
    """A request for the lease of a flow.

    :ivar seconds: length of the lease.
    :ivar newcomer: makes the flow's first record, if it has none.
    :ivar known: the flow's version after the asker's own last run of it; if it
        still holds, nobody ran it since and nothing is read anew.
    :ivar may_rerun: take it even though the flow has ended.
    :ivar resumes: take it even though the flow is suspended, and end that.
    :ivar is_dead: says whether an owner is known to have died.
    :ivar is_insistent: take it only if *known* still holds.
    :ivar first: what to store together with the lease, if nobody has ever run the
        flow; a ledger need not do so, and says whether it has.
    """

    flow_uuid: str
    owner: str
    seconds: float
    newcomer: r.Newcomer
    known: r.Version | None
    may_rerun: bool
    resumes: bool
    is_dead: Callable[[str], bool]
    is_insistent: bool = False
    first: r.Changes | None = None

    def lease(
        self,
        record: r.FlowRecord,
        unabsorbed: frozenset[DelayKey] = frozenset(),
        at: int | None = None,
    ) -> r.Lease:
        """Return the lease that is granted.

        :param record: of the flow, as the grant has left it.
        :param unabsorbed: see :class:`~lazy_engine.ledger.record.Lease`, as *at*.
        """
        assert record.key_id is not None
        return r.Lease(
            flow_uuid=self.flow_uuid,
            owner=self.owner,
            epoch=record.epoch,
            commit_number=record.commit_number,
            created_at=record.created_at,
            changed_at=record.changed_at,
            seconds=self.seconds,
            key_id=record.key_id,
            pulse=r.Pulse(wish=record.wish, arrival_number=record.arrival_number),
            unabsorbed=unabsorbed,
            unabsorbed_at=at,
        )

    def require_known(self, record: r.FlowRecord | None) -> None:
        """Refuse an insistent request if the flow is not as the asker knows it.

        :raises Outdated: somebody else ran the flow, or it is gone.
        """
        if not self.is_insistent:
            return
        if record is not None:
            # After a lost connection it may have been granted already, and is asked again.
            is_granted = record.owner == self.owner
            if is_granted or self.known == record.version:
                return
        raise Outdated(f"flow {self.flow_uuid} is not as it was at {self.known}")


class Outdated(Exception):
    """An insistent request came too late: nothing was taken, and nothing written."""


#: After so many flows in a row for which the store failed the rest are not tried:
#: each try takes seconds where a server is away.
_GONE_AFTER: Final = 2

#: How many flows a purge knows of at once.
PURGE_PAGE: Final = 100


class Ledger(Protocol):
    """The durable book of delays, outcomes and leases of one store.

    Safe to call from any thread. Every writing method is one transaction
    that begins by writing the flow's own record; it is retried by itself
    after deadlocks and busy stores, and after a lost connection it finds out
    whether it had been carried out.

    :raises StoreUnavailable: (every method) the store cannot be reached or
        refuses; a writing method then says nothing of what is stored.
    """

    guarantees: Guarantees
    max_outcome_bytes: int
    keeper: Keeper
    #: Who is told what happens here, in this process.
    observer: Several

    def encode(self, outcome: Result | Failed) -> Encoded:
        """Return the stored form; raises if this store could not keep it."""

    def decode(self, encoded: Encoded) -> Any:
        """Return the payload: a result's value, or a failure's dictionary."""

    def encode_result(self, result: Any) -> str | None:
        """Encode a task's result; ``None`` if this store needs no encoding.

        :raises ResultNotStorable: the store could not keep it.
        """

    def signing_key(self, key_id: str | None = None) -> Key:
        """Return a key; without an id the one for new flows.

        :raises InvalidToken: no such key.
        """

    def now(self) -> int:
        """Return the store's time."""

    def submit(self, submission: r.Submission) -> tuple[r.FlowRecord, bool]:
        """Store a flow unless it is there; returns its record and whether it is new."""

    def take(self, request: TakeRequest) -> r.Taken | r.Refused:
        """Become the flow's owner: raise the epoch and read the details anew.

        :raises UnknownFlow: no such flow detail is stored.
        :raises Outdated: the request is insistent, and the flow has changed.
        :raises FlowIncident: what is stored cannot be read; the lease is not taken.
        """

    def commit(
        self, lease: r.Lease, changes: r.Changes, ending: r.Ending | None = None
    ) -> r.Committed:
        """Write all of one turn, fenced by the lease's epoch, owner and commit number.

        With *ending*: look for outcomes to absorb and, if there are none, end
        the run and give the lease up, all in the same transaction.

        :raises Fenced: the flow is not the lease's any more; nothing was written.
        """

    def pulse(self, lease: r.Lease) -> r.Pulse:
        """Look whether anything came for a flow one owns; writes nothing."""

    def arrivals(self, lease: r.Lease) -> Sequence[r.DelayRecord]:
        """Return the outcomes of opened delays that are not absorbed, oldest first."""

    def renew(self, lease: r.Lease) -> r.Pulse:
        """Make the lease run anew from now.

        :raises Fenced: there is a newer owner.
        """

    def release(self, lease: r.Lease) -> None:
        """Give the lease up as things stand; nothing happens if it is lost."""

    def deliver(
        self, flow_uuid: str, deliveries: Sequence[r.Delivery], *, rings: bool
    ) -> r.DeliveredToFlow | None:
        """Record outcomes of one flow; first outcome wins.

        :param rings: whether the caller can post a doorbell.
        :returns: ``None`` if the flow has no record.
        """

    def deliver_all(
        self, by_flow: Mapping[str, Sequence[r.Delivery]], *, rings: bool
    ) -> dict[str, r.DeliveredToFlow | errors.LazyEngineError | None]:
        """Record outcomes of many flows, where the store can in few transactions.

        One flow's trouble does not touch the others.

        :returns: for each flow, by its uuid, what :meth:`deliver` returns or raises.
        """

    def unring(self, flow_uuid: str) -> None:
        """Note that a doorbell could not be posted after all."""

    def due(self, limit: int) -> Sequence[str]:
        """Return uuids of flows that the watchdog is to look at, longest due first.

        By an index: what this costs depends on what is due, not on what waits.
        """

    def next_due_in(self, within_seconds: float) -> float | None:
        """Return in how many seconds something is due, 0 or less if something is.

        :returns: ``None`` if nothing is due within *within_seconds*.
        """

    def tend(self, flow_uuid: str, *, rings: bool) -> r.Tended | None:
        """Have a flow's due timers do what they do, and note a ring if it wants an owner.

        Any number of watchdogs may do so at once. ``None`` without such a flow.

        :param rings: whether the caller can post a doorbell.
        """

    def heartbeat(
        self, key: DelayKey, *, progress: float | None, details_text: str | None
    ) -> r.Beat | None:
        """Note a sign of life from outside; ``None`` if the flow has no record."""

    def cancel(self, flow_uuid: str, reason: str, *, rings: bool) -> r.Cancelled | None:
        """Ask for a flow to be called off, and close what waits in ``execute``.

        :param rings: whether the caller can post a doorbell.
        :returns: ``None`` if the flow has no record.
        """

    def wake(self, flow_uuid: str, *, rings: bool) -> r.Woken | None:
        """End a flow's suspension and note a ring, as ``rules.wake`` says.

        :param rings: whether the caller can post a doorbell.
        :returns: ``None`` if the flow has no record.
        """

    def set_wish(self, flow_uuid: str, wish: str | None, reason: str | None) -> r.FlowRecord | None:
        """Ask something of the flow's owner, present or next."""

    def note_incident(
        self, flow_uuid: str, kind: str, message: str, lease: r.Lease | None = None
    ) -> r.FlowRecord | None:
        """Write on the flow that it could not be run, as ``desk.note_incident`` says.

        :param lease: of the owner that gives the flow up with this.
        :returns: the record afterwards, or ``None`` without such a flow.
        """

    def flows(self, page: r.FlowPage) -> Sequence[r.FlowRecord]:
        """Return flows with incidents first, then the newest first."""

    def tally(self, limit: int) -> r.Tally:
        """Count flows by state, incidents and open delays, each up to *limit*.

        By an index: what this costs depends on the limit, not on what is stored.
        """

    def flow_names(self, flow_uuids: Collection[str]) -> Mapping[str, str]:
        """Return the names of flows by their uuids; those without a record are left out."""

    def atom_times(self, flow_uuid: str) -> Mapping[str, tuple[int | None, int | None]]:
        """Return of a flow's atoms, by name, when they were stored and when they last changed.

        As the clock of whoever wrote them had it. Empty where TaskFlow's store keeps no times.
        """

    def flow_uuids(self, after: str, limit: int) -> Sequence[str]:
        """Return uuids greater than *after*, in order, of all that the ledger has to do with.

        Of flows with a record, with delays, or stored as ``DELAYED``: in a
        sound store they are the same.
        """

    def flow(self, flow_uuid: str) -> r.FlowRecord | None:
        """Return the flow's record."""

    def detail(self, flow_uuid: str) -> models.FlowDetail | None:
        """Return the flow detail with all its atoms, as stored.

        :raises FlowIncident: what is stored cannot be read; nothing is recorded of that.
        """

    def delays_of(self, flow_uuid: str) -> Sequence[r.DelayRecord]:
        """Return every delay that the flow has had, oldest first."""

    def waiting(self, page: r.Page) -> Sequence[r.DelayRecord]:
        """Return open delays, in the order that the page asks for."""

    def census(self, ages_seconds: Sequence[float], most_tasks: int) -> r.Census:
        """Count what waits, by task and age.

        Looks at every open delay (and, in ZooKeeper, at every flow): for whoever
        asks now and then. :class:`lazy_engine.metrics.Metrics` sees to it that
        it is not asked more often than the store can bear.

        :param ages_seconds: where one age class ends and the next begins, rising.
        :param most_tasks: how many tasks are counted by themselves, those with
            the most delays first.
        """

    def purge(self, ended_before: int, progress: Callable[[int], object] | None = None) -> int:
        """Delete flows that ended before an instant, with all that is theirs; return how many.

        A page of :data:`PURGE_PAGE` flows at a time is known by uuid, and one
        flow a transaction is deleted: whatever ends a purge in the middle, each
        flow is there as a whole or gone as a whole.

        :param progress: told after each page how many are gone. What it raises ends the purge.
        """

    def close(self) -> None:
        """Let go of the store."""


def deliver_each(
    ledger: Ledger, by_flow: Mapping[str, Sequence[r.Delivery]], *, rings: bool
) -> dict[str, r.DeliveredToFlow | errors.LazyEngineError | None]:
    """Record outcomes of many flows, one flow after the other."""
    answers: dict[str, r.DeliveredToFlow | errors.LazyEngineError | None] = {}
    gone: errors.StoreUnavailable | None = None
    in_a_row = 0
    for flow_uuid, deliveries in by_flow.items():
        if gone is not None and in_a_row >= _GONE_AFTER:
            answers[flow_uuid] = gone
            continue
        try:
            answers[flow_uuid] = ledger.deliver(flow_uuid, deliveries, rings=rings)
            in_a_row = 0
        except errors.StoreUnavailable as error:
            answers[flow_uuid] = gone = error
            in_a_row += 1
        except errors.LazyEngineError as error:
            answers[flow_uuid] = error
    return answers


def fenced(lease: r.Lease) -> errors.Fenced:
    """Return the error for an owner that finds itself superseded."""
    return errors.Fenced(
        f"flow {lease.flow_uuid} has a newer owner, or its store was set back to a backup: this"
        f" engine (epoch {lease.epoch}) wrote nothing and stops; whoever owns the flow next"
        " carries on",
        flow_uuid=lease.flow_uuid,
    )
