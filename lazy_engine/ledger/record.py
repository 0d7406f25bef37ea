# SPDX-License-Identifier: Apache-2.0
"""What a ledger keeps, as frozen values.

Instants are microseconds since 1970 UTC (``int``), read from the store's own
clock where it has one. They are compared with each other in the store and
never with the clock of another host.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from taskflow.persistence import models

from lazy_engine import terms
from lazy_engine.outcome import Encoded
from lazy_engine.receipt import Disposition
from lazy_engine.terms import NO_TERMS, NO_TIMERS, Terms, Timers
from lazy_engine.token import DelayKey

#: Version of everything in these records as stored.
FORMAT: Final = 1

#: A wish is what somebody outside asks of whoever owns the flow.
WISH_SUSPEND: Final = "suspend"
#: Stays until the flow has ended, and after that says why it did.
WISH_CANCEL: Final = "cancel"

#: Why a delay was closed.
CLOSED_CANCELLED: Final = "cancelled"
CLOSED_RETRIED: Final = "retried"
CLOSED_ENDED: Final = "ended"
CLOSED_NOT_DELAYED: Final = "not delayed"

#: Orders in which open delays are listed: oldest first, and those first for which
#: something is due soonest; the latter leaves out what no timer waits for.
BY_AGE: Final = "age"
BY_DUE: Final = "due"

#: Columns of an atom that a change may touch.
ATOM_COLUMNS: Final = (
    "state",
    "intention",
    "version",
    "meta",
    "results",
    "failure",
    "revert_results",
    "revert_failure",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecord:
    """One row of ``lazy_flows``.

    :ivar epoch: rises by one each time the lease is taken; fences everybody
        who took it before.
    :ivar commit_number: rises by one with each commit of an owner.
    :ivar owner: who holds the lease, or ``None``.
    :ivar lease_expires_at: instant, or ``None`` with no owner.
    :ivar rung_at: when a doorbell was last asked for; cleared by taking the lease.
    :ivar rings: how many doorbells in a row nobody has answered.
    :ivar check_at: when the watchdog is to look at the flow, or ``None`` while
        there is nothing to look for: then the lease runs out, or a doorbell
        counts as lost, or an incident is to be tried again.
    :ivar wish: ``None``, ``"suspend"`` or ``"cancel"``.
    :ivar incident: ``{"kind", "message", "first_at", "last_at", "count", "next_try_at"}``
        or ``None``; without a next try it is left for a person.
    :ivar state: the flow's state as it is lived.
    :ivar key_id: signs this flow's tokens, for good.
    :ivar arrival_number: number of the newest recorded outcome.
    :ivar has_factory: whether anybody but its author can load the flow again.
    :ivar open_delays: how many delays wait.
    """

    flow_uuid: str
    flow_name: str
    epoch: int = 0
    commit_number: int = 0
    owner: str | None = None
    lease_expires_at: int | None = None
    rung_at: int | None = None
    rings: int = 0
    check_at: int | None = None
    wish: str | None = None
    wish_reason: str | None = None
    incident: Mapping[str, Any] | None = None
    state: str = "PENDING"
    key_id: str | None = None
    arrival_number: int = 0
    has_factory: bool = False
    job_name: str | None = None
    job_priority: str | None = None
    book_uuid: str | None = None
    book_name: str | None = None
    open_delays: int = 0
    created_at: int = 0
    changed_at: int = 0
    ended_at: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DelayRecord:
    """One row of ``lazy_delays``.

    :ivar opened_at: when the task's ``Delay`` was committed; ``None`` for an
        outcome that came first.
    :ivar details_text: canonical JSON from ``Delay(details=…)``.
    :ivar arrival_number: order of arrival within the flow.
    :ivar delivery_id: names the call that recorded the outcome, so that this
        call knows its own work again after a lost connection.
    :ivar late: the first outcome that came too late, kept for inspection.
    :ivar terms_text: what the delay asks of the clock; see :class:`~lazy_engine.terms.Terms`.
    :ivar timers: when its timers are due; they mean nothing once it is not open.
    :ivar due_at: when the watchdog is to look at it, or ``None``.
    :ivar alerted_at: when its time was up and it was let wait on.
    :ivar probe_state_text: what the last probe left for the next one, as JSON.
    :ivar progress: what the last heartbeat said, between 0 and 1.
    :ivar progress_text: details of that heartbeat, as JSON.
    :ivar traceparent: the trace that it was opened in (W3C Trace Context), or ``None``.
    """

    key: DelayKey
    task_name: str
    opened_at: int | None = None
    details_text: str | None = None
    outcome: Encoded | None = None
    arrived_at: int | None = None
    arrival_number: int | None = None
    delivery_id: str | None = None
    absorbed_at: int | None = None
    closed_at: int | None = None
    close_reason: str | None = None
    late: Encoded | None = None
    late_at: int | None = None
    terms_text: str | None = None
    timers: Timers = NO_TIMERS
    due_at: int | None = None
    alerted_at: int | None = None
    probe_state_text: str | None = None
    progress: float | None = None
    progress_text: str | None = None
    traceparent: str | None = None

    @property
    def terms(self) -> Terms:
        """What the delay asks of the clock."""
        return Terms.from_text(self.terms_text)

    def after(self, early: DelayRecord) -> DelayRecord:
        """Return this delay, newly opened, with the outcome that came before it."""
        return dataclasses.replace(
            early,
            opened_at=self.opened_at,
            details_text=self.details_text,
            terms_text=self.terms_text,
            timers=self.timers,
            traceparent=self.traceparent,
        )

    @property
    def is_open(self) -> bool:
        """Whether its task still waits for an outcome to arrive."""
        return self.opened_at is not None and self.closed_at is None and self.outcome is None

    def progress_meta(self) -> dict[str, Any]:
        """Return what a task's ``meta`` says of its progress, as TaskFlow has it."""
        meta: dict[str, Any] = {"progress": self.progress or 0.0}
        if self.progress_text is not None:
            details = json.loads(self.progress_text)
            meta["progress_details"] = {"at_progress": meta["progress"], "details": details}
        return meta

    @property
    def is_unabsorbed(self) -> bool:
        """Whether it has an outcome that its task has not got yet."""
        return self.outcome is not None and self.absorbed_at is None and self.closed_at is None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DelayOpening:
    """A delay to open with the next commit."""

    key: DelayKey
    task_name: str
    details_text: str | None = None
    terms: Terms = NO_TERMS
    traceparent: str | None = None

    def open(self, now: int) -> DelayRecord:
        """Return the record of the delay, opened now."""
        timers = terms.start(self.terms, now)
        return DelayRecord(
            key=self.key,
            task_name=self.task_name,
            opened_at=now,
            details_text=self.details_text,
            terms_text=self.terms.to_text(),
            timers=timers,
            due_at=timers.due_at,
            traceparent=self.traceparent,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DelayProbing:
    """A probe that found nothing: look again later.

    :ivar state_text: JSON for the next probe, or ``None``.
    """

    key: DelayKey
    state_text: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DelayClosing:
    """Delays to close with the next commit.

    :ivar up_to_attempt: every attempt of that atom and kind up to this one.
    """

    atom_uuid: str
    kind: str
    up_to_attempt: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AtomChange:
    """An atom whose stored form must change.

    :ivar detail: the atom detail as it is now.
    :ivar columns: which of its columns changed; empty for a new atom.
    :ivar encoded_results: what ``Ledger.encode_result`` made of the results
        when they were saved, or ``None`` to encode them now.
    """

    detail: models.AtomDetail
    columns: frozenset[str]
    is_new: bool = False
    encoded_results: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All that one turn of the machine changes, committed as one.

    :ivar flow: the flow detail, without its atoms and with the state to store.
    :ivar flow_is_dirty: whether its own row changed.
    :ivar open_delays: how many delays are open once this is committed.
    """

    flow: models.FlowDetail
    flow_is_dirty: bool = False
    open_delays: int = 0
    atoms: Sequence[AtomChange] = ()
    opened: Sequence[DelayOpening] = ()
    absorbed: Sequence[DelayKey] = ()
    closed: Sequence[DelayClosing] = ()
    probed: Sequence[DelayProbing] = ()

    @property
    def cancels(self) -> bool:
        """Whether a delay is to be called off."""
        return any(closing.reason == CLOSED_CANCELLED for closing in self.closed)

    def answered(self, unabsorbed: Iterable[DelayRecord]) -> list[DelayRecord]:
        """Return delays that were to be called off but have an outcome, which goes first.

        :param unabsorbed: of the flow, early ones too: a delay may be opened
            and called off in the same turn.
        """
        cancelled = {
            (closing.atom_uuid, closing.kind, closing.up_to_attempt)
            for closing in self.closed
            if closing.reason == CLOSED_CANCELLED
        }
        opened = {opening.key for opening in self.opened}
        return [
            delay
            for delay in unabsorbed
            if (delay.key.atom_uuid, delay.key.kind, delay.key.attempt) in cancelled
            and (delay.opened_at is not None or delay.key in opened)
        ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ends.

    :ivar state: the flow's lived state from now on.
    :ivar is_final: the flow is over: every delay is closed.
    :ivar absorbs: do not end while an outcome waits to be absorbed.
    :ivar heeds_cancel: do not end if the flow was asked to be cancelled.
    """

    state: str
    is_final: bool
    absorbs: bool
    heeds_cancel: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What an owner learns from every write.

    :ivar arrival_number: newer than the one last seen means outcomes to absorb.
    """

    wish: str | None
    arrival_number: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The answer to a commit.

    :ivar has_ended: whether the lease was given up with it; otherwise
        *arrivals* says why not.
    :ivar arrivals: outcomes of opened delays that are not absorbed yet.
    :ivar refused: nothing was written: these delays were to be cancelled, but
        have got an outcome meanwhile, which must be absorbed first.
    :ivar unabsorbed: what is left to absorb as of *pulse*, where that is known.
    """

    pulse: Pulse
    has_ended: bool = False
    arrivals: Sequence[DelayRecord] = ()
    refused: Sequence[DelayRecord] = ()
    unabsorbed: frozenset[DelayKey] | None = None


@dataclasses.dataclass(slots=True, kw_only=True)
class Lease:
    """Ownership of one flow by one engine, for one run.

    Belongs to the engine that took it; ``commit_number`` and ``pulse`` move.

    :ivar seconds: length of the lease.
    :ivar is_unsure: whether the last commit may have been carried out although it failed.
    :ivar unabsorbed: the outcomes that were there to absorb, early ones too, when the
        flow's arrival number was *unabsorbed_at*; while it is, there is no other.
    """

    flow_uuid: str
    owner: str
    epoch: int
    commit_number: int
    seconds: float
    key_id: str
    pulse: Pulse
    is_unsure: bool = False
    unabsorbed: frozenset[DelayKey] = frozenset()
    unabsorbed_at: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The answer to a successful taking of the lease.

    :ivar detail: the flow detail as stored, or ``None`` if the taker proved
        that nobody ran the flow since it last did (or that nobody ever did).
    :ivar arrivals: outcomes to absorb, oldest first; with ``opened_at`` of
        ``None`` those that came before their ``Delay``.
    :ivar fired: what due timers did just then.
    :ivar probing: open delays whose tasks look for themselves.
    """

    lease: Lease
    detail: models.FlowDetail | None
    arrivals: Sequence[DelayRecord]
    fired: Sequence[terms.Fired] = ()
    probing: Sequence[DelayRecord] = ()
    now: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The answer to a taking that was not granted.

    :ivar reason: ``"busy"``, ``"ended"`` or ``"suspended"``.
    :ivar wait_seconds: for ``busy``: how long the other lease still runs.
    """

    reason: str
    record: FlowRecord
    wait_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """What a flow's first record is made of, if it has none yet.

    :ivar job_name: name of the job that brought the flow, or ``None``.
    :ivar job_priority: that job's priority, or ``None``.
    """

    flow_name: str
    has_factory: bool
    key_id: str
    job_name: str | None = None
    job_priority: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One outcome on its way in.

    :ivar delivery_id: names this call.
    """

    key: DelayKey
    outcome: Encoded
    delivery_id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What became of one delivery.

    :ivar task_name: empty if the atom is not known (any more).
    :ivar traceparent: the trace that the delay was opened in, or ``None``.
    """

    disposition: Disposition
    task_name: str
    traceparent: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredToFlow:
    """What became of the deliveries to one flow, and whether to ring.

    :ivar has_owner: a live lease exists.
    :ivar must_ring: the caller has to post a doorbell now (it is noted as rung).
    :ivar is_rung: a doorbell is under way already.
    """

    items: Sequence[Delivered]
    record: FlowRecord
    has_owner: bool
    must_ring: bool
    is_rung: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tended:
    """What the watchdog did with one flow.

    :ivar wants_owner: somebody has to run the flow; a doorbell is noted.
    :ivar fired: what the due timers of its delays did.
    """

    record: FlowRecord
    wants_owner: bool
    fired: Sequence[terms.Fired] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The answer to a heartbeat.

    :ivar is_wanted: the delay can still be answered.
    """

    is_wanted: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The answer to a wish to cancel a flow.

    :ivar is_new: it was neither over nor cancelled before.
    :ivar must_ring: the caller has to post a doorbell now (it is noted as rung).
    """

    record: FlowRecord
    is_new: bool
    must_ring: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """The answer to a wish to have a flow run on.

    :ivar has_owner: somebody runs it, and goes on.
    :ivar must_ring: the caller has to post a doorbell now (it is noted as rung).
    """

    record: FlowRecord
    has_owner: bool
    must_ring: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A flow to be stored before anybody runs it."""

    detail: models.FlowDetail
    book: models.LogBook
    key_id: str
    is_rung: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which open delays to list: those after *after*, in the order that is asked for.

    :ivar due_before: only those whose deadline is before that instant.
    :ivar order: :data:`BY_AGE` or :data:`BY_DUE`.
    """

    flow_uuid: str | None = None
    task_name: str | None = None
    due_before: int | None = None
    after: tuple[int, str, str, str, int] | None = None
    limit: int = 100
    order: str = BY_AGE


def place_of(record: DelayRecord, order: str = BY_AGE) -> tuple[int, str, str, str, int]:
    """Return where a delay stands in the order in which delays are listed."""
    key = record.key
    at = record.opened_at if order == BY_AGE else record.due_at
    return (at or 0, key.flow_uuid, key.atom_uuid, key.kind, key.attempt)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowPage:
    """Which flows to list: those after *after*, with incidents first, then the newest.

    :ivar state: only those that are in this state, as it is lived.
    :ivar only_incidents: only those that could not be run.
    """

    state: str | None = None
    only_incidents: bool = False
    after: tuple[bool, int, str] | None = None
    limit: int = 100


def place_of_flow(flow: FlowRecord) -> tuple[bool, int, str]:
    """Return where a flow stands in the order in which flows are listed."""
    return (flow.incident is None, -flow.created_at, flow.flow_uuid)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenCount:
    """How many delays of one task wait, and since when.

    :ivar task_name: ``None`` for all tasks that have no count of their own.
    :ivar by_age: how many in each age class, the youngest first.
    :ivar oldest_at: when the first of them was opened.
    """

    task_name: str | None
    by_age: tuple[int, ...]
    oldest_at: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How much waits in a store.

    :ivar now: the store's time at which it was taken.
    :ivar incidents: flows that could not be run.
    :ivar lag_seconds: for how long the watchdogs have left undone what is due first.
    """

    now: int
    open: Sequence[OpenCount]
    incidents: int
    lag_seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many there are of what, each counted up to a limit.

    :ivar states: flows by their state, as it is lived; states that no flow is
        in are left out.
    :ivar at_least: states of which there may be more than were counted.
    :ivar incidents: flows that could not be run.
    :ivar waiting: open delays.
    """

    states: Mapping[str, int]
    at_least: frozenset[str]
    incidents: int
    waiting: int
