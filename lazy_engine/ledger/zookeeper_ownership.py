# SPDX-License-Identifier: Apache-2.0
"""The ZooKeeper ledger's side of owning a flow: lease, epoch, commits."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from lazy_engine import errors, rules, terms
from lazy_engine.ledger import record as r
from lazy_engine.ledger import turn
from lazy_engine.ledger.desk import closings_in_vain, refusal_of
from lazy_engine.ledger.protocol import TakeRequest, fenced
from lazy_engine.ledger.zookeeper_book import ZooKeeperBook, new_commit_id
from lazy_engine.ledger.zookeeper_node import FlowNode
from lazy_engine.token import DelayKey

#: Up to so many delays are read without asking first which of them there are.
_FEW: Final = 8


class ZooKeeperOwnership(ZooKeeperBook):
    """Takes, keeps and gives up leases; writes what owners commit."""

    # -- taking -----------------------------------------------------------

    def take(self, request: TakeRequest) -> r.Taken | r.Refused:
        answer = self._connection.repeat(lambda: self._take(request))
        if isinstance(answer, r.Refused):
            return answer
        before, flow, probing, fired = answer
        lease = request.lease(flow.record)
        try:
            # Nobody else can write the flow's details now, and what was
            # written before the lease was taken is seen by who took it.
            return self._connection.repeat(
                lambda: self._read_taken(request, lease, before, probing, fired)
            )
        except errors.LazyEngineError:
            self._release_quietly(lease)
            raise

    def _take(
        self, request: TakeRequest
    ) -> (
        r.Refused | tuple[FlowNode | None, FlowNode, Sequence[r.DelayRecord], Sequence[terms.Fired]]
    ):
        before = self._load(request.flow_uuid)
        request.require_known(None if before is None else before.record)
        if before is None:
            return None, self._take_first(request, self.now()), (), ()
        seen = self._seen(before)
        now = self.now()
        refusal = refusal_of(request, seen, now)
        # A living owner that came after the dead one was looked at makes the
        # write below fail, and is looked at itself.
        if refusal is not None and not _is_of_dead_owner(request, refusal):
            return refusal
        if not self._details.exists(request.flow_uuid):
            raise _no_details(request.flow_uuid)
        record = before.record
        # A wish to cancel holds until the flow has ended.
        keeps_wish = rules.is_cancelled(record) and not rules.is_over(record)
        taken = dataclasses.replace(
            record,
            epoch=record.epoch + 1,
            owner=request.owner,
            rung_at=None,
            rings=0,
            check_at=now + int(request.seconds * 1e6),
            wish=record.wish if keeps_wish else None,
            wish_reason=record.wish_reason if keeps_wish else None,
            ended_at=None,
            # From now on outcomes are for the new run.
            state="RUNNING" if rules.is_over(record) else record.state,
        )
        stored = self._delays.all_of(request.flow_uuid) if record.open_delays else {}
        taken, fired = terms.fire_all(stored.values(), taken, now)
        delays = {**stored, **{done.record.key: done.record for done in fired}}
        after = dataclasses.replace(
            before, record=taken, lease_seconds=request.seconds, sign=before.sign + 1
        )
        flow = self._write(before, after, self._delays.change(stored, delays))
        probing = [one for one in delays.values() if one.is_open and one.timers.probe_at]
        return before, flow, probing, fired

    def _take_first(self, request: TakeRequest, now: int) -> FlowNode:
        if not self._details.exists(request.flow_uuid):
            raise _no_details(request.flow_uuid)
        book_uuid, book_name = self._details.find_book(request.flow_uuid)
        record = r.FlowRecord(
            flow_uuid=request.flow_uuid,
            flow_name=request.newcomer.flow_name,
            epoch=1,
            owner=request.owner,
            state="RUNNING",
            key_id=request.newcomer.key_id,
            has_factory=request.newcomer.has_factory,
            check_at=now + int(request.seconds * 1e6),
            job_name=request.newcomer.job_name,
            job_priority=request.newcomer.job_priority,
            book_uuid=book_uuid,
            book_name=book_name,
            created_at=now,
            changed_at=now,
        )
        self._new_flow(record, (), lease_seconds=request.seconds)
        return FlowNode(record=record, lease_seconds=request.seconds)

    def _read_taken(
        self,
        request: TakeRequest,
        lease: r.Lease,
        before: FlowNode | None,
        probing: Sequence[r.DelayRecord],
        fired: Sequence[terms.Fired],
    ) -> r.Taken:
        if before is None:
            return r.Taken(lease=lease, detail=None, arrivals=(), now=self.now())
        self._load(request.flow_uuid)  # carries out what was left undone
        self._redo.drop_strays(request.flow_uuid)
        detail = None
        if request.known != before.record.version:
            detail = self._details.read(request.flow_uuid)
            if detail is None:
                raise _no_details(request.flow_uuid)
        return r.Taken(
            lease=lease,
            detail=detail,
            arrivals=self._unabsorbed(request.flow_uuid, with_early=True),
            fired=fired,
            probing=probing,
            now=self.now(),
        )

    # -- committing -------------------------------------------------------

    def commit(
        self, lease: r.Lease, changes: r.Changes, ending: r.Ending | None = None
    ) -> r.Committed:
        if lease.is_unsure:
            self._make_sure(lease)
        commit_id = new_commit_id()
        try:
            done = self._connection.repeat(lambda: self._commit(lease, changes, ending, commit_id))
        except errors.StoreUnavailable:
            lease.is_unsure = True
            raise
        if done.refused:
            return done
        lease.commit_number += 1
        lease.changed_at = done.changed_at
        lease.pulse = done.pulse
        return done

    def _make_sure(self, lease: r.Lease) -> None:
        """Find out whether a commit was carried out whose answer never came."""
        flow = self._read(lambda: self._load(lease.flow_uuid))
        if flow is None or not lease.may_have_left(flow.record):
            raise fenced(lease)
        lease.commit_number = flow.record.commit_number
        lease.is_unsure = False

    def _commit(
        self, lease: r.Lease, changes: r.Changes, ending: r.Ending | None, commit_id: str
    ) -> r.Committed:
        now = self.now()
        before = self._load(lease.flow_uuid)
        if before is not None and before.commit_id == commit_id:
            # The try before this one was carried out, and its answer lost.
            return r.Committed(
                pulse=_pulse(before.record),
                has_ended=before.record.owner is None,
                changed_at=before.record.changed_at,
                arrivals=self._unabsorbed(lease.flow_uuid, with_early=False),
            )
        if (
            before is None
            or not lease.owns(before.record)
            or before.record.commit_number != lease.commit_number
        ):
            raise fenced(lease)
        record = before.record
        stored = self._delays_concerned(lease, record, changes, ending)
        if changes.cancels:
            unabsorbed = turn.unabsorbed(stored.values(), with_early=True)
            if answered := changes.answered(unabsorbed):
                return r.Committed(pulse=lease.pulse, refused=self._delays.with_bodies(answered))
        delays = dict(stored)
        turn.apply(delays, changes, now)
        arrivals = turn.unabsorbed(delays.values(), with_early=False)
        has_ended = ending is not None and not rules.keeps_running(
            ending, record, has_arrivals=bool(arrivals)
        )
        record = dataclasses.replace(
            record,
            commit_number=lease.commit_number + 1,
            check_at=now + int(lease.seconds * 1e6),
            open_delays=changes.open_delays,
            state="RUNNING",
            incident=None,
            changed_at=now,
        )
        after = dataclasses.replace(
            before,
            record=record,
            lease_seconds=lease.seconds,
            sign=before.sign + 1,
            commit_id=commit_id,
        )
        if ending is not None and has_ended:
            if ending.is_final:
                everything = self._delays.all_of(lease.flow_uuid)
                stored = {**everything, **stored}
                delays = {**everything, **delays}
                turn.close_all(delays, now)
            turn.close(delays, self._closings_in_vain(delays, changes), now)
            left = bool(turn.unabsorbed(delays.values(), with_early=True))
            parked = rules.parked(record, ending, now, has_arrivals=left)
            after = dataclasses.replace(after, record=parked, lease_seconds=None)
        operations = [*self._details.change(changes), *self._delays.change(stored, delays)]
        self._write(before, after, operations)
        return r.Committed(
            pulse=_pulse(record),
            has_ended=has_ended,
            changed_at=record.changed_at,
            arrivals=() if has_ended else self._delays.with_bodies(arrivals),
        )

    def _closings_in_vain(
        self, delays: Mapping[DelayKey, r.DelayRecord], changes: r.Changes
    ) -> Sequence[r.DelayClosing]:
        came = turn.unabsorbed(delays.values(), with_early=True)
        early = [delay for delay in came if delay.opened_at is None]
        if not early:
            return ()
        atoms = dict(self._details.atom_states({delay.key.atom_uuid for delay in early}))
        for change in changes.atoms:  # which are not written yet
            atom = change.detail
            atoms[atom.uuid] = (atom.name, atom.state, atom.meta or {})
        return closings_in_vain(early, atoms)

    def _delays_concerned(
        self,
        lease: r.Lease,
        record: r.FlowRecord,
        changes: r.Changes,
        ending: r.Ending | None,
    ) -> dict[DelayKey, r.DelayRecord]:
        """Return the stored delays that a commit is about, without bodies."""
        keys = [opening.key for opening in changes.opened]
        keys.extend(changes.absorbed)
        keys.extend(probing.key for probing in changes.probed)
        if changes.closed or len(keys) > _FEW:
            there = self._delays.keys_of(lease.flow_uuid)
            keys = [
                *set(keys).intersection(there),
                *(key for key in there if any(turn.reaches(one, key) for one in changes.closed)),
            ]
        if (
            changes.opened
            or changes.cancels
            or record.arrival_number != lease.pulse.arrival_number
            or ending is not None
        ):
            keys.extend(self._delays.arrived_keys(lease.flow_uuid))
        return self._delays.find(keys)

    def _unabsorbed(self, flow_uuid: str, *, with_early: bool) -> Sequence[r.DelayRecord]:
        found = self._delays.find(self._delays.arrived_keys(flow_uuid))
        return self._delays.with_bodies(turn.unabsorbed(found.values(), with_early=with_early))

    # -- keeping and giving up --------------------------------------------

    def _own(self, lease: r.Lease) -> FlowNode:
        flow = self._load(lease.flow_uuid)
        if flow is None or not lease.owns(flow.record):
            raise fenced(lease)
        return flow

    def pulse(self, lease: r.Lease) -> r.Pulse:
        return self._read(lambda: _pulse(self._own(lease).record))

    def arrivals(self, lease: r.Lease) -> Sequence[r.DelayRecord]:
        return self._read(lambda: self._unabsorbed(lease.flow_uuid, with_early=False))

    def renew(self, lease: r.Lease) -> r.Pulse:
        def work() -> r.Pulse:
            before = self._own(lease)
            record = dataclasses.replace(
                before.record, check_at=self.now() + int(lease.seconds * 1e6)
            )
            after = dataclasses.replace(
                before, record=record, lease_seconds=lease.seconds, sign=before.sign + 1
            )
            return _pulse(self._write(before, after, ()).record)

        return self._connection.repeat(work)

    def release(self, lease: r.Lease) -> None:
        def work() -> None:
            before = self._load(lease.flow_uuid)
            if before is None or not lease.owns(before.record):
                return
            record = rules.released(before.record, self.now())
            self._write(before, dataclasses.replace(before, record=record, lease_seconds=None), ())

        self._connection.repeat(work)

    def _release_quietly(self, lease: r.Lease) -> None:
        # If it cannot be: it runs out, and the error that led here matters more.
        with contextlib.suppress(errors.StoreUnavailable):
            self.release(lease)


def _is_of_dead_owner(request: TakeRequest, refusal: r.Refused) -> bool:
    owner = refusal.record.owner
    return refusal.reason == "busy" and owner is not None and request.is_dead(owner)


def _pulse(record: r.FlowRecord) -> r.Pulse:
    return r.Pulse(wish=record.wish, arrival_number=record.arrival_number)


def _no_details(flow_uuid: str) -> errors.UnknownFlow:
    return errors.UnknownFlow(
        f"flow {flow_uuid} has no flow details in this store: save its logbook there first,"
        " or let taskflow.engines.load() make it (pass backend= and no flow_detail=)",
        flow_uuid=flow_uuid,
    )
