# SPDX-License-Identifier: Apache-2.0
"""The ZooKeeper ledger's lists of flows.

There is no index by state: whoever lists flows reads every flow's own znode, a
batch at a time, and keeps no more than a page of them.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from lazy_engine import rules
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger import zookeeper_index as index
from lazy_engine.ledger import zookeeper_node as node
from lazy_engine.ledger.census import Count
from lazy_engine.ledger.zookeeper_delay import waiting_key
from lazy_engine.ledger.zookeeper_watch import ZooKeeperWatch

#: How many znodes are asked for at once.
_BATCH: Final = 200
#: Of how many open delays, the oldest ones, a census says the task.
_MOST_READ: Final = 2000


class ZooKeeperListing(ZooKeeperWatch):
    """Lists flows, and counts what waits."""

    def flows(self, page: r.FlowPage) -> Sequence[r.FlowRecord]:
        def work() -> list[r.FlowRecord]:
            now = self.now()
            wanted = (
                flow for flow in self._all_flows() if page.has(flow, rules.lived_state(flow, now))
            )
            return heapq.nsmallest(page.limit, wanted, key=r.place_of_flow)

        return self._read(work)

    def tally(self, limit: int) -> r.Tally:
        def work() -> r.Tally:
            now = self.now()
            found: collections.Counter[str] = collections.Counter()
            incidents = read = 0
            for flow in itertools.islice(self._all_flows(), limit):
                read += 1
                found[rules.lived_state(flow, now)] += 1
                incidents += flow.incident is not None
            return r.Tally(
                states=dict(found),
                # Flows are read in no order of their states.
                at_least=frozenset(found if read == limit else ()),
                incidents=incidents,
                waiting=self._count_waiting(now, limit),
            )

        return self._read(work)

    def _count_waiting(self, now: int, limit: int) -> int:
        """Count what waits by its index alone, which names it."""
        found = 0
        for bucket in index.entries(self._connection, self._paths.waiting_path, now=now):
            found += len(bucket)
            if found >= limit:
                return limit
        return found

    def flow_names(self, flow_uuids: Collection[str]) -> Mapping[str, str]:
        def work() -> dict[str, str]:
            paths = [self._paths.flow(flow_uuid) for flow_uuid in flow_uuids]
            found = self._connection.get_many(paths)
            flows = (self._seen(node.decode_flow(*each)) for each in found if each is not None)
            return {flow.flow_uuid: flow.flow_name for flow in flows}

        return self._read(work)

    def atom_times(self, flow_uuid: str) -> Mapping[str, tuple[int | None, int | None]]:
        return {}

    def _all_flows(self) -> Iterator[r.FlowRecord]:
        names = self._connection.children(self._paths.flows_path)
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            paths = [f"{self._paths.flows_path}/{name}" for name in batch]
            for found in self._connection.get_many(paths):
                if found is not None:  # purged since it was listed
                    yield self._seen(node.decode_flow(*found))

    def census(self, ages_seconds: Sequence[float], most_tasks: int) -> r.Census:
        def work() -> r.Census:
            now = self.now()
            count = Count(ages_seconds)
            # The index tells when, and not of which task: that takes reading each one.
            entries = index.entries(self._connection, self._paths.waiting_path, now=now)
            read = 0
            for bucket in entries:
                known = self._task_names(bucket[: max(0, _MOST_READ - read)])
                read += len(known)
                for (at, _), name in itertools.zip_longest(bucket, known):
                    count.add(name, count.age_class(at, now), 1, at)
            incidents, called = 0, []
            for flow in self._all_flows():
                incidents += flow.incident is not None
                if rules.is_called(flow, now):
                    called.append(flow.flow_uuid)
            arrived = self._arrived(called)
            due_in = self.next_due_in(0.0)
            return r.Census(
                now=now,
                open=count.read(most_tasks),
                incidents=incidents,
                lag_seconds=max(0.0, -due_in) if due_in is not None else 0.0,
                answered=len(arrived),
                answered_at=min(arrived, default=None),
            )

        return self._read(work)

    def _arrived(self, flow_uuids: Sequence[str]) -> list[int]:
        """Return of each flow that has outcomes to absorb when the first of them arrived."""
        found: list[int] = []
        for start in range(0, len(flow_uuids), _BATCH):
            keys = self._delays.first_arrived(flow_uuids[start : start + _BATCH])
            records = self._delays.find(keys).values()
            found += [record.arrived_at for record in records if record.arrived_at is not None]
        return found

    def _task_names(self, entries: Sequence[tuple[int, str]]) -> list[str | None]:
        keys = [waiting_key(name) for _, name in entries]
        found = self._delays.find(keys)
        return [found[key].task_name if key in found else None for key in keys]

    def flow_uuids(self, after: str, limit: int) -> Sequence[str]:
        def work() -> list[str]:
            known = {
                node.unquote(name) for name in self._connection.children(self._paths.flows_path)
            }
            stored = self._connection.children(self._paths.flow_details_path)
            names = sorted(uuid for uuid in known.union(stored) if uuid > after)
            return list(itertools.islice(self._concerned(names, known), limit))

        return self._read(work)

    def _concerned(self, flow_uuids: Iterable[str], known: set[str]) -> Iterator[str]:
        for flow_uuid in flow_uuids:
            if flow_uuid in known:
                yield flow_uuid
                continue
            found = self._connection.get(self._paths.flow_detail(flow_uuid))
            if found is not None and json.loads(found[0]).get("state") == DELAYED:
                yield flow_uuid
