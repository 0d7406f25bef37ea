# SPDX-License-Identifier: Apache-2.0
"""The ZooKeeper ledger's side of time: timers, heartbeats, lost doorbells, cancelling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lazy_engine import rules, terms
from lazy_engine.ledger import record as r
from lazy_engine.ledger import zookeeper_index as index
from lazy_engine.ledger import zookeeper_node as node
from lazy_engine.ledger.desk import may_still_open
from lazy_engine.ledger.zookeeper_book import ZooKeeperBook
from lazy_engine.token import EXECUTE, DelayKey


class ZooKeeperWatch(ZooKeeperBook):
    """Finds what is due, and sees to it flow by flow."""

    def due(self, limit: int) -> Sequence[str]:
        def work() -> Sequence[str]:
            now = self.now()
            found: dict[str, None] = {}
            for bucket in index.entries(
                self._connection, self._paths.due_path, now=now, before_at=now + 1
            ):
                found.update(
                    dict.fromkeys(node.unquote(name.partition(".")[0]) for _, name in bucket)
                )
                if len(found) >= limit:
                    break
            return list(found)[:limit]

        return self._read(work)

    def next_due_in(self, within_seconds: float) -> float | None:
        def work() -> float | None:
            now = self.now()
            before_at = now + int(within_seconds * 1e6) + 1
            buckets = index.entries(
                self._connection, self._paths.due_path, now=now, before_at=before_at
            )
            return next(((at - now) / 1e6 for bucket in buckets for at, _ in bucket), None)

        return self._read(work)

    def tend(self, flow_uuid: str, *, rings: bool) -> r.Tended | None:
        def work() -> r.Tended | None:
            before = self._load(flow_uuid)
            if before is None:
                return None
            now = self.now()
            stored = self._delays.all_of(flow_uuid)
            fired_record, fired = terms.fire_all(stored.values(), self._seen(before), now)
            has_news = any(done.has_outcome or done.wants_probe for done in fired)
            record, wants_owner = rules.tend(fired_record, now, has_news=has_news, rings=rings)
            delays = {done.record.key: done.record for done in fired}
            # When the lease ends is what this observer sees, and not stored.
            after = dataclasses.replace(
                before, record=dataclasses.replace(record, lease_expires_at=None)
            )
            if after != before or delays:
                self._write(before, after, self._delays.change(stored, delays))
            return r.Tended(record=record, wants_owner=wants_owner, fired=fired)

        return self._connection.repeat(work)

    def heartbeat(
        self, key: DelayKey, *, progress: float | None, details_text: str | None
    ) -> r.Beat | None:
        def work() -> r.Beat | None:
            before = self._load(key.flow_uuid)
            if before is None:
                return None
            record = before.record
            if rules.takes_none(record, key.kind):
                return r.Beat(is_wanted=False)
            stored = self._delays.find([key])
            delay = stored.get(key)
            if delay is None:
                atoms = self._details.atom_states({key.atom_uuid})
                return r.Beat(is_wanted=may_still_open(key, atoms.get(key.atom_uuid)))
            if not delay.is_open:
                return r.Beat(is_wanted=False)
            beaten = dataclasses.replace(
                terms.beat(delay, self.now()),
                progress=delay.progress if progress is None else progress,
                progress_text=delay.progress_text if details_text is None else details_text,
            )
            operations = self._delays.change(stored, {key: beaten})
            if progress is not None:
                # An owner leaves the atom alone for as long as it waits.
                operations += self._details.progress(key.atom_uuid, beaten)
            if progress is not None and record.owner is None:
                # Whoever parked the flow last must read the details anew.
                record = dataclasses.replace(record, epoch=record.epoch + 1)
            self._write(before, dataclasses.replace(before, record=record), operations)
            return r.Beat(is_wanted=True)

        return self._connection.repeat(work)

    def wake(self, flow_uuid: str, *, rings: bool) -> r.Woken | None:
        def work() -> r.Woken | None:
            before = self._load(flow_uuid)
            if before is None:
                return None
            now = self.now()
            record, must_ring = rules.wake(self._seen(before), now, rings=rings)
            # When the lease ends is what this observer sees, and not stored.
            stored = dataclasses.replace(record, lease_expires_at=None)
            after = dataclasses.replace(before, record=stored)
            if after != before:
                self._write(before, after, ())
            has_owner = rules.has_owner(record, now)
            return r.Woken(record=record, has_owner=has_owner, must_ring=must_ring)

        return self._connection.repeat(work)

    def cancel(self, flow_uuid: str, reason: str, *, rings: bool) -> r.Cancelled | None:
        def work() -> r.Cancelled | None:
            before = self._load(flow_uuid)
            if before is None:
                return None
            record = self._seen(before)
            if rules.is_over(record) or rules.is_cancelled(record):
                return r.Cancelled(record=record, is_new=False, must_ring=False)
            now = self.now()
            after, must_ring = rules.cancel(record, reason, now, rings=rings)
            stored = self._delays.all_of(flow_uuid)
            closed = {
                key: dataclasses.replace(delay, closed_at=now, close_reason=r.CLOSED_CANCELLED)
                for key, delay in stored.items()
                if key.kind == EXECUTE and delay.closed_at is None and delay.outcome is None
            }
            written = dataclasses.replace(
                before, record=dataclasses.replace(after, lease_expires_at=None)
            )
            self._write(before, written, self._delays.change(stored, closed))
            return r.Cancelled(record=after, is_new=True, must_ring=must_ring)

        return self._connection.repeat(work)
