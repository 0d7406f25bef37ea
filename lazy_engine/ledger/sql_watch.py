# SPDX-License-Identifier: Apache-2.0
"""The SQL ledger's side of time: timers, heartbeats, lost doorbells, cancelling."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import sqlalchemy as sa

from lazy_engine import rules, terms
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.desk import may_still_open
from lazy_engine.ledger.sql_book import SqlBook
from lazy_engine.ledger.sql_statement import Statement, open_value
from lazy_engine.token import DelayKey


class SqlWatch(SqlBook):
    """Finds what is due, and sees to it flow by flow."""

    def due(self, limit: int) -> Sequence[str]:
        def work(connection: sa.Connection) -> Sequence[str]:
            rows = self._due_query.run(connection, {"limit": limit}).rows
            return list(dict.fromkeys(row[0] for row in rows))

        return self._transactor.read(work)

    def next_due_in(self, within_seconds: float) -> float | None:
        values = {"within": sql_row.micros(within_seconds)}

        def work(connection: sa.Connection) -> float | None:
            rows = self._next_due_query.run(connection, values).rows
            left = [at - now for at, now in rows if at is not None]
            return min(left) / 1e6 if left else None

        return self._transactor.look(work)

    # Built once: a watchdog asks them more than once a second, for years.

    @property
    def _now_query(self) -> sa.ScalarSelect[int]:
        # As a subquery the time is asked for once; otherwise PostgreSQL asks for each row.
        return sa.select(self._clock()).scalar_subquery()

    @property
    def _due_columns(self) -> tuple[sa.Column[int], sa.Column[int]]:
        return self._tables.delays.c.due_at, self._flows.c.check_at

    @functools.cached_property
    def _due_query(self) -> Statement:
        now = self._now_query
        limit = open_value("limit", type_=sa.Integer)
        parts = []
        for at in self._due_columns:
            table = at.table
            found = sa.select(table.c.flow_uuid).where(at <= now).order_by(at).limit(limit)
            parts.append(sa.select(found.subquery().c.flow_uuid))
        return Statement(sa.union_all(*parts))

    @functools.cached_property
    def _next_due_query(self) -> Statement:
        now = self._now_query
        last_at = now + open_value("within", type_=sa.BigInteger)
        parts = (
            sa.select(sa.func.min(at).label("at"), now.label("now")).where(at <= last_at)
            for at in self._due_columns
        )
        return Statement(sa.union_all(*parts))

    def next_due_at(self) -> int | None:
        flows, delays = self._flows, self._tables.delays

        def work(connection: sa.Connection) -> int | None:
            queries = (
                sa.select(sa.func.min(delays.c.due_at)).where(delays.c.due_at.is_not(None)),
                sa.select(sa.func.min(flows.c.check_at)).where(flows.c.check_at.is_not(None)),
            )
            found = [connection.execute(query).scalar_one() for query in queries]
            return min((at for at in found if at is not None), default=None)

        return self._transactor.read(work)

    def tend(self, flow_uuid: str, *, rings: bool) -> r.Tended | None:
        def work(connection: sa.Connection) -> r.Tended | None:
            record, now = self._lock(connection, flow_uuid)
            if record is None:
                return None
            after, fired = self._fire(
                connection, record, now, self._delays.due(connection, record.flow_uuid, now)
            )
            has_news = any(f.has_outcome or f.wants_probe for f in fired)
            after, wants_owner = rules.tend(after, now, has_news=has_news, rings=rings)
            self._change(connection, record, after)
            return r.Tended(record=after, wants_owner=wants_owner, fired=fired)

        return self._transactor.write(work)

    def heartbeat(
        self, key: DelayKey, *, progress: float | None, details_text: str | None
    ) -> r.Beat | None:
        def work(connection: sa.Connection) -> r.Beat | None:
            record, now = self._lock(connection, key.flow_uuid)
            if record is None:
                return None
            if rules.takes_none(record, key.kind):
                return r.Beat(is_wanted=False)
            found = self._delays.find(connection, [key])
            if not found:
                states = self._details.atom_states(connection, {key.atom_uuid})
                return r.Beat(is_wanted=may_still_open(key, states.get(key.atom_uuid)))
            (delay,) = found
            if not delay.is_open:
                return r.Beat(is_wanted=False)
            beaten = dataclasses.replace(
                terms.beat(delay, now),
                progress=delay.progress if progress is None else progress,
                progress_text=delay.progress_text if details_text is None else details_text,
            )
            self._delays.write(connection, [beaten])
            if progress is not None:
                # An owner leaves the atom alone for as long as it waits.
                self._details.write_progress(connection, key.atom_uuid, beaten)
            if progress is not None and record.owner is None:
                # Whoever parked the flow last must read the details anew.
                raised = dataclasses.replace(record, epoch=record.epoch + 1)
                self._change(connection, record, raised)
            return r.Beat(is_wanted=True)

        return self._transactor.write(work)

    def wake(self, flow_uuid: str, *, rings: bool) -> r.Woken | None:
        def work(connection: sa.Connection) -> r.Woken | None:
            record, now = self._lock(connection, flow_uuid)
            if record is None:
                return None
            after, must_ring = rules.wake(record, now, rings=rings)
            self._change(connection, record, after)
            has_owner = rules.has_owner(after, now)
            return r.Woken(record=after, has_owner=has_owner, must_ring=must_ring)

        return self._transactor.write(work)

    def cancel(self, flow_uuid: str, reason: str, *, rings: bool) -> r.Cancelled | None:
        def work(connection: sa.Connection) -> r.Cancelled | None:
            record, now = self._lock(connection, flow_uuid)
            if record is None:
                return None
            if rules.is_over(record) or rules.is_cancelled(record):
                return r.Cancelled(record=record, is_new=False, must_ring=False)
            after, must_ring = rules.cancel(record, reason, now, rings=rings)
            self._delays.cancel_open(connection, flow_uuid, now)
            self._change(connection, record, after)
            return r.Cancelled(record=after, is_new=True, must_ring=must_ring)

        return self._transactor.write(work)
