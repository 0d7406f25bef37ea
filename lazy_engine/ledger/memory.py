# SPDX-License-Identifier: Apache-2.0
"""The ledger of a memory backend: dictionaries and a lock.

It keeps every rule that the others keep, so that a flow can be tried without
any store; it outlives nothing, and no other process sees it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from taskflow import exceptions as taskflow_exceptions
from taskflow.persistence import models

from lazy_engine import errors, host, outcome, rules
from lazy_engine.ledger import key as key_module
from lazy_engine.ledger import record as r
from lazy_engine.ledger import turn
from lazy_engine.ledger.desk import Desk, next_incident
from lazy_engine.ledger.keeper import Keeper
from lazy_engine.ledger.protocol import MAX_OUTCOME_BYTES, Guarantees, TakeRequest, fenced
from lazy_engine.token import DelayKey, Key


class MemoryLedger:
    """A :class:`~lazy_engine.ledger.protocol.Ledger` of one process.

    :param backend: TaskFlow's memory backend that holds the flow details.
    """

    keeper: Keeper

    def __init__(self, backend: Any) -> None:
        self.guarantees = Guarantees(
            store="memory", needs_json=False, is_durable=False, is_shared=False
        )
        self.max_outcome_bytes = MAX_OUTCOME_BYTES
        self._backend = backend
        self._lock = threading.RLock()
        self._flows: dict[str, r.FlowRecord] = {}
        self._delays: dict[str, dict[DelayKey, r.DelayRecord]] = {}
        made = key_module.make()
        self._keys = key_module.KeyRing(lambda: {made.key_id: made})

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        with contextlib.closing(self._backend.get_connection()) as connection:
            yield connection

    # -- encoding, keys, time ---------------------------------------------

    def encode(self, value: outcome.Result | outcome.Failed) -> outcome.Encoded:
        encoded = outcome.encode_object(value, max_bytes=self.max_outcome_bytes)
        if encoded.digest.startswith("object:"):
            return encoded
        return dataclasses.replace(encoded, body=copy.deepcopy(encoded.body))

    def decode(self, encoded: outcome.Encoded) -> Any:
        return encoded.body

    def encode_result(self, result: Any) -> str | None:
        return None

    def signing_key(self, key_id: str | None = None) -> Key:
        return self._keys.find(key_id)

    def now(self) -> int:
        return time.time_ns() // 1000

    # -- owning -----------------------------------------------------------

    def take(self, request: TakeRequest) -> r.Taken | r.Refused:
        with self._lock:
            now = self.now()
            before = self._flows.get(request.flow_uuid)
            if before is None:
                before_or_new = self._newcomer(request, now)
            else:
                refusal = self._refusal(request, before, now)
                if refusal is not None:
                    return refusal
                before_or_new = before
            record = dataclasses.replace(
                before_or_new,
                epoch=before_or_new.epoch + 1,
                owner=request.owner,
                lease_expires_at=now + int(request.seconds * 1e6),
                rung_at=None,
                wish=None,
                wish_reason=None,
                ended_at=None,
                # From now on outcomes are for the new run.
                state="RUNNING" if rules.is_over(before_or_new) else before_or_new.state,
                changed_at=now,
            )
            detail = None
            if before is not None and request.known != (before.epoch, before.commit_number):
                detail = self._require_detail(request.flow_uuid)
            self._flows[request.flow_uuid] = record
            assert record.key_id is not None
            return r.Taken(
                lease=r.Lease(
                    flow_uuid=request.flow_uuid,
                    owner=request.owner,
                    epoch=record.epoch,
                    commit_number=record.commit_number,
                    seconds=request.seconds,
                    key_id=record.key_id,
                    pulse=r.Pulse(wish=None, arrival_number=record.arrival_number),
                ),
                detail=detail,
                arrivals=self._unabsorbed(request.flow_uuid, with_early=True),
                before=before,
            )

    def _newcomer(self, request: TakeRequest, now: int) -> r.FlowRecord:
        self._require_detail(request.flow_uuid)
        book = self._find_book(request.flow_uuid)
        return r.FlowRecord(
            flow_uuid=request.flow_uuid,
            flow_name=request.newcomer.flow_name,
            state="RUNNING",
            key_id=request.newcomer.key_id,
            has_factory=request.newcomer.has_factory,
            job_name=request.newcomer.job_name,
            job_priority=request.newcomer.job_priority,
            # A logbook without its flows is false.
            book_uuid=None if book is None else book.uuid,
            book_name=None if book is None else book.name,
            created_at=now,
        )

    @staticmethod
    def _refusal(request: TakeRequest, record: r.FlowRecord, now: int) -> r.Refused | None:
        if rules.is_over(record) and not request.may_rerun:
            return r.Refused(reason="ended", record=record)
        if rules.is_suspended(record) and not request.resumes:
            return r.Refused(reason="suspended", record=record)
        if rules.has_owner(record, now) and record.owner != request.owner:
            left = ((record.lease_expires_at or 0) - now) / 1e6
            return r.Refused(reason="busy", record=record, wait_seconds=left)
        return None

    def _find_book(self, flow_uuid: str) -> models.LogBook | None:
        with self._connection() as connection:
            for book in connection.get_logbooks(lazy=True):
                try:
                    flows = connection.get_flows_for_book(book.uuid, lazy=True)
                    if any(flow.uuid == flow_uuid for flow in flows):
                        return book
                except taskflow_exceptions.NotFound:
                    continue
        return None

    def _require_detail(self, flow_uuid: str) -> models.FlowDetail:
        detail = self.detail(flow_uuid)
        if detail is None:
            raise errors.UnknownFlow(
                f"flow {flow_uuid} has no flow details in this store: save its logbook there"
                " first, or let taskflow.engines.load() make it",
                flow_uuid=flow_uuid,
            )
        return detail

    def _own(self, lease: r.Lease) -> r.FlowRecord:
        record = self._flows.get(lease.flow_uuid)
        if record is None or record.epoch != lease.epoch:
            raise fenced(lease)
        return record

    def commit(
        self, lease: r.Lease, changes: r.Changes, ending: r.Ending | None = None
    ) -> r.Committed:
        with self._lock:
            record = self._own(lease)
            now = self.now()
            if refused := changes.answered(self._unabsorbed(lease.flow_uuid, with_early=True)):
                return r.Committed(pulse=lease.pulse, refused=refused)
            self._write_details(changes)
            delays = self._delays.setdefault(lease.flow_uuid, {})
            turn.apply(delays, changes, now)
            record = dataclasses.replace(
                record,
                commit_number=record.commit_number + 1,
                lease_expires_at=now + int(lease.seconds * 1e6),
                open_delays=changes.open_delays,
                state="RUNNING",
                incident=None,
                changed_at=now,
            )
            pulse = r.Pulse(wish=record.wish, arrival_number=record.arrival_number)
            arrivals = self._unabsorbed(lease.flow_uuid, with_early=False)
            has_ended = ending is not None and not (arrivals and ending.absorbs)
            if ending is not None and has_ended:
                if ending.is_final:
                    turn.close_all(delays, now)
                record = dataclasses.replace(
                    record,
                    owner=None,
                    lease_expires_at=None,
                    rung_at=None,
                    state=ending.state,
                    ended_at=now if ending.is_final else None,
                )
            self._flows[lease.flow_uuid] = record
            lease.commit_number += 1
            lease.pulse = pulse
            return r.Committed(
                pulse=pulse, has_ended=has_ended, arrivals=() if has_ended else arrivals
            )

    def _write_details(self, changes: r.Changes) -> None:
        if not changes.flow_is_dirty and not changes.atoms:
            return
        detail = _separate(changes.flow.copy(retain_contents=False))
        for change in changes.atoms:
            detail.add(_separate(change.detail.copy()))
        with self._connection() as connection:
            connection.update_flow_details(detail, ignore_missing=True)

    def _unabsorbed(self, flow_uuid: str, *, with_early: bool) -> list[r.DelayRecord]:
        return turn.unabsorbed(self._delays.get(flow_uuid, {}).values(), with_early=with_early)

    def pulse(self, lease: r.Lease) -> r.Pulse:
        with self._lock:
            record = self._own(lease)
            return r.Pulse(wish=record.wish, arrival_number=record.arrival_number)

    def arrivals(self, lease: r.Lease) -> Sequence[r.DelayRecord]:
        with self._lock:
            return self._unabsorbed(lease.flow_uuid, with_early=False)

    def renew(self, lease: r.Lease) -> r.Pulse:
        with self._lock:
            record = self._own(lease)
            expires_at = self.now() + int(lease.seconds * 1e6)
            self._flows[lease.flow_uuid] = dataclasses.replace(record, lease_expires_at=expires_at)
            return r.Pulse(wish=record.wish, arrival_number=record.arrival_number)

    def release(self, lease: r.Lease) -> None:
        with self._lock:
            record = self._flows.get(lease.flow_uuid)
            if record is not None and (record.epoch, record.owner) == (lease.epoch, lease.owner):
                self._flows[lease.flow_uuid] = dataclasses.replace(
                    record, owner=None, lease_expires_at=None
                )

    # -- delivering -------------------------------------------------------

    def deliver(
        self, flow_uuid: str, deliveries: Sequence[r.Delivery], *, rings: bool
    ) -> r.DeliveredToFlow | None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is None:
                return None
            now = self.now()
            desk = Desk(record, now, record.arrival_number + 1)
            delays = self._delays.setdefault(flow_uuid, {})
            desk.put_delays(delays.values())
            detail = self.detail(flow_uuid)
            desk.put_atoms({atom.uuid: (atom.name, atom.state, atom.meta) for atom in detail or ()})
            items = [desk.receive(delivery) for delivery in deliveries]
            delays.update(desk.arrived)
            delays.update(desk.late)
            may_ring = desk.calls_for_owner and rules.may_ring(desk.flow, now)
            self._flows[flow_uuid] = dataclasses.replace(
                record,
                arrival_number=record.arrival_number + len(deliveries),
                rung_at=now if may_ring and rings else record.rung_at,
            )
            return r.DeliveredToFlow(
                items=items,
                record=record,
                has_owner=rules.has_owner(record, now),
                must_ring=may_ring and rings,
                is_rung=rules.is_rung(record, now),
            )

    # -- wishes, incidents and jobs ---------------------------------------

    def _set(self, flow_uuid: str, **values: Any) -> r.FlowRecord | None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is not None:
                record = self._flows[flow_uuid] = dataclasses.replace(record, **values)
            return record

    def unring(self, flow_uuid: str) -> None:
        self._set(flow_uuid, rung_at=None)

    def set_wish(self, flow_uuid: str, wish: str | None, reason: str | None) -> r.FlowRecord | None:
        return self._set(flow_uuid, wish=wish, wish_reason=reason)

    def note_incident(self, flow_uuid: str, kind: str, message: str) -> None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is not None:
                incident = next_incident(record.incident, kind, message, self.now())
                self._set(flow_uuid, incident=incident)

    # -- submitting, reading, purging -------------------------------------

    def submit(self, submission: r.Submission) -> tuple[r.FlowRecord, bool]:
        detail, book = submission.detail, submission.book
        with self._lock:
            existing = self._flows.get(detail.uuid)
            if existing is not None:
                return existing, False
            now = self.now()
            book.add(detail)
            with self._connection() as connection:
                connection.save_logbook(book)
            record = r.FlowRecord(
                flow_uuid=detail.uuid,
                flow_name=detail.name,
                rung_at=now if submission.is_rung else None,
                key_id=submission.key_id,
                has_factory=True,
                book_uuid=book.uuid,
                book_name=book.name,
                created_at=now,
                changed_at=now,
            )
            self._flows[detail.uuid] = record
            return record, True

    def flow(self, flow_uuid: str) -> r.FlowRecord | None:
        return self._flows.get(flow_uuid)

    def detail(self, flow_uuid: str) -> models.FlowDetail | None:
        with self._connection() as connection:
            try:
                found: models.FlowDetail = connection.get_flow_details(flow_uuid)
            except taskflow_exceptions.NotFound:
                return None
            for atom in found:
                stored = self._backend.memory[f"{connection.atom_path}/{atom.uuid}"]
                host.mend_history(_separate(atom), stored["atom"]["results"])
        return _separate(found)

    def delays_of(self, flow_uuid: str) -> Sequence[r.DelayRecord]:
        with self._lock:
            return sorted(self._delays.get(flow_uuid, {}).values(), key=r.place_of)

    def waiting(self, page: r.Page) -> Sequence[r.DelayRecord]:
        with self._lock:
            found = [
                delay
                for delays in self._delays.values()
                for delay in delays.values()
                if delay.is_open
                and page.flow_uuid in (None, delay.key.flow_uuid)
                and page.task_name in (None, delay.task_name)
                and (page.after is None or r.place_of(delay) > page.after)
            ]
        return sorted(found, key=r.place_of)[: page.limit]

    def purge(self, ended_before: int) -> int:
        with self._lock:
            gone = [
                record
                for record in self._flows.values()
                if record.ended_at is not None and record.ended_at < ended_before
            ]
            for record in gone:
                del self._flows[record.flow_uuid]
                self._delays.pop(record.flow_uuid, None)
                if record.book_uuid is not None:
                    self._forget_book(record.book_uuid)
            return len(gone)

    def _forget_book(self, book_uuid: str) -> None:
        with self._connection() as connection:
            flows = list(connection.get_flows_for_book(book_uuid, lazy=True))
            if all(flow.uuid not in self._flows for flow in flows):
                connection.destroy_logbook(book_uuid)

    def close(self) -> None:
        """Nothing to let go of."""


def _separate(detail: Any) -> Any:
    """Give a detail a ``meta`` of its own, and return it.

    The backend of an engine that was loaded without one copies nothing, and
    TaskFlow (6.5, ``AtomDetail.copy``) shares a meta that is empty: attempts
    would count as stored before they are.
    """
    detail.meta = dict(detail.meta or {})
    return detail
