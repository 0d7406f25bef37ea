# SPDX-License-Identifier: Apache-2.0
"""The rows of ``lazy_delays``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from lazy_engine import terms
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.desk import Desk
from lazy_engine.ledger.sql_statement import Statement, Statements, open_value, open_values
from lazy_engine.token import EXECUTE, DelayKey

_KEY = ("flow_uuid", "atom_uuid", "kind", "attempt")

#: How many keys one statement looks for; SQLite takes 32,766 values at most.
_CHUNK = 500


class DelayRows:
    """Reads and writes delays; always inside somebody else's transaction."""

    def __init__(
        self, table: sa.Table, dialect: str, clock: Callable[[], sa.ColumnElement[int]]
    ) -> None:
        self._table = table
        self._dialect = dialect
        self._clock = clock
        self._statements = Statements()

    # -- reading ----------------------------------------------------------

    def find(self, connection: sa.Connection, keys: Sequence[DelayKey]) -> list[r.DelayRecord]:
        """Return the records that exist for keys of one flow."""
        if len(keys) == 1:
            answer = self._find_one.run(connection, _named(keys[0]))
            return [sql_row.to_delay(row) for row in answer.mappings()]
        found: list[r.DelayRecord] = []
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            atom_uuids = [key.atom_uuid for key in chunk]
            answer = self._find_some.run(
                connection, {"flow_uuid": chunk[0].flow_uuid, "atom_uuids": atom_uuids}
            )
            wanted = set(chunk)
            records = (sql_row.to_delay(row) for row in answer.mappings())
            found.extend(record for record in records if record.key in wanted)
        return found

    @property
    def _find_one(self) -> Statement:
        c = self._table.c
        return self._statements.once(
            "find one",
            lambda: sa.select(self._table).where(*(c[name] == open_value(name) for name in _KEY)),
        )

    @property
    def _find_some(self) -> Statement:
        c = self._table.c
        return self._statements.once(
            "find some",
            lambda: sa.select(self._table).where(
                c.flow_uuid == open_value("flow_uuid"),
                c.atom_uuid.in_(open_value("atom_uuids", expanding=True)),
            ),
        )

    def unabsorbed(
        self, connection: sa.Connection, flow_uuid: str, *, with_early: bool
    ) -> list[r.DelayRecord]:
        """Return outcomes to absorb, oldest first.

        :param with_early: also those whose delay has not been opened.
        """
        c = self._table.c
        statement = self._statements.once(
            ("unabsorbed", with_early),
            lambda: (
                sa.select(self._table)
                .where(
                    c.flow_uuid == open_value("flow_uuid"),
                    c.outcome_kind.is_not(None),
                    c.absorbed_at.is_(None),
                    c.closed_at.is_(None),
                    *(() if with_early else (c.opened_at.is_not(None),)),
                )
                .order_by(c.arrival_number)
            ),
        )
        answer = statement.run(connection, {"flow_uuid": flow_uuid})
        return [sql_row.to_delay(row) for row in answer.mappings()]

    def of_flow(self, connection: sa.Connection, flow_uuid: str) -> list[r.DelayRecord]:
        """Return all of a flow's delays, oldest first."""
        c = self._table.c
        rows = connection.execute(
            sa.select(self._table)
            .where(c.flow_uuid == flow_uuid)
            .order_by(sa.func.coalesce(c.opened_at, 0), c.atom_uuid, c.kind, c.attempt)
        )
        return [sql_row.to_delay(row._mapping) for row in rows]

    def waiting(self, connection: sa.Connection, page: r.Page) -> list[r.DelayRecord]:
        """Return a page of open delays, in the order that is asked for."""
        c = self._table.c
        # Neither column is set but in delays that wait, and each has its index.
        at = c.waiting_at if page.order == r.BY_AGE else c.due_at
        order = (at, c.flow_uuid, c.atom_uuid, c.kind, c.attempt)
        query = sa.select(self._table).where(at.is_not(None))
        if page.flow_uuid is not None:
            query = query.where(c.flow_uuid == page.flow_uuid)
        if page.task_name is not None:
            query = query.where(c.task_name == page.task_name)
        if page.due_before is not None:
            # No timer of a delay is due later than its due_at says.
            query = query.where(c.due_at < page.due_before, c.timeout_at < page.due_before)
        if page.after is not None:
            query = query.where(at >= page.after[0], sa.tuple_(*order) > sa.tuple_(*page.after))
        rows = connection.execute(query.order_by(*order).limit(page.limit))
        return [sql_row.to_delay(row._mapping) for row in rows]

    # -- writing ----------------------------------------------------------

    def apply(
        self, connection: sa.Connection, flow_uuid: str, changes: r.Changes, now: int
    ) -> None:
        """Write a turn's changes to the flow's delays."""
        c = self._table.c
        if changes.opened:
            # Where an outcome came first there is a row, which does not wait.
            self._upsert("opened_at", "details", "terms", "timeout_at", "traceparent").run_many(
                connection, [sql_row.from_delay(opening.open(now)) for opening in changes.opened]
            )
        if changes.absorbed:
            at = open_value("now", type_=sa.BigInteger)
            statement = self._statements.once(
                "absorb",
                lambda: (
                    sa.update(self._table)
                    .where(*(c[name] == open_value(name) for name in _KEY))
                    .values(absorbed_at=at, opened_at=sa.func.coalesce(c.opened_at, at))
                ),
            )
            statement.run_many(
                connection, [{**_named(key), "now": now} for key in changes.absorbed]
            )
        self.close(connection, flow_uuid, changes.closed, now)
        if changes.probed:
            records = {
                record.key: record
                for record in self.find(connection, [p.key for p in changes.probed])
            }
            self.write(
                connection,
                [
                    terms.probed(records[probing.key], now, probing.state_text)
                    for probing in changes.probed
                    if records[probing.key].is_open
                ],
            )

    def close(
        self,
        connection: sa.Connection,
        flow_uuid: str,
        closings: Sequence[r.DelayClosing],
        now: int,
    ) -> None:
        """Close delays that are not closed yet."""
        if not closings:
            return
        c = self._table.c
        statement = self._statements.once(
            "close",
            lambda: (
                sa.update(self._table)
                .where(
                    c.flow_uuid == open_value("flow_uuid"),
                    c.atom_uuid == open_value("atom_uuid"),
                    c.kind == open_value("kind"),
                    c.attempt <= open_value("up_to_attempt"),
                    c.closed_at.is_(None),
                )
                .values(**open_values(("closed_at", "close_reason")), waiting_at=None, due_at=None)
            ),
        )
        for closing in closings:
            given = {
                "flow_uuid": flow_uuid,
                "atom_uuid": closing.atom_uuid,
                "kind": closing.kind,
                "up_to_attempt": closing.up_to_attempt,
                "closed_at": now,
                "close_reason": closing.reason,
            }
            statement.run(connection, given)

    def write(self, connection: sa.Connection, records: Sequence[r.DelayRecord]) -> None:
        """Write delays whose rows exist, as a whole."""
        if not records:
            return
        c = self._table.c
        rows = [sql_row.from_delay(record) for record in records]
        others = [name for name in rows[0] if name not in _KEY]
        statement = self._statements.once(
            "write",
            lambda: (
                sa.update(self._table)
                .where(*(c[name] == open_value(name) for name in _KEY))
                .values(open_values(others))
            ),
        )
        statement.run_many(connection, rows)

    def due(self, connection: sa.Connection, flow_uuid: str, now: int) -> list[r.DelayRecord]:
        """Return a flow's delays whose timers are due."""
        c = self._table.c
        statement = self._statements.once(
            "due",
            lambda: sa.select(self._table).where(
                c.flow_uuid == open_value("flow_uuid"), c.due_at <= open_value("now")
            ),
        )
        answer = statement.run(connection, {"flow_uuid": flow_uuid, "now": now})
        return [sql_row.to_delay(row) for row in answer.mappings()]

    def ask_for_owner(
        self, connection: sa.Connection, flow_uuid: str
    ) -> Callable[[], list[r.DelayRecord]]:
        """Ask what a flow's new owner has to know, and return what waits for the answer.

        Delays whose timers are due, open ones whose tasks look for themselves,
        and outcomes to absorb, early ones too; in the order of arrival.
        """
        c = self._table.c
        statement = self._statements.once(
            "for_owner",
            lambda: (
                sa.select(self._table)
                .where(
                    c.flow_uuid == open_value("flow_uuid"),
                    c.closed_at.is_(None),
                    c.absorbed_at.is_(None),
                    sa.or_(
                        c.outcome_kind.is_not(None),
                        c.due_at <= self._clock(),
                        sa.and_(c.probe_at.is_not(None), c.waiting_at.is_not(None)),
                    ),
                )
                .order_by(c.arrival_number)
            ),
        )
        answer = statement.run(connection, {"flow_uuid": flow_uuid})
        return lambda: [sql_row.to_delay(row) for row in answer.mappings()]

    def cancel_open(self, connection: sa.Connection, flow_uuid: str, now: int) -> None:
        """Close what waits in ``execute`` and has no outcome."""
        c = self._table.c
        connection.execute(
            sa.update(self._table)
            .where(
                c.flow_uuid == flow_uuid,
                c.kind == EXECUTE,
                c.closed_at.is_(None),
                c.outcome_kind.is_(None),
            )
            .values(closed_at=now, close_reason=r.CLOSED_CANCELLED, waiting_at=None, due_at=None)
        )

    def write_arrivals(self, connection: sa.Connection, desk: Desk) -> None:
        """Write what a desk has received."""
        for columns, records in (
            (
                (
                    "outcome_kind",
                    "outcome_body",
                    "outcome_digest",
                    "arrived_at",
                    "arrival_number",
                    "delivery_id",
                    "waiting_at",
                    "due_at",
                ),
                desk.arrived,
            ),
            (("late_kind", "late_body", "late_digest", "late_at"), desk.late),
        ):
            if records:
                self._upsert(*columns).run_many(
                    connection, [sql_row.from_delay(record) for record in records.values()]
                )

    def close_all(self, connection: sa.Connection, flow_uuid: str, now: int) -> None:
        """Close every delay of a flow that is over."""
        c = self._table.c
        statement = self._statements.once(
            "close_all",
            lambda: (
                sa.update(self._table)
                .where(c.flow_uuid == open_value("flow_uuid"), c.closed_at.is_(None))
                .values(
                    closed_at=open_value("now"),
                    close_reason=r.CLOSED_ENDED,
                    waiting_at=None,
                    due_at=None,
                )
            ),
        )
        statement.run(connection, {"flow_uuid": flow_uuid, "now": now})

    def delete(self, connection: sa.Connection, flow_uuid: str) -> None:
        """Delete every delay of a flow."""
        connection.execute(sa.delete(self._table).where(self._table.c.flow_uuid == flow_uuid))

    def _upsert(self, *columns: str) -> Statement:
        """Return an insert that, where the delay has a row, sets *columns* of it."""
        return self._statements.once(("upsert", *columns), lambda: self._make_upsert(columns))

    def _make_upsert(self, columns: Sequence[str]) -> Any:
        if self._dialect == "mysql":
            statement = mysql.insert(self._table)
            return statement.on_duplicate_key_update(
                {name: statement.inserted[name] for name in columns}
            )
        insert = (postgresql if self._dialect == "postgresql" else sqlite).insert(self._table)
        return insert.on_conflict_do_update(
            index_elements=list(_KEY), set_={name: insert.excluded[name] for name in columns}
        )


def _named(key: DelayKey) -> dict[str, Any]:
    return {name: getattr(key, name) for name in _KEY}
