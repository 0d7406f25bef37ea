# SPDX-License-Identifier: Apache-2.0
"""The SQL ledger's count of what waits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from lazy_engine import rules
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.census import Count
from lazy_engine.ledger.sql_watch import SqlWatch


class SqlCensus(SqlWatch):
    """Counts open delays, from the index over them alone, flows with incidents, and answered ones.

    The latter are looked for among those that the watchdog is to look at: what
    that costs depends on what runs and what was called for, not on what waits.
    """

    def census(self, ages_seconds: Sequence[float], most_tasks: int) -> r.Census:
        def work(connection: sa.Connection) -> r.Census:
            now = self._now_in(connection)
            count = Count(ages_seconds)
            query = self._open_by_task_and_age(now, ages_seconds, most_tasks)
            for name, age, number, oldest_at in connection.execute(query):
                count.add(name, age, int(number), oldest_at)
            flows = self._flows
            incidents = sa.select(sa.func.count()).where(flows.c.incident.is_not(None))
            answered, answered_at = connection.execute(self._answered(now)).one()
            return r.Census(
                now=now,
                open=count.read(),
                incidents=int(connection.execute(incidents).scalar_one()),
                lag_seconds=0.0,
                answered=int(answered),
                answered_at=answered_at,
            )

        census = self._transactor.read(work)
        due_in = self.next_due_in(0.0)
        return (
            census if due_in is None else dataclasses.replace(census, lag_seconds=max(0.0, -due_in))
        )

    def _answered(self, now: int) -> sa.Executable:
        """Return a query for how many flows are answered and called for, and since when."""
        c, d = self._flows.c, self._tables.delays.c
        # Flow by flow: otherwise a store might begin with the delays, and read all of them.
        first_at = (
            sa.select(sa.func.min(d.arrived_at))
            .where(
                d.flow_uuid == c.flow_uuid,
                d.outcome_kind.is_not(None),
                d.absorbed_at.is_(None),
                d.closed_at.is_(None),
            )
            .correlate(self._flows)
            .scalar_subquery()
        )
        # As ``rules.is_called`` has it.
        called = (
            sa.select(first_at.label("first_at"))
            .where(
                c.check_at.is_not(None),
                sa.or_(c.owner.is_(None), c.lease_expires_at <= now),
                sa.func.coalesce(c.wish, "") != r.WISH_SUSPEND,
                c.state.not_in(sorted(rules.FINAL_STATES)),
                c.incident.is_(None),
            )
            .subquery()
        )
        # Those that were called for by something else have none.
        return sa.select(sa.func.count(called.c.first_at), sa.func.min(called.c.first_at))

    def _open_by_task_and_age(
        self, now: int, ages_seconds: Sequence[float], most_tasks: int
    ) -> sa.Select[Any]:
        """Return a query for task (null for the others), age class, count and oldest instant."""
        c = self._tables.delays.c
        classes = [
            (c.waiting_at > now - sql_row.micros(seconds), number)
            for number, seconds in enumerate(ages_seconds)
        ]
        # Task and class are grouped by name: PostgreSQL does not see that two
        # expressions with parameters in them are the same.
        groups = (
            sa.select(
                c.task_name.label("task"),
                sa.case(*classes, else_=len(classes)).label("age"),
                sa.func.count().label("number"),
                sa.func.min(c.waiting_at).label("oldest_at"),
            )
            .where(c.waiting_at.is_not(None))
            .group_by("task", "age")
            .cte("groups_of_delays")
        )
        g = groups.c
        largest = (
            sa.select(g.task)
            .group_by(g.task)
            .order_by(sa.func.sum(g.number).desc(), g.task)
            .limit(most_tasks)
            .cte("largest_tasks")
        )
        return (
            sa.select(largest.c.task, g.age, sa.func.sum(g.number), sa.func.min(g.oldest_at))
            .select_from(groups.outerjoin(largest, largest.c.task == g.task))
            .group_by(largest.c.task, g.age)
        )
