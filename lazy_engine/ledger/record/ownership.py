# SPDX-License-Identifier: Apache-2.0
"""What owners of flows ask of a ledger, and are told: leases and commits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final

from taskflow.persistence import models

from lazy_engine import terms
from lazy_engine.ledger.record.delay import CLOSED_CANCELLED, DelayRecord
from lazy_engine.ledger.record.flow import FlowRecord, Version
from lazy_engine.terms import NO_TERMS, Terms
from lazy_engine.token import DelayKey

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
    :ivar changed_at: when it was made; 0 where nothing was written.
    :ivar unabsorbed: what is left to absorb as of *pulse*, where that is known.
    """

    pulse: Pulse
    has_ended: bool = False
    changed_at: int = 0
    arrivals: Sequence[DelayRecord] = ()
    refused: Sequence[DelayRecord] = ()
    unabsorbed: frozenset[DelayKey] | None = None


@dataclasses.dataclass(slots=True, kw_only=True)
class Lease:
    """Ownership of one flow by one engine, for one run.

    Belongs to the engine that took it; ``commit_number``, ``changed_at`` and ``pulse`` move.

    :ivar created_at: when the flow's record was made.
    :ivar changed_at: when the last commit was made.
    :ivar seconds: length of the lease.
    :ivar is_unsure: whether the last commit may have been carried out although it failed.
    :ivar unabsorbed: the outcomes that were there to absorb, early ones too, when the
        flow's arrival number was *unabsorbed_at*; while it is, there is no other.
    """

    flow_uuid: str
    owner: str
    epoch: int
    commit_number: int
    created_at: int
    changed_at: int
    seconds: float
    key_id: str
    pulse: Pulse
    is_unsure: bool = False
    unabsorbed: frozenset[DelayKey] = frozenset()
    unabsorbed_at: int | None = None

    @property
    def version(self) -> Version:
        """The version of the flow's details after the last commit."""
        return (self.created_at, self.epoch, self.commit_number, self.changed_at)

    def owns(self, flow: FlowRecord) -> bool:
        """Whether that record is of the run that began with this lease.

        The epoch alone does not tell: a store that was set back to a backup comes to the
        same epochs again. Owners never do, each has a name of its own.
        """
        return (flow.epoch, flow.owner) == (self.epoch, self.owner)

    def may_have_left(self, flow: FlowRecord) -> bool:
        """Whether that is the record after the last commit that was answered, or the next one.

        An older commit of this very run means that the store was set back to a backup.
        """
        return self.owns(flow) and flow.commit_number - self.commit_number in (0, 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The answer to a successful taking of the lease.

    :ivar detail: the flow detail as stored, or ``None`` if the taker proved
        that nobody ran the flow since it last did (or that nobody ever did).
    :ivar arrivals: outcomes to absorb, oldest first; with ``opened_at`` of
        ``None`` those that came before their ``Delay``.
    :ivar fired: what due timers did just then.
    :ivar probing: open delays whose tasks look for themselves.
    :ivar has_begun: whether the request's first changes were stored with it.
    """

    lease: Lease
    detail: models.FlowDetail | None
    arrivals: Sequence[DelayRecord]
    has_begun: bool = False
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
