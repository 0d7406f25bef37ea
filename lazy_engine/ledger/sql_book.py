# SPDX-License-Identifier: Apache-2.0
"""What every part of the SQL ledger works with.

Order within every transaction: the flow's row in ``lazy_flows`` (always
written first), then its delays, then its atoms. One transaction touches one
flow. So transactions of one flow are serial on every database, and none can
deadlock with another.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from lazy_engine import terms
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.sql_connection import Transactor
from lazy_engine.ledger.sql_delay import DelayRows
from lazy_engine.ledger.sql_detail import DetailRows
from lazy_engine.ledger.sql_schema import Tables
from lazy_engine.ledger.sql_statement import Answer, Statements, open_value, open_values


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
        self._delays = DelayRows(tables.delays, dialect, self._clock)
        self._statements = Statements()
        self._time = sql_row.clock(dialect, lambda: self.clock_offset_seconds)
        self._returns = bool(transactor.engine.dialect.update_returning)
        #: Moves the store's clock, for tests: see :mod:`lazy_engine.testing`.
        self.clock_offset_seconds = 0.0

    def _clock(self) -> sa.ColumnElement[int]:
        """Return the store's time, as of when a statement with it is executed."""
        return self._time

    @property
    def _whole_row(self) -> tuple[Any, ...]:
        return (*self._flows.c, self._time.label("now"))

    def _row(self, connection: sa.Connection, flow_uuid: str) -> tuple[r.FlowRecord, int] | None:
        return self._read_row(self._ask_row(connection, flow_uuid))

    def _ask_row(self, connection: sa.Connection, flow_uuid: str) -> Answer:
        statement = self._statements.once(
            "row",
            lambda: sa.select(*self._whole_row).where(
                self._flows.c.flow_uuid == open_value("flow_uuid")
            ),
        )
        return statement.run(connection, {"flow_uuid": flow_uuid})

    @staticmethod
    def _read_row(answer: Answer) -> tuple[r.FlowRecord, int] | None:
        for row in answer.mappings():
            return sql_row.to_flow(row), int(row["now"])
        return None

    def _write_row(
        self,
        connection: sa.Connection,
        key: Hashable,
        make: Callable[[], sa.Update],
        given: Mapping[str, Any],
    ) -> tuple[bool, tuple[r.FlowRecord, int] | None]:
        """Begin a transaction of a flow as all begin, by writing its row; see :meth:`_send_row`."""
        return self._send_row(connection, key, make, given)()

    def _send_row(
        self,
        connection: sa.Connection,
        key: Hashable,
        make: Callable[[], sa.Update],
        given: Mapping[str, Any],
    ) -> Callable[[], tuple[bool, tuple[r.FlowRecord, int] | None]]:
        """Begin a transaction of a flow, and return what waits for the answer.

        In one statement where the store can return what it has written.

        :param make: makes the statement that writes; kept under *key*.
        :param given: its open values; the flow's uuid is ``flow_uuid``.
        :returns: tells whether it was written, and the row as it is then, with the time.
        """
        if not self._returns:
            answer = self._statements.once(key, make).run(connection, given)
            return lambda: (bool(answer.count), self._row(connection, given["flow_uuid"]))
        statement = self._statements.once(key, lambda: make().returning(*self._whole_row))
        answer = statement.run(connection, given)

        def wait() -> tuple[bool, tuple[r.FlowRecord, int] | None]:
            row = self._read_row(answer)
            if row is not None:
                return True, row
            return False, self._row(connection, given["flow_uuid"])

        return wait

    def _insert_row(self, connection: sa.Connection, record: r.FlowRecord) -> None:
        statement = self._statements.once("insert", lambda: sa.insert(self._flows))
        statement.run(connection, sql_row.from_flow(record))

    def _now_in(self, connection: sa.Connection) -> int:
        return int(self._tell_time(connection).rows[0][0])

    def _tell_time(self, connection: sa.Connection) -> Answer:
        statement = self._statements.once("now", lambda: sa.select(self._clock().label("now")))
        return statement.run(connection)

    def _lock(self, connection: sa.Connection, flow_uuid: str) -> tuple[r.FlowRecord | None, int]:
        """Begin a transaction of a flow as all begin, by writing its row; return it, and now."""
        _written, row = self._write_row(
            connection, "lock", self._touching, {"flow_uuid": flow_uuid}
        )
        return row or (None, 0)

    def _touch(self, connection: sa.Connection, flow_uuid: str) -> Answer:
        """Write a flow's row as it is, if there is one, as the answer's count tells."""
        statement = self._statements.once("touch", self._touching)
        return statement.run(connection, {"flow_uuid": flow_uuid})

    def _touching(self) -> sa.Update:
        flows = self._flows
        return (
            sa.update(flows)
            .where(flows.c.flow_uuid == open_value("flow_uuid"))
            .values(changed_at=flows.c.changed_at)
        )

    def _fire(
        self,
        connection: sa.Connection,
        record: r.FlowRecord,
        now: int,
        due: Sequence[r.DelayRecord],
    ) -> tuple[r.FlowRecord, list[terms.Fired]]:
        """Have the due timers of a flow do what they do, and write the delays.

        :param record: of the flow, whose row this transaction has written.
        :param due: its delays whose timers are due.
        :returns: the record as it is to be written, and what was done.
        """
        after, fired = terms.fire_all(due, record, now)
        self._delays.write(connection, [done.record for done in fired])
        return after, fired

    def _change(self, connection: sa.Connection, before: r.FlowRecord, after: r.FlowRecord) -> None:
        """Write what differs between two records of a flow whose row is locked."""
        changed = sql_row.changed(before, after)
        if not changed:
            return
        flows = self._flows
        statement = self._statements.once(
            ("change", *changed),
            lambda: (
                sa.update(flows)
                .where(flows.c.flow_uuid == open_value("flow_uuid"))
                .values(open_values(changed))
            ),
        )
        statement.run(connection, {**changed, "flow_uuid": before.flow_uuid})

    def _set(
        self, flow_uuid: str, *conditions: sa.ColumnElement[bool], **columns: Any
    ) -> r.FlowRecord | None:
        flows = self._flows

        def work(connection: sa.Connection) -> r.FlowRecord | None:
            connection.execute(
                sa.update(flows)
                .where(flows.c.flow_uuid == flow_uuid, *conditions)
                .values(**columns)
            )
            row = self._row(connection, flow_uuid)
            return None if row is None else row[0]

        return self._transactor.write(work)
