# SPDX-License-Identifier: Apache-2.0
"""What must be true of one stored flow, and what is wrong where it is not.

Every rule is checked against one reading of the flow's record, details and
delays that belong together. It knows no store and no clock.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from taskflow import states
from taskflow.persistence import models

from lazy_engine import rules, token
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import may_still_open, stored_attempt
from lazy_engine.token import REVERT, DelayKey

#: Contradicts what the ledger promises: a defect, or somebody wrote to the tables.
WRONG: Final = "wrong"
#: As it may be, but nobody is going to do anything about it.
STALLED: Final = "stalled"

#: A watchdog that has not looked for so long is not running.
OVERDUE_SECONDS: Final = 300.0

Found = Iterator[tuple[str | None, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """All that is stored of one flow at one moment.

    :ivar waiting: the delays that a list of what waits shows.
    :ivar has_key: whether the key that the flow names is there.
    :ivar damage: why the details cannot be read, or ``None``.
    """

    flow_uuid: str
    record: r.FlowRecord | None
    detail: models.FlowDetail | None
    delays: Sequence[r.DelayRecord]
    waiting: frozenset[DelayKey]
    has_key: bool
    damage: str | None
    now: int

    @property
    def is_over(self) -> bool:
        """Whether the flow has ended."""
        return self.record is not None and rules.is_over(self.record)

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asked for it to be called off."""
        return self.record is not None and rules.is_cancelled(self.record)

    @property
    def waiting_tasks(self) -> list[models.AtomDetail]:
        """The tasks that are stored as waiting."""
        return [atom for atom in self.detail or () if atom.state == DELAYED]

    def wanted_key(self, atom: models.AtomDetail) -> DelayKey:
        """Return the name of the attempt that a waiting task is in."""
        kind = token.REVERT if atom.intention == states.REVERT else token.EXECUTE
        return DelayKey(
            flow_uuid=self.flow_uuid,
            atom_uuid=atom.uuid,
            kind=kind,
            attempt=stored_attempt(atom.meta or {}, kind),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it must be.

    :ivar check: name of the check.
    :ivar level: :data:`WRONG` or :data:`STALLED`.
    """

    check: str
    level: str
    flow_uuid: str | None
    task_name: str | None
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One rule: what is to be true, and who looks."""

    name: str
    level: str
    says: str
    look: Callable[[Reading], Found]


def examine(reading: Reading) -> list[Finding]:
    """Return all that is wrong with a flow."""
    return [
        Finding(
            check=check.name,
            level=check.level,
            flow_uuid=reading.flow_uuid,
            task_name=task_name,
            text=text,
        )
        for check in CHECKS
        for task_name, text in check.look(reading)
    ]


# -- orphans ---------------------------------------------------------------


def _orphan_delays(seen: Reading) -> Found:
    if seen.record is None:
        for delay in seen.delays:
            what = "a delay" if delay.outcome is None else "an outcome"
            yield delay.task_name, f"{what} of attempt {delay.key.attempt}, but no such flow"
        return
    if seen.detail is None:
        return
    for delay in seen.delays:
        if seen.detail.find(delay.key.atom_uuid) is None:
            yield delay.task_name, "a delay of a task that the flow does not have"


def _orphan_flows(seen: Reading) -> Found:
    if seen.record is None and seen.detail is not None and not seen.delays:
        yield None, "its details say DELAYED, but the ledger does not know it"
    if seen.record is not None and seen.detail is None and seen.damage is None:
        yield None, "the ledger knows it, but it has no details"


def _orphan_leases(seen: Reading) -> Found:
    flow = seen.record
    if flow is None:
        return
    if (flow.owner is None) != (flow.lease_expires_at is None):
        yield None, f"owner is {flow.owner} and the lease ends at {flow.lease_expires_at}"
    elif rules.is_over(flow) and flow.owner is not None:
        yield None, f"it has ended, and {flow.owner} still has its lease"


# -- contradictions --------------------------------------------------------


def _waiting_without_delay(seen: Reading) -> Found:
    if seen.record is None or seen.is_cancelled:
        return  # cancelling closes delays before their tasks are reverted
    there = {delay.key for delay in seen.delays if delay.is_open or delay.is_unabsorbed}
    for atom in seen.waiting_tasks:
        key = seen.wanted_key(atom)
        if key not in there:
            yield atom.name, f"waits in attempt {key.attempt} ({key.kind}) without an open delay"


def _delay_without_waiting(seen: Reading) -> Found:
    if seen.record is None or seen.detail is None:
        return
    wanted = {seen.wanted_key(atom) for atom in seen.waiting_tasks}
    for delay in seen.delays:
        is_there = delay.is_open or (delay.is_unabsorbed and delay.opened_at is not None)
        if is_there and delay.key not in wanted:
            atom = seen.detail.find(delay.key.atom_uuid)
            state = "not in the flow" if atom is None else f"{atom.state}"
            yield delay.task_name, f"attempt {delay.key.attempt} is open, but its task is {state}"


def _ended_with_delays(seen: Reading) -> Found:
    for delay in seen.delays if seen.is_over else ():
        if delay.is_open or delay.is_unabsorbed:
            yield delay.task_name, f"the flow has ended, and attempt {delay.key.attempt} is open"


def _ended_otherwise(seen: Reading) -> Found:
    flow = seen.record
    if flow is None:
        return
    if seen.is_over != (flow.ended_at is not None):
        yield None, f"it is {flow.state}, and ended_at is {flow.ended_at}"
    if seen.is_over and seen.detail is not None and seen.detail.state != flow.state:
        yield None, f"the ledger says {flow.state}, its details say {seen.detail.state}"


def _stored_state(seen: Reading) -> Found:
    if seen.record is None or seen.detail is None or seen.is_over:
        return
    names = [atom.name for atom in seen.waiting_tasks]
    if names and seen.detail.state != DELAYED:
        yield None, f"{names} wait, but the stored state is {seen.detail.state}"
    is_parked = seen.record.owner is None and seen.record.state == DELAYED
    if is_parked and not names:
        yield None, "it is parked, and no task of it waits"
    if seen.record.open_delays != len(names):
        yield None, f"open_delays is {seen.record.open_delays}, and {len(names)} tasks wait"


def _listed(seen: Reading) -> Found:
    for delay in seen.delays if seen.record is not None else ():
        if delay.is_open != (delay.key in seen.waiting):
            how = "waits and is not listed" if delay.is_open else "is listed and does not wait"
            yield delay.task_name, f"attempt {delay.key.attempt} {how}"


def _outcomes(seen: Reading) -> Found:
    numbers = collections.Counter(
        delay.arrival_number for delay in seen.delays if delay.outcome is not None
    )
    newest = seen.record.arrival_number if seen.record is not None else None
    for delay in seen.delays:
        if (delay.outcome is None) != (delay.arrived_at is None):
            yield delay.task_name, f"attempt {delay.key.attempt} has half an outcome"
        elif delay.outcome is None and delay.absorbed_at is not None:
            yield delay.task_name, f"attempt {delay.key.attempt} absorbed what never came"
        elif delay.outcome is not None and (
            numbers[delay.arrival_number] > 1
            or (newest is not None and (delay.arrival_number or 0) > newest)
        ):
            yield delay.task_name, f"arrival number {delay.arrival_number} cannot be"


def _vain_outcomes(seen: Reading) -> Found:
    flow = seen.record
    if flow is None or seen.detail is None or seen.is_over or rules.has_owner(flow, seen.now):
        return
    atoms = {atom.uuid: (atom.name, atom.state, atom.meta or {}) for atom in seen.detail}
    for delay in seen.delays:
        is_early = delay.is_unabsorbed and delay.opened_at is None
        if is_early and not may_still_open(delay.key, atoms.get(delay.key.atom_uuid)):
            yield delay.task_name, f"an early outcome of attempt {delay.key.attempt}, which is over"


def _keys(seen: Reading) -> Found:
    if seen.record is not None and not seen.is_over and not seen.has_key:
        yield None, f"its key {seen.record.key_id} is not there: its tokens are worth nothing"


def _damage(seen: Reading) -> Found:
    if seen.damage is not None:
        yield None, seen.damage


def _unwatched(seen: Reading) -> Found:
    flow = seen.record
    if flow is None or seen.is_over or flow.check_at is not None:
        return
    if flow.owner is not None:
        yield None, f"{flow.owner} has its lease, and nobody looks when it runs out"
    elif _is_left_to_people(flow):
        return
    elif names := sorted({delay.task_name for delay in seen.delays if delay.is_unabsorbed}):
        yield None, f"{names} have outcomes, without an owner and without a ring"
    elif seen.is_cancelled and not any(
        # Its compensations wait for the outside, as any delay does.
        delay.is_open and delay.key.kind == REVERT
        for delay in seen.delays
    ):
        yield None, "it was cancelled, without an owner and without a ring"


# -- stalled ---------------------------------------------------------------


def _is_left_to_people(flow: r.FlowRecord) -> bool:
    is_left = flow.incident is not None and flow.incident["next_try_at"] is None
    return is_left or rules.is_suspended(flow) or not flow.has_factory


def _overdue(seen: Reading) -> Found:
    flow = seen.record
    if flow is None or seen.is_over or rules.has_owner(flow, seen.now):
        return
    dues = [flow.check_at, *(delay.due_at for delay in seen.delays if delay.is_open)]
    late = seen.now - min((at for at in dues if at is not None), default=seen.now)
    if late > OVERDUE_SECONDS * 1e6:
        yield None, f"the watchdog should have looked {late / 1e6:.0f} s ago"


def _not_begun(seen: Reading) -> Found:
    flow = seen.record
    # Of one that was rung for, the watchdog sees to it that it is begun.
    if flow is None or flow.epoch or flow.check_at is not None or rules.is_suspended(flow):
        return
    waited = seen.now - flow.created_at
    if flow.state == states.PENDING and waited > OVERDUE_SECONDS * 1e6:
        yield None, f"submitted {waited / 1e6:.0f} s ago without a job board, and nobody has run it"


def _left(seen: Reading) -> Found:
    flow = seen.record
    if flow is None or seen.is_over:
        return
    if flow.incident is not None and flow.incident["next_try_at"] is None:
        count, kind = flow.incident["count"], flow.incident["kind"]
        yield None, f"left for a person after {count} tries ({kind}): {flow.incident['message']}"
    elif not flow.has_factory and any(delay.is_unabsorbed for delay in seen.delays):
        yield None, "answered, and without a factory: Client.resume(…, flow=…) runs it on"


def _check(name: str, says: str, look: Callable[[Reading], Found], level: str = WRONG) -> Check:
    return Check(name=name, level=level, says=says, look=look)


#: Every rule, in the order in which it is looked for.
CHECKS: Final[Sequence[Check]] = (
    _check("orphan-delay", "every delay and outcome belongs to a task", _orphan_delays),
    _check("orphan-flow", "every flow has its record and its details", _orphan_flows),
    _check("orphan-lease", "every lease has an owner and a flow to run", _orphan_leases),
    _check("waiting", "every waiting task has an open delay", _waiting_without_delay),
    _check("open-delay", "every open delay has a waiting task", _delay_without_waiting),
    _check("ended-delay", "no ended flow has open delays", _ended_with_delays),
    _check("ended-state", "ledger and details agree on the end", _ended_otherwise),
    _check("stored-state", "a flow's state agrees with its tasks'", _stored_state),
    _check("listed", "what waits is listed, and nothing else", _listed),
    _check("outcome", "every outcome has arrived whole, and once", _outcomes),
    _check("early-outcome", "every early outcome can still be absorbed", _vain_outcomes),
    _check("key", "every flow's key is there", _keys),
    _check("damage", "all details can be read", _damage),
    _check("unwatched", "somebody owns or rings for every flow with work to do", _unwatched),
    _check("overdue", "the watchdog looks in time", _overdue, STALLED),
    _check("begun", "every flow that was submitted is begun", _not_begun, STALLED),
    _check("left", "no flow is left for a person", _left, STALLED),
)


def doorbell_finding(job: Any, flow_uuid: str) -> Finding:
    """Return what is wrong with a doorbell that leads to no flow."""
    return Finding(
        check=DOORBELL.name,
        level=DOORBELL.level,
        flow_uuid=flow_uuid,
        task_name=None,
        text=f"job {job.uuid} ({job.name}) on the board leads to no flow in this store",
    )


#: Looked for on the job board.
DOORBELL: Final = _check(
    "orphan-doorbell", "every doorbell leads to a flow", lambda _reading: iter(())
)
