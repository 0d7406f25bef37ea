# SPDX-License-Identifier: Apache-2.0
"""The SQL ledger's count of what waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.census import Count
from lazy_engine.ledger.sql_watch import SqlWatch


class SqlCensus(SqlWatch):
    """Counts open delays, from the index over them alone, and flows with incidents."""

    def census(self, ages_seconds: Sequence[float], most_tasks: int) -> r.Census:
        def work(connection: sa.Connection) -> tuple[int, Count, int]:
            now = self._now_in(connection)
            count = Count(ages_seconds)
            query = self._open_by_task_and_age(now, ages_seconds, most_tasks)
            for name, age, number, oldest_at in connection.execute(query):
                count.add(name, age, int(number), oldest_at)
            flows = self._flows
            incidents = sa.select(sa.func.count()).where(flows.c.incident.is_not(None))
            return now, count, int(connection.execute(incidents).scalar_one())

        now, count, incidents = self._transactor.read(work)
        due_in = self.next_due_in(0.0)
        return r.Census(
            now=now,
            open=count.read(),
            incidents=incidents,
            lag_seconds=max(0.0, -due_in) if due_in is not None else 0.0,
        )

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
