# SPDX-License-Identifier: Apache-2.0
"""The ledger of a memory backend: dictionaries and a lock.

It keeps every rule that the others keep, so that a flow can be tried without
any store; it outlives nothing, and no other process sees it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskflow import exceptions as taskflow_exceptions
from taskflow.persistence import models

from lazy_engine import errors, outcome, rules
from lazy_engine.ledger import key as key_module
from lazy_engine.ledger import record as r
from lazy_engine.ledger import turn
from lazy_engine.ledger.desk import Desk, closings_in_vain, note_incident, refusal_of
from lazy_engine.ledger.keeper import Keeper
from lazy_engine.ledger.memory_book import separate
from lazy_engine.ledger.memory_listing import MemoryListing
from lazy_engine.ledger.protocol import (
    GUARANTEES,
    MAX_OUTCOME_BYTES,
    TakeRequest,
    deliver_each,
    fenced,
)
from lazy_engine.observer import Several
from lazy_engine.token import Key


class MemoryLedger(MemoryListing):
    """A :class:`~lazy_engine.ledger.protocol.Ledger` of one process.

    :param backend: TaskFlow's memory backend that holds the flow details.
    """

    keeper: Keeper
    observer: Several

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.guarantees = GUARANTEES["memory"]
        self.max_outcome_bytes = MAX_OUTCOME_BYTES
        made = key_module.make()
        self._keys = key_module.KeyRing(lambda: {made.key_id: made})

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

    # -- owning -----------------------------------------------------------

    def take(self, request: TakeRequest) -> r.Taken | r.Refused:
        with self._lock:
            now = self.now()
            before = self._flows.get(request.flow_uuid)
            request.require_known(before)
            if before is None:
                before_or_new = self._newcomer(request, now)
            else:
                refusal = refusal_of(request, before, now)
                if refusal is not None:
                    return refusal
                before_or_new = before
            keeps_wish = rules.is_cancelled(before_or_new) and not rules.is_over(before_or_new)
            expires_at = now + int(request.seconds * 1e6)
            record = dataclasses.replace(
                before_or_new,
                epoch=before_or_new.epoch + 1,
                owner=request.owner,
                lease_expires_at=expires_at,
                rung_at=None,
                rings=0,
                check_at=expires_at,
                wish=before_or_new.wish if keeps_wish else None,
                wish_reason=before_or_new.wish_reason if keeps_wish else None,
                ended_at=None,
                # From now on outcomes are for the new run.
                state="RUNNING" if rules.is_over(before_or_new) else before_or_new.state,
            )
            detail = None
            if before is not None and request.known != before.version:
                detail = self._require_detail(request.flow_uuid)
            record, fired = self._fire(record, now)
            self._flows[request.flow_uuid] = record
            return r.Taken(
                lease=request.lease(record),
                detail=detail,
                arrivals=self._unabsorbed(request.flow_uuid, with_early=True),
                fired=fired,
                probing=self._probing(request.flow_uuid),
                now=now,
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
            changed_at=now,
        )

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
        if record is None or not lease.owns(record):
            raise fenced(lease)
        return record

    def commit(
        self, lease: r.Lease, changes: r.Changes, ending: r.Ending | None = None
    ) -> r.Committed:
        with self._lock:
            record = self._own(lease)
            if record.commit_number != lease.commit_number:
                raise fenced(lease)
            now = self.now()
            if refused := changes.answered(self._unabsorbed(lease.flow_uuid, with_early=True)):
                return r.Committed(pulse=lease.pulse, refused=refused)
            self._write_details(changes)
            delays = self._delays.setdefault(lease.flow_uuid, {})
            turn.apply(delays, changes, now)
            expires_at = now + int(lease.seconds * 1e6)
            record = dataclasses.replace(
                record,
                commit_number=record.commit_number + 1,
                lease_expires_at=expires_at,
                check_at=expires_at,
                open_delays=changes.open_delays,
                state="RUNNING",
                incident=None,
                changed_at=now,
            )
            pulse = r.Pulse(wish=record.wish, arrival_number=record.arrival_number)
            arrivals = self._unabsorbed(lease.flow_uuid, with_early=False)
            has_ended = ending is not None and not rules.keeps_running(
                ending, record, has_arrivals=bool(arrivals)
            )
            if ending is not None and has_ended:
                if ending.is_final:
                    turn.close_all(delays, now)
                self._close_in_vain(lease.flow_uuid, now)
                left = bool(self._unabsorbed(lease.flow_uuid, with_early=True))
                record = rules.parked(record, ending, now, has_arrivals=left)
            self._flows[lease.flow_uuid] = record
            lease.commit_number += 1
            lease.changed_at = now
            lease.pulse = pulse
            return r.Committed(
                pulse=pulse,
                has_ended=has_ended,
                changed_at=now,
                arrivals=() if has_ended else arrivals,
            )

    def _write_details(self, changes: r.Changes) -> None:
        if not changes.flow_is_dirty and self._has_rewritten(changes.atoms):
            return
        detail = separate(changes.flow.copy(retain_contents=False))
        for change in changes.atoms:
            detail.add(separate(change.detail.copy()))
        with self._connection() as connection:
            connection.update_flow_details(detail, ignore_missing=True)

    def _has_rewritten(self, atoms: Sequence[r.AtomChange]) -> bool:
        """Write the details of known tasks, if these are all; return whether.

        TaskFlow would write the flow and each link to an atom again, and read
        each detail that it is about to replace.
        """
        if any(change.is_new or type(change.detail) is not models.TaskDetail for change in atoms):
            return False
        with self._backend.lock.write_lock():
            for change in atoms:
                body = change.detail.to_dict()
                body["meta"] = dict(body["meta"] or {})
                kind = models.atom_detail_type(change.detail)
                path = self._atom_path(change.detail.uuid)
                self._backend.memory[path] = {"atom": body, "type": kind}
        return True

    def _close_in_vain(self, flow_uuid: str, now: int) -> None:
        came = self._unabsorbed(flow_uuid, with_early=True)
        if early := [delay for delay in came if delay.opened_at is None]:
            closings = closings_in_vain(early, self._stored_atoms(flow_uuid))
            turn.close(self._delays[flow_uuid], closings, now)

    def _stored_atoms(self, flow_uuid: str) -> dict[str, tuple[str, str | None, Any]]:
        detail = self.detail(flow_uuid)
        return {atom.uuid: (atom.name, atom.state, atom.meta) for atom in detail or ()}

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
            self._flows[lease.flow_uuid] = dataclasses.replace(
                record, lease_expires_at=expires_at, check_at=expires_at
            )
            return r.Pulse(wish=record.wish, arrival_number=record.arrival_number)

    def release(self, lease: r.Lease) -> None:
        with self._lock:
            record = self._flows.get(lease.flow_uuid)
            if record is not None and lease.owns(record):
                self._flows[lease.flow_uuid] = rules.released(record, self.now())

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
            desk.put_atoms(self._stored_atoms(flow_uuid))
            items = [desk.receive(delivery) for delivery in deliveries]
            delays.update(desk.arrived)
            delays.update(desk.late)
            arrival_number = record.arrival_number + len(deliveries)
            after, must_ring = dataclasses.replace(desk.flow, arrival_number=arrival_number), False
            if desk.calls_for_owner:
                after, must_ring = rules.call(after, now, rings=rings)
            self._flows[flow_uuid] = after
            return r.DeliveredToFlow(
                items=items,
                record=record,
                has_owner=rules.has_owner(record, now),
                must_ring=must_ring,
                is_rung=rules.is_rung(record, now),
            )

    def deliver_all(
        self, by_flow: Mapping[str, Sequence[r.Delivery]], *, rings: bool
    ) -> dict[str, r.DeliveredToFlow | errors.LazyEngineError | None]:
        return deliver_each(self, by_flow, rings=rings)

    # -- wishes, incidents and jobs ---------------------------------------

    def unring(self, flow_uuid: str) -> None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is not None:
                self._flows[flow_uuid] = rules.unring(record, self.now())

    def set_wish(self, flow_uuid: str, wish: str | None, reason: str | None) -> r.FlowRecord | None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is None or rules.is_cancelled(record):
                return record
            return self._set(flow_uuid, wish=wish, wish_reason=reason)

    def note_incident(
        self, flow_uuid: str, kind: str, message: str, lease: r.Lease | None = None
    ) -> r.FlowRecord | None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is not None:
                record = note_incident(record, kind, message, self.now(), lease)
                self._flows[flow_uuid] = record
            return record

    # -- submitting, reading, purging -------------------------------------

    def submit(self, submission: r.Submission) -> tuple[r.FlowRecord, bool]:
        detail, book = submission.detail, submission.book
        with self._lock:
            existing = self._flows.get(detail.uuid)
            if existing is not None:
                return existing, False
            book.add(detail)
            with self._connection() as connection:
                connection.save_logbook(book)
            record = rules.submitted(submission, self.now())
            self._flows[detail.uuid] = record
            return record, True

    def purge(self, ended_before: int, progress: Callable[[int], object] | None = None) -> int:
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
        if progress is not None:
            progress(len(gone))
        return len(gone)

    def _forget_book(self, book_uuid: str) -> None:
        with self._connection() as connection:
            flows = list(connection.get_flows_for_book(book_uuid, lazy=True))
            if all(flow.uuid not in self._flows for flow in flows):
                connection.destroy_logbook(book_uuid)

    def close(self) -> None:
        """Nothing to let go of."""
