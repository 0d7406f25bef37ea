# SPDX-License-Identifier: Apache-2.0
"""What every part of the SQL ledger works with.

Order within every transaction: the flow's row in ``lazy_flows`` (always
written first), then its delays, then its atoms. One transaction touches one
flow. So transactions of one flow are serial on every database, and none can
deadlock with another.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lazy_engine import terms
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.sql_connection import Transactor
from lazy_engine.ledger.sql_delay import DelayRows
from lazy_engine.ledger.sql_detail import DetailRows
from lazy_engine.ledger.sql_schema import Tables


class SqlBook:
    """Tables, rows, time and transactions of one SQL store.

    :param details: where the flows' details are kept.
    """

    def __init__(self, transactor: Transactor, tables: Tables, details: DetailRows) -> None:
        dialect = transactor.engine.dialect.name
        self._transactor = transactor
        self._tables = tables
        self._flows = tables.flows
        self._details = details
        self._delays = DelayRows(tables.delays, dialect)
        self._store_clock = sql_row.clock(dialect)
        #: Moves the store's clock, for tests: see :mod:`lazy_engine.testing`.
        self.clock_offset_seconds = 0.0

    def _clock(self) -> sa.ColumnElement[int]:
        now = self._store_clock()
        if self.clock_offset_seconds:
            return now + sql_row.micros(self.clock_offset_seconds)
        return now

    def _row(self, connection: sa.Connection, flow_uuid: str) -> tuple[r.FlowRecord, int] | None:
        found = connection.execute(
            sa.select(self._flows, self._clock().label("now")).where(
                self._flows.c.flow_uuid == flow_uuid
            )
        ).first()
        if found is None:
            return None
        return sql_row.to_flow(dict(found._mapping)), int(found._mapping["now"])

    def _now_in(self, connection: sa.Connection) -> int:
        return int(connection.execute(sa.select(self._clock())).scalar_one())

    def _lock(self, connection: sa.Connection, flow_uuid: str) -> tuple[r.FlowRecord | None, int]:
        """Begin a transaction of a flow as all begin, by writing its row; return it, and now."""
        flows = self._flows
        connection.execute(
            sa.update(flows)
            .where(flows.c.flow_uuid == flow_uuid)
            .values(changed_at=flows.c.changed_at)
        )
        return self._row(connection, flow_uuid) or (None, 0)

    def _fire(
        self, connection: sa.Connection, record: r.FlowRecord, now: int
    ) -> tuple[r.FlowRecord, list[terms.Fired]]:
        """Have the due timers of a flow do what they do, and write the delays.

        :param record: of the flow, whose row this transaction has written.
        :returns: the record as it is to be written, and what was done.
        """
        after, fired = terms.fire_all(
            self._delays.due(connection, record.flow_uuid, now), record, now
        )
        self._delays.write(connection, [done.record for done in fired])
        return after, fired

    def _change(self, connection: sa.Connection, before: r.FlowRecord, after: r.FlowRecord) -> None:
        """Write what differs between two records of a flow whose row is locked."""
        if values := sql_row.changed(before, after):
            flows = self._flows
            connection.execute(
                sa.update(flows).where(flows.c.flow_uuid == before.flow_uuid).values(values)
            )

    def _set(
        self, flow_uuid: str, *conditions: sa.ColumnElement[bool], **values: Any
    ) -> r.FlowRecord | None:
        flows = self._flows

        def work(connection: sa.Connection) -> r.FlowRecord | None:
            connection.execute(
                sa.update(flows).where(flows.c.flow_uuid == flow_uuid, *conditions).values(**values)
            )
            row = self._row(connection, flow_uuid)
            return None if row is None else row[0]

        return self._transactor.write(work)
