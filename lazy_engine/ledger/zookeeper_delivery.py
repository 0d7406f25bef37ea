# SPDX-License-Identifier: Apache-2.0
"""The ZooKeeper ledger's side of delivering outcomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lazy_engine import rules
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import Desk
from lazy_engine.ledger.zookeeper_book import ZooKeeperBook


class ZooKeeperDelivery(ZooKeeperBook):
    """Records outcomes; the first one wins."""

    def deliver(
        self, flow_uuid: str, deliveries: Sequence[r.Delivery], *, rings: bool
    ) -> r.DeliveredToFlow | None:
        noted: list[int] = []
        return self._connection.repeat(lambda: self._deliver(flow_uuid, deliveries, rings, noted))

    def _deliver(
        self, flow_uuid: str, deliveries: Sequence[r.Delivery], rings: bool, noted: list[int]
    ) -> r.DeliveredToFlow | None:
        now = self.now()
        before = self._load(flow_uuid)
        if before is None:
            return None
        record = self._seen(before)
        if record.rung_at in noted:
            # An earlier try of this very call, whose connection was lost
            # before the answer came, noted a ring that nobody posts.
            record = dataclasses.replace(record, rung_at=None)
        keys = [delivery.key for delivery in deliveries]
        stored = self._delays.find(keys)
        desk = Desk(record, now, record.arrival_number + 1)
        desk.put_delays(stored.values())
        desk.put_atoms(self._details.atom_states({key.atom_uuid for key in keys}))
        items = [desk.receive(delivery) for delivery in deliveries]
        arrival_number = record.arrival_number + len(deliveries)
        written, must_ring = dataclasses.replace(desk.flow, arrival_number=arrival_number), False
        if desk.calls_for_owner:
            written, must_ring = rules.call(written, now, rings=rings)
        if must_ring:
            noted.append(now)
        # When the lease ends is what this observer sees, and not stored.
        after = dataclasses.replace(
            before, record=dataclasses.replace(written, lease_expires_at=None)
        )
        self._write(before, after, self._delays.change(stored, {**desk.arrived, **desk.late}))
        return r.DeliveredToFlow(
            items=items,
            record=record,
            has_owner=rules.has_owner(record, now),
            must_ring=must_ring,
            is_rung=rules.is_rung(record, now),
        )
