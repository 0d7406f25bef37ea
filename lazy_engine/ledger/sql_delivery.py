# SPDX-License-Identifier: Apache-2.0
"""The SQL ledger's side of delivering outcomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from lazy_engine import rules
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import Desk
from lazy_engine.ledger.sql_book import SqlBook
from lazy_engine.ledger.sql_statement import open_value


class SqlDelivery(SqlBook):
    """Records outcomes; the first one wins."""

    def deliver(
        self, flow_uuid: str, deliveries: Sequence[r.Delivery], *, rings: bool
    ) -> r.DeliveredToFlow | None:
        noted: list[int] = []
        return self._transactor.write(
            lambda connection: self._deliver(connection, flow_uuid, deliveries, rings, noted)
        )

    def deliver_together(
        self, by_flow: Mapping[str, Sequence[r.Delivery]], *, rings: bool
    ) -> dict[str, r.DeliveredToFlow | None]:
        """Record outcomes of several flows in one transaction: of all, or of none.

        :param by_flow: in the order of the uuids.
        """
        noted: dict[str, list[int]] = {flow_uuid: [] for flow_uuid in by_flow}
        return self._transactor.write(
            lambda connection: {
                flow_uuid: self._deliver(connection, flow_uuid, each, rings, noted[flow_uuid])
                for flow_uuid, each in by_flow.items()
            }
        )

    def _deliver(
        self,
        connection: sa.Connection,
        flow_uuid: str,
        deliveries: Sequence[r.Delivery],
        rings: bool,
        noted: list[int],
    ) -> r.DeliveredToFlow | None:
        flows = self._flows
        wait = self._send_row(
            connection,
            "deliver",
            lambda: (
                sa.update(flows)
                .where(flows.c.flow_uuid == open_value("flow_uuid"))
                .values(
                    arrival_number=flows.c.arrival_number + open_value("count", type_=sa.Integer)
                )
            ),
            {"flow_uuid": flow_uuid, "count": len(deliveries)},
        )
        # Asked right after it, so that a server is waited for once.
        keys = [delivery.key for delivery in deliveries]
        found = self._delays.find(connection, keys)
        _written, row = wait()
        if row is None:
            return None
        record, now = row
        if record.rung_at in noted:
            # An earlier try of this very call, whose connection was lost
            # before the answer came, noted a ring that nobody posts.
            record = dataclasses.replace(record, rung_at=None)
        first_number = record.arrival_number - len(deliveries) + 1
        desk = Desk(record, now, first_number)
        desk.put_delays(found)
        # Only of an attempt without a record is the atom asked whether it is over.
        unseen = set(keys) - {delay.key for delay in found}
        if unseen:
            atom_uuids = {key.atom_uuid for key in unseen}
            desk.put_atoms(self._details.atom_states(connection, atom_uuids))
        items = [desk.receive(delivery) for delivery in deliveries]
        self._delays.write_arrivals(connection, desk)
        must_ring = False
        if desk.calls_for_owner:
            after, must_ring = rules.call(desk.flow, now, rings=rings)
            self._change(connection, record, after)
            if must_ring:
                noted.append(now)
        return r.DeliveredToFlow(
            items=items,
            record=record,
            has_owner=rules.has_owner(record, now),
            must_ring=must_ring,
            is_rung=rules.is_rung(record, now),
        )

    def unring(self, flow_uuid: str) -> None:
        def work(connection: sa.Connection) -> None:
            record, now = self._lock(connection, flow_uuid)
            if record is not None:
                self._change(connection, record, rules.unring(record, now))

        self._transactor.write(work)
