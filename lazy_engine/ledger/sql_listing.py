# SPDX-License-Identifier: Apache-2.0
"""The SQL ledger's lists of flows, page by page and by index."""

from __future__ import annotations

import collections
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from taskflow import states

from lazy_engine import rules
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.sql_book import SqlBook

#: States that are stored of flows that are not over.
_OPEN_STATES: Final = (states.PENDING, states.RUNNING, DELAYED, states.SUSPENDED)
_INCIDENTS: Final = "incidents"
_WAITING: Final = "waiting"


def _first(query: Any, columns: Any, limit: int) -> Any:
    """Return the first rows of a query in the order of a list, which is newest first."""
    return query.order_by(columns.created_at.desc(), columns.flow_uuid).limit(limit)


class SqlListing(SqlBook):
    """Lists flows."""

    def flows(self, page: r.FlowPage) -> Sequence[r.FlowRecord]:
        def work(connection: sa.Connection) -> list[r.FlowRecord]:
            found: list[r.FlowRecord] = []
            # One after the other, each by an index of its own.
            for is_sound in (False, True):
                if is_sound and page.only_incidents:
                    break
                left = page.limit - len(found)
                if left and (page.after is None or page.after[0] <= is_sound):
                    found += self._flows_of(connection, page, is_sound=is_sound, limit=left)
            return found

        return self._transactor.read(work)

    def _flows_of(
        self, connection: sa.Connection, page: r.FlowPage, *, is_sound: bool, limit: int
    ) -> list[r.FlowRecord]:
        c = self._flows.c
        found = sa.select(self._flows).where(
            c.incident.is_(None) if is_sound else c.incident.is_not(None)
        )
        if page.after is not None and page.after[0] == is_sound:
            created_at, flow_uuid = -page.after[1], page.after[2]
            found = found.where(
                c.created_at <= created_at,
                sa.or_(c.created_at < created_at, c.flow_uuid > flow_uuid),
            )
        if page.state is None:
            parts: Sequence[sa.ColumnElement[bool]] = [sa.true()]
        elif is_sound:
            parts = self._lived_as(page.state, c.state)
        else:
            # Incidents are few and have an index, which the one by state must not outdo.
            parts = [sa.or_(*self._lived_as(page.state, sa.func.coalesce(c.state, "")))]
        # Each part by an index of its own, and no longer than the page.
        queries = [_first(found.where(part), c, limit) for part in parts]
        query = queries[0]
        if len(queries) > 1:
            whole = sa.union_all(*(sa.select(one.subquery()) for one in queries)).subquery()
            query = _first(sa.select(whole), whole.c, limit)
        return [sql_row.to_flow(dict(row._mapping)) for row in connection.execute(query)]

    def _lived_as(
        self, state: str, stored: sa.ColumnElement[str]
    ) -> Sequence[sa.ColumnElement[bool]]:
        """Return ``rules.lived_state(flow) == state`` in SQL, as parts that share no flow.

        :param stored: the stored state.
        """
        c = self._flows.c
        if state in rules.FINAL_STATES:
            return [stored == state]
        is_owned = sa.and_(c.owner.is_not(None), c.lease_expires_at > self._clock())
        is_suspended = sa.func.coalesce(c.wish, "") == r.WISH_SUSPEND
        others = [one for one in _OPEN_STATES if one != state]
        as_another = sa.func.coalesce(c.state, "").in_(others)  # by another column's index
        if state == states.RUNNING:
            # Its owner has taken the lease, and committed nothing yet. The watchdog is to
            # look at every flow with an owner (``rules.tend``), and at few others.
            return [
                sa.and_(stored == state, sa.or_(is_owned, sa.not_(is_suspended))),
                sa.and_(c.check_at.is_not(None), is_owned, as_another),
            ]
        if state == states.SUSPENDED:
            return [
                sa.and_(stored == state, sa.not_(is_owned)),
                sa.and_(c.wish == r.WISH_SUSPEND, sa.not_(is_owned), as_another),
            ]
        return [sa.and_(stored == state, sa.not_(is_owned), sa.not_(is_suspended))]

    def flow_names(self, flow_uuids: Collection[str]) -> Mapping[str, str]:
        c = self._flows.c
        query = sa.select(c.flow_uuid, c.flow_name).where(c.flow_uuid.in_(flow_uuids))
        found = self._transactor.read(lambda connection: connection.execute(query).all())
        return {row.flow_uuid: row.flow_name for row in found}

    def atom_times(self, flow_uuid: str) -> Mapping[str, tuple[int | None, int | None]]:
        return self._transactor.read(lambda connection: self._details.times(connection, flow_uuid))

    def tally(self, limit: int) -> r.Tally:
        def work(connection: sa.Connection) -> r.Tally:
            found: collections.Counter[str] = collections.Counter()
            others: dict[str, int] = {}
            at_least: set[str] = set()
            for row in connection.execute(self._tally_query, {"limit": limit}):
                if row.state is None:
                    others[row.lived] = row.number
                    continue
                found[row.lived] += row.number
                if row.total >= limit:
                    at_least.add(row.lived)
            return r.Tally(
                states=dict(found),
                at_least=frozenset(at_least),
                incidents=others.get(_INCIDENTS, 0),
                waiting=others.get(_WAITING, 0),
            )

        return self._transactor.read(work)

    @functools.cached_property
    def _tally_query(self) -> sa.Executable:
        """Count what an index finds, of each stored state and of the rest, up to a limit."""
        limit = sa.bindparam("limit", type_=sa.Integer)
        c = self._flows.c
        parts = []
        for state in (*_OPEN_STATES, *sorted(rules.FINAL_STATES)):
            lived = self._lived() if state in _OPEN_STATES else sa.literal(state)
            # In the order of the index: otherwise one state would be looked for among all flows.
            some = sa.select(lived.label("lived")).where(c.state == state).order_by(c.created_at)
            found = some.limit(limit).subquery()
            count = sa.func.count()
            parts.append(
                sa.select(
                    sa.literal(state).label("state"),
                    found.c.lived,
                    count.label("number"),
                    sa.func.sum(count).over().label("total"),
                ).group_by(found.c.lived)
            )
        waiting_at = self._tables.delays.c.waiting_at
        for name, column, order in (
            (_INCIDENTS, c.incident, c.created_at),
            (_WAITING, waiting_at, waiting_at),
        ):
            query = sa.select(sa.literal(1)).select_from(column.table).where(column.is_not(None))
            some = query.order_by(order)
            count = sa.func.count()
            parts.append(
                sa.select(sa.null(), sa.literal(name), count, sa.null()).select_from(
                    some.limit(limit).subquery()
                )
            )
        return sa.union_all(*parts)

    def _lived(self) -> sa.ColumnElement[str]:
        """Return ``rules.lived_state(flow)`` of a flow that is not over, in SQL."""
        c = self._flows.c
        return sa.case(
            (
                sa.and_(c.owner.is_not(None), c.lease_expires_at > self._clock()),
                sa.literal(states.RUNNING),
            ),
            (c.wish == r.WISH_SUSPEND, sa.literal(states.SUSPENDED)),
            else_=c.state,
        )

    def flow_uuids(self, after: str, limit: int) -> Sequence[str]:
        def work(connection: sa.Connection) -> list[str]:
            found = set(self._details.delayed_uuids(connection, after, limit))
            for table in (self._flows, self._tables.delays):
                column = table.c.flow_uuid
                query = sa.select(column).distinct().where(column > after)
                found.update(connection.execute(query.order_by(column).limit(limit)).scalars())
            return sorted(found)[:limit]

        return self._transactor.read(work)
