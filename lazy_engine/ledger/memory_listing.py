# SPDX-License-Identifier: Apache-2.0
"""The memory ledger's lists of flows and delays."""

from __future__ import annotations

import collections
import functools
from collections.abc import Collection, Mapping, Sequence

from lazy_engine import rules
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger.census import Count
from lazy_engine.ledger.memory_watch import MemoryWatch


class MemoryListing(MemoryWatch):
    """Lists and counts."""

    def flow(self, flow_uuid: str) -> r.FlowRecord | None:
        return self._flows.get(flow_uuid)

    def delays_of(self, flow_uuid: str) -> Sequence[r.DelayRecord]:
        with self._lock:
            return sorted(self._delays.get(flow_uuid, {}).values(), key=r.place_of)

    def waiting(self, page: r.Page) -> Sequence[r.DelayRecord]:
        with self._lock:
            found = [
                delay
                for delays in self._delays.values()
                for delay in delays.values()
                if delay.is_open
                and page.flow_uuid in (None, delay.key.flow_uuid)
                and page.task_name in (None, delay.task_name)
                and (
                    page.due_before is None
                    or (
                        delay.timers.timeout_at is not None
                        and delay.timers.timeout_at < page.due_before
                    )
                )
                and (page.order == r.BY_AGE or delay.due_at is not None)
                and (page.after is None or r.place_of(delay, page.order) > page.after)
            ]
        place_of = functools.partial(r.place_of, order=page.order)
        return sorted(found, key=place_of)[: page.limit]

    def flows(self, page: r.FlowPage) -> Sequence[r.FlowRecord]:
        with self._lock:
            now = self.now()
            found = [
                flow
                for flow in self._flows.values()
                if page.has(flow, rules.lived_state(flow, now))
            ]
        return sorted(found, key=r.place_of_flow)[: page.limit]

    def tally(self, limit: int) -> r.Tally:
        with self._lock:
            now = self.now()
            states = collections.Counter(
                rules.lived_state(flow, now) for flow in self._flows.values()
            )
            waiting = sum(flow.open_delays for flow in self._flows.values())
            incidents = sum(flow.incident is not None for flow in self._flows.values())
        return r.Tally(
            states={state: min(count, limit) for state, count in states.items()},
            at_least=frozenset(state for state, count in states.items() if count >= limit),
            incidents=min(incidents, limit),
            waiting=min(waiting, limit),
        )

    def census(self, ages_seconds: Sequence[float], most_tasks: int) -> r.Census:
        count = Count(ages_seconds)
        with self._lock:
            now = self.now()
            for delays in self._delays.values():
                for delay in delays.values():
                    if delay.is_open and delay.opened_at is not None:
                        age = count.age_class(delay.opened_at, now)
                        count.add(delay.task_name, age, 1, delay.opened_at)
            incidents = sum(flow.incident is not None for flow in self._flows.values())
            called = [flow for flow in self._flows.values() if rules.is_called(flow, now)]
            arrived = [at for flow in called if (at := self._arrived_at(flow)) is not None]
            due_in = self.next_due_in(0.0)
        return r.Census(
            now=now,
            open=count.read(most_tasks),
            incidents=incidents,
            lag_seconds=max(0.0, -due_in) if due_in is not None else 0.0,
            answered=len(arrived),
            answered_at=min(arrived, default=None),
        )

    def _arrived_at(self, flow: r.FlowRecord) -> int | None:
        """Return when the first outcome arrived that its task does not have yet."""
        delays = self._delays.get(flow.flow_uuid, {}).values()
        found = (delay.arrived_at for delay in delays if delay.is_unabsorbed)
        return min((at for at in found if at is not None), default=None)

    def flow_names(self, flow_uuids: Collection[str]) -> Mapping[str, str]:
        with self._lock:
            found = (self._flows.get(flow_uuid) for flow_uuid in flow_uuids)
            return {flow.flow_uuid: flow.flow_name for flow in found if flow is not None}

    def atom_times(self, flow_uuid: str) -> Mapping[str, tuple[int | None, int | None]]:
        return {}

    def flow_uuids(self, after: str, limit: int) -> Sequence[str]:
        with self._lock, self._connection() as connection:
            found = {*self._flows, *self._delays}
            for book in connection.get_logbooks(lazy=True):
                for flow in connection.get_flows_for_book(book.uuid, lazy=True):
                    if flow.state == DELAYED:
                        found.add(flow.uuid)
        return sorted(uuid for uuid in found if uuid > after)[:limit]
