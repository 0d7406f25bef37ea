# SPDX-License-Identifier: Apache-2.0
"""Where deliveries to one flow are received, one after the other.

A desk knows no store: a ledger puts on it what the store says, lets it judge,
and writes what it then holds. All of it happens inside one transaction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from taskflow import states

from lazy_engine import incident, rules
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.receipt import Disposition
from lazy_engine.token import DelayKey

if TYPE_CHECKING:
    from lazy_engine.ledger.protocol import TakeRequest

#: Key of an atom's ``meta`` under which its count of attempts is kept:
#: ``{"execute": int, "revert": int}``.
META_ATTEMPTS = "lazy_attempts"


def stored_attempt(meta: Mapping[str, Any], kind: str) -> int:
    """Return how many attempts an atom has begun, by its stored meta."""
    return int((meta.get(META_ATTEMPTS) or {}).get(kind, 0))


def may_still_open(key: DelayKey, atom: tuple[str, str | None, Mapping[str, Any]] | None) -> bool:
    """Whether an attempt that has opened no delay may yet open one.

    :param atom: name, state and meta as stored.
    """
    _name, state, meta = atom or ("", None, {})
    return not rules.attempt_is_over(
        key.attempt,
        stored_attempt=stored_attempt(meta, key.kind),
        stored_state=state,
        stored_is_delayed=state == DELAYED,
    )


def closings_in_vain(
    early: Iterable[r.DelayRecord],
    atoms: Mapping[str, tuple[str, str | None, Mapping[str, Any]]],
) -> list[r.DelayClosing]:
    """Return how to close delays whose outcome came early, and for nobody.

    An attempt that a crash interrupted may have handed its token out and then,
    when it was executed again, have made no ``Delay`` at all.

    :param early: delays with an outcome that were never opened.
    :param atoms: name, state and meta of their atoms as stored, by uuid.
    """
    return [
        r.DelayClosing(
            atom_uuid=record.key.atom_uuid,
            kind=record.key.kind,
            up_to_attempt=record.key.attempt,
            reason=r.CLOSED_NOT_DELAYED,
        )
        for record in early
        if record.key.atom_uuid in atoms
        and not may_still_open(record.key, atoms[record.key.atom_uuid])
    ]


def refusal_of(request: TakeRequest, record: r.FlowRecord, now: int) -> r.Refused | None:
    """Return why a lease is not granted, or ``None`` if it is.

    :param record: of the flow, with its lease as the store (or this observer) sees it.
    """
    if rules.is_over(record) and not request.may_rerun:
        return r.Refused(reason="ended", record=record)
    if rules.is_suspended(record) and not request.resumes:
        return r.Refused(reason="suspended", record=record)
    if rules.has_owner(record, now) and record.owner != request.owner:
        left = ((record.lease_expires_at or 0) - now) / 1e6
        return r.Refused(reason="busy", record=record, wait_seconds=left)
    return None


class Desk:
    """Receives deliveries to one flow.

    :param first_number: the arrival number of the first delivery.
    :ivar flow: the flow's record, without a ring that this very call noted in vain.
    :ivar arrived: records that got an outcome here, by key.
    :ivar late: records that keep a late outcome since here, by key.
    :ivar calls_for_owner: whether there is an outcome somebody must absorb.
    """

    def __init__(self, flow: r.FlowRecord, now: int, first_number: int) -> None:
        self.flow = flow
        self._now = now
        self._number = first_number
        self._delays: dict[DelayKey, r.DelayRecord] = {}
        self._atoms: Mapping[str, tuple[str, str | None, Mapping[str, Any]]] = {}
        self.arrived: dict[DelayKey, r.DelayRecord] = {}
        self.late: dict[DelayKey, r.DelayRecord] = {}
        self.calls_for_owner = False

    def put_delays(self, delays: Iterable[r.DelayRecord]) -> None:
        """Lay out the records that exist for the deliveries to come."""
        self._delays.update((delay.key, delay) for delay in delays)

    def put_atoms(self, atoms: Mapping[str, tuple[str, str | None, Mapping[str, Any]]]) -> None:
        """Lay out name, state and meta of the atoms concerned, by uuid."""
        self._atoms = atoms

    def receive(self, delivery: r.Delivery) -> r.Delivered:
        """Judge one delivery and note what has to be written for it."""
        key = delivery.key
        delay = self._delays.get(key)
        atom = self._atoms.get(key.atom_uuid)
        name = atom[0] if atom else ""
        disposition = rules.judge(
            delay,
            digest=delivery.outcome.digest,
            takes_none=rules.takes_none(self.flow, key.kind),
            attempt_is_over=not may_still_open(key, atom),
        )
        if (
            disposition is Disposition.DUPLICATE
            and delay is not None
            and delay.delivery_id == delivery.delivery_id
        ):
            # Recorded by this very call, whose connection was lost before
            # the answer came: what it was then, it is now.
            disposition = Disposition.EARLY if delay.opened_at is None else Disposition.ACCEPTED
            if self.flow.rung_at == delay.arrived_at:
                # That try noted a ring too, and told nobody to post it.
                self.flow = dataclasses.replace(self.flow, rung_at=None)
        elif rules.records(disposition):
            delay = self._record(delivery, delay, name)
        elif disposition is Disposition.LATE:
            self._keep_late(delivery, delay, name)
        if delay is not None and delay.is_unabsorbed and not rules.is_over(self.flow):
            self.calls_for_owner = True
        return r.Delivered(
            disposition=disposition,
            task_name=name or (delay.task_name if delay else ""),
            traceparent=delay.traceparent if delay else None,
        )

    def _record(
        self, delivery: r.Delivery, delay: r.DelayRecord | None, task_name: str
    ) -> r.DelayRecord:
        delay = dataclasses.replace(
            delay or r.DelayRecord(key=delivery.key, task_name=task_name),
            outcome=delivery.outcome,
            arrived_at=self._now,
            arrival_number=self._number,
            delivery_id=delivery.delivery_id,
        )
        self._number += 1
        self._delays[delivery.key] = self.arrived[delivery.key] = delay
        return delay

    def _keep_late(self, delivery: r.Delivery, delay: r.DelayRecord | None, task_name: str) -> None:
        # Only the first one: whoever holds an old token must not be able to
        # fill the store with it.
        if delay is not None and delay.late is None:
            delay = dataclasses.replace(delay, late=delivery.outcome, late_at=self._now)
        elif delay is None:
            delay = r.DelayRecord(
                key=delivery.key,
                task_name=task_name,
                late=delivery.outcome,
                late_at=self._now,
                closed_at=self._now,
                close_reason=r.CLOSED_NOT_DELAYED,
            )
        else:
            return
        self._delays[delivery.key] = self.late[delivery.key] = delay


def next_incident(
    before: Mapping[str, Any] | None, kind: str, message: str, now: int
) -> dict[str, Any]:
    """Return a flow's incident after one more failure to run it."""
    count = (before["count"] if before else 0) + 1
    return {
        "kind": kind,
        "message": message[:2000],
        "first_at": before["first_at"] if before else now,
        "last_at": now,
        "count": count,
        "next_try_at": incident.next_try_at(kind, count, now),
    }


def note_incident(
    flow: r.FlowRecord, kind: str, message: str, now: int, lease: r.Lease | None = None
) -> r.FlowRecord:
    """Return a flow after one more failure to run it; itself if that does not concern it.

    A flow that is over has nothing to resume, and an owner that was superseded
    nothing to say. Somebody else may well run a flow that *this* process
    cannot load; then the incident is noted, and goes with that owner's next commit.

    :param lease: of the owner that gives the flow up with this.
    """
    if rules.is_over(flow):
        return flow
    if lease is not None:
        if not lease.owns(flow):
            return flow
        has_begun = flow.commit_number > 0
        flow = dataclasses.replace(
            flow,
            owner=None,
            lease_expires_at=None,
            state=flow.state if has_begun else states.PENDING,
        )
    found = next_incident(flow.incident, kind, message, now)
    flow = dataclasses.replace(flow, incident=found, changed_at=now)
    if rules.has_owner(flow, now):
        return flow
    # The doorbell that led here is answered by this.
    return dataclasses.replace(flow, rung_at=None, rings=0, check_at=found["next_try_at"])
