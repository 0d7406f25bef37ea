# SPDX-License-Identifier: Apache-2.0
"""The ZooKeeper ledger's side of owning a flow: lease, epoch, commits."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from lazy_engine import errors, rules
from lazy_engine.ledger import record as r
from lazy_engine.ledger import turn
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
        before, flow = answer
        lease = _lease(request, flow)
        try:
            # Nobody else can write the flow's details now, and what was
            # written before the lease was taken is seen by who took it.
            return self._connection.repeat(lambda: self._read_taken(request, lease, before, flow))
        except errors.LazyEngineError:
            self._release_quietly(lease)
            raise

    def _take(self, request: TakeRequest) -> r.Refused | tuple[FlowNode | None, FlowNode]:
        before = self._load(request.flow_uuid)
        if before is None:
            return None, self._take_first(request, self.now())
        seen = self._seen(before)
        now = self.now()
        refusal = _refusal(request, seen, now)
        # A living owner that came after the dead one was looked at makes the
        # write below fail, and is looked at itself.
        if refusal is not None and not _is_of_dead_owner(request, refusal):
            return refusal
        if not self._details.exists(request.flow_uuid):
            raise _no_details(request.flow_uuid)
        record = before.record
        taken = dataclasses.replace(
            record,
            epoch=record.epoch + 1,
            owner=request.owner,
            rung_at=None,
            wish=None,
            wish_reason=None,
            ended_at=None,
            # From now on outcomes are for the new run.
            state="RUNNING" if rules.is_over(record) else record.state,
            changed_at=now,
        )
        after = dataclasses.replace(
            before, record=taken, lease_seconds=request.seconds, sign=before.sign + 1
        )
        return before, self._write(before, after, ())

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
        self, request: TakeRequest, lease: r.Lease, before: FlowNode | None, flow: FlowNode
    ) -> r.Taken:
        if before is None:
            return r.Taken(lease=lease, detail=None, arrivals=(), before=None)
        self._redo.drop_strays(flow)
        detail = None
        if request.known != (before.record.epoch, before.record.commit_number):
            detail = self._details.read(request.flow_uuid)
            if detail is None:
                raise _no_details(request.flow_uuid)
        return r.Taken(
            lease=lease,
            detail=detail,
            arrivals=self._unabsorbed(request.flow_uuid, with_early=True),
            before=before.record,
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
        lease.pulse = done.pulse
        return done

    def _make_sure(self, lease: r.Lease) -> None:
        """Find out whether a commit was carried out whose answer never came."""
        flow = self._read(lambda: self._load(lease.flow_uuid))
        if flow is None or (flow.record.epoch, flow.record.owner) != (lease.epoch, lease.owner):
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
                arrivals=self._unabsorbed(lease.flow_uuid, with_early=False),
            )
        if before is None or (before.record.epoch, before.record.commit_number) != (
            lease.epoch,
            lease.commit_number,
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
        has_ended = ending is not None and not (arrivals and ending.absorbs)
        record = dataclasses.replace(
            record,
            commit_number=lease.commit_number + 1,
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
                everything = self._delays.find(self._delays.keys_of(lease.flow_uuid))
                stored = {**everything, **stored}
                delays = {**everything, **delays}
                turn.close_all(delays, now)
            after = _ended(after, ending, now)
        operations = [*self._details.change(changes), *self._delays.change(stored, delays)]
        self._write(before, after, operations)
        return r.Committed(
            pulse=_pulse(record),
            has_ended=has_ended,
            arrivals=() if has_ended else self._delays.with_bodies(arrivals),
        )

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
            or (ending is not None and ending.absorbs)
        ):
            keys.extend(self._delays.arrived_keys(lease.flow_uuid))
        return self._delays.find(keys)

    def _unabsorbed(self, flow_uuid: str, *, with_early: bool) -> Sequence[r.DelayRecord]:
        found = self._delays.find(self._delays.arrived_keys(flow_uuid))
        return self._delays.with_bodies(turn.unabsorbed(found.values(), with_early=with_early))

    # -- keeping and giving up --------------------------------------------

    def _own(self, lease: r.Lease) -> FlowNode:
        flow = self._load(lease.flow_uuid)
        if flow is None or flow.record.epoch != lease.epoch:
            raise fenced(lease)
        return flow

    def pulse(self, lease: r.Lease) -> r.Pulse:
        return self._read(lambda: _pulse(self._own(lease).record))

    def arrivals(self, lease: r.Lease) -> Sequence[r.DelayRecord]:
        return self._read(lambda: self._unabsorbed(lease.flow_uuid, with_early=False))

    def renew(self, lease: r.Lease) -> r.Pulse:
        def work() -> r.Pulse:
            before = self._own(lease)
            if before.record.owner != lease.owner:
                raise fenced(lease)
            after = dataclasses.replace(before, lease_seconds=lease.seconds, sign=before.sign + 1)
            return _pulse(self._write(before, after, ()).record)

        return self._connection.repeat(work)

    def release(self, lease: r.Lease) -> None:
        def work() -> None:
            before = self._load(lease.flow_uuid)
            if before is None or (before.record.epoch, before.record.owner) != (
                lease.epoch,
                lease.owner,
            ):
                return
            self._write(before, _given_up(before), ())

        self._connection.repeat(work)

    def _release_quietly(self, lease: r.Lease) -> None:
        # If it cannot be: it runs out, and the error that led here matters more.
        with contextlib.suppress(errors.StoreUnavailable):
            self.release(lease)


def _refusal(request: TakeRequest, record: r.FlowRecord, now: int) -> r.Refused | None:
    if rules.is_over(record) and not request.may_rerun:
        return r.Refused(reason="ended", record=record)
    if rules.is_suspended(record) and not request.resumes:
        return r.Refused(reason="suspended", record=record)
    if rules.has_owner(record, now) and record.owner != request.owner:
        left = ((record.lease_expires_at or 0) - now) / 1e6
        return r.Refused(reason="busy", record=record, wait_seconds=left)
    return None


def _is_of_dead_owner(request: TakeRequest, refusal: r.Refused) -> bool:
    owner = refusal.record.owner
    return refusal.reason == "busy" and owner is not None and request.is_dead(owner)


def _given_up(flow: FlowNode, **changes: Any) -> FlowNode:
    record = dataclasses.replace(flow.record, owner=None, **changes)
    return dataclasses.replace(flow, record=record, lease_seconds=None)


def _ended(flow: FlowNode, ending: r.Ending, now: int) -> FlowNode:
    ended_at = now if ending.is_final else None
    return _given_up(flow, rung_at=None, state=ending.state, ended_at=ended_at)


def _pulse(record: r.FlowRecord) -> r.Pulse:
    return r.Pulse(wish=record.wish, arrival_number=record.arrival_number)


def _lease(request: TakeRequest, flow: FlowNode) -> r.Lease:
    record = flow.record
    assert record.key_id is not None
    return r.Lease(
        flow_uuid=request.flow_uuid,
        owner=request.owner,
        epoch=record.epoch,
        commit_number=record.commit_number,
        seconds=request.seconds,
        key_id=record.key_id,
        pulse=r.Pulse(wish=None, arrival_number=record.arrival_number),
    )


def _no_details(flow_uuid: str) -> errors.UnknownFlow:
    return errors.UnknownFlow(
        f"flow {flow_uuid} has no flow details in this store: save its logbook there first,"
        " or let taskflow.engines.load() make it (pass backend= and no flow_detail=)",
        flow_uuid=flow_uuid,
    )
