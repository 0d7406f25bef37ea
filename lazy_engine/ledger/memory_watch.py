# SPDX-License-Identifier: Apache-2.0
"""The memory ledger's side of time: timers, heartbeats, lost doorbells, cancelling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lazy_engine import rules, terms
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import may_still_open
from lazy_engine.ledger.memory_book import MemoryBook, separate
from lazy_engine.token import EXECUTE, DelayKey


class MemoryWatch(MemoryBook):
    """Finds what is due, and sees to it flow by flow."""

    def _dues(self) -> list[tuple[int, str]]:
        found = [(flow.check_at, flow.flow_uuid) for flow in self._flows.values()]
        found += [
            (delay.due_at, delay.key.flow_uuid)
            for delays in self._delays.values()
            for delay in delays.values()
            if delay.is_open
        ]
        return sorted((at, flow_uuid) for at, flow_uuid in found if at is not None)

    def due(self, limit: int) -> Sequence[str]:
        with self._lock:
            now = self.now()
            found = dict.fromkeys(flow_uuid for at, flow_uuid in self._dues() if at <= now)
        return list(found)[:limit]

    def next_due_in(self, within_seconds: float) -> float | None:
        with self._lock:
            first_at = min((at for at, _ in self._dues()), default=None)
            left = None if first_at is None else (first_at - self.now()) / 1e6
        return left if left is not None and left <= within_seconds else None

    def tend(self, flow_uuid: str, *, rings: bool) -> r.Tended | None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is None:
                return None
            now = self.now()
            after, fired = self._fire(record, now)
            has_news = any(done.has_outcome or done.wants_probe for done in fired)
            after, wants_owner = rules.tend(after, now, has_news=has_news, rings=rings)
            self._flows[flow_uuid] = after
            return r.Tended(record=after, wants_owner=wants_owner, fired=fired)

    def _fire(self, record: r.FlowRecord, now: int) -> tuple[r.FlowRecord, list[terms.Fired]]:
        delays = self._delays.get(record.flow_uuid, {})
        after, fired = terms.fire_all(list(delays.values()), record, now)
        delays.update((done.record.key, done.record) for done in fired)
        return after, fired

    def _probing(self, flow_uuid: str) -> list[r.DelayRecord]:
        return [
            delay
            for delay in self._delays.get(flow_uuid, {}).values()
            if delay.is_open and delay.timers.probe_at is not None
        ]

    def heartbeat(
        self, key: DelayKey, *, progress: float | None, details_text: str | None
    ) -> r.Beat | None:
        with self._lock:
            record = self._flows.get(key.flow_uuid)
            if record is None:
                return None
            if rules.takes_none(record, key.kind):
                return r.Beat(is_wanted=False)
            delay = self._delays.get(key.flow_uuid, {}).get(key)
            detail = self.detail(key.flow_uuid)
            atom = None if detail is None else detail.find(key.atom_uuid)
            if delay is None:
                known = None if atom is None else (atom.name, atom.state, atom.meta)
                return r.Beat(is_wanted=may_still_open(key, known))
            if not delay.is_open:
                return r.Beat(is_wanted=False)
            beaten = dataclasses.replace(
                terms.beat(delay, self.now()),
                progress=delay.progress if progress is None else progress,
                progress_text=delay.progress_text if details_text is None else details_text,
            )
            self._delays[key.flow_uuid][key] = beaten
            if progress is not None and atom is not None:
                # An owner leaves the atom alone for as long as it waits.
                atom.meta = {**atom.meta, **beaten.progress_meta()}
                with self._connection() as connection:
                    connection.update_atom_details(separate(atom))
            if progress is not None and record.owner is None:
                # Whoever parked the flow last must read the details anew.
                self._set(key.flow_uuid, epoch=record.epoch + 1)
            return r.Beat(is_wanted=True)

    def wake(self, flow_uuid: str, *, rings: bool) -> r.Woken | None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is None:
                return None
            now = self.now()
            after, must_ring = rules.wake(record, now, rings=rings)
            self._flows[flow_uuid] = after
            has_owner = rules.has_owner(after, now)
            return r.Woken(record=after, has_owner=has_owner, must_ring=must_ring)

    def cancel(self, flow_uuid: str, reason: str, *, rings: bool) -> r.Cancelled | None:
        with self._lock:
            record = self._flows.get(flow_uuid)
            if record is None:
                return None
            if rules.is_over(record) or rules.is_cancelled(record):
                return r.Cancelled(record=record, is_new=False, must_ring=False)
            now = self.now()
            after, must_ring = rules.cancel(record, reason, now, rings=rings)
            delays = self._delays.get(flow_uuid, {})
            for key, delay in delays.items():
                if key.kind == EXECUTE and delay.is_open:
                    delays[key] = dataclasses.replace(
                        delay, closed_at=now, close_reason=r.CLOSED_CANCELLED
                    )
            self._flows[flow_uuid] = after
            return r.Cancelled(record=after, is_new=True, must_ring=must_ring)
