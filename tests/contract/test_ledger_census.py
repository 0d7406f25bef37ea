# SPDX-License-Identifier: Apache-2.0
"""What every ledger says of how much waits."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from lazy_engine import incident, ledger
from lazy_engine.access import open_backend
from lazy_engine.ledger import record as r
from tests.contract.plan import statements_and_plans
from tests.contract.stored import A_LONG_LEASE, PARKS, Flow, Store, make_flow

AGES = (60.0, 3600.0)


def park(store: Store, name: str, at_seconds: float, **asked: Any) -> Flow:
    store.set_clock(at_seconds)
    flow = make_flow(store, name)
    flow.park(**asked)
    return flow


def counted(census: r.Census) -> dict[str | None, tuple[int, ...]]:
    return {each.task_name: each.by_age for each in census.open}


def test_open_delays_are_counted_by_task_and_age(store: Store) -> None:
    first = park(store, "boot", 0)
    park(store, "boot", 1800)
    park(store, "boot", 7200)
    answered = park(store, "ask", 7100)
    park(store, "ask", 7100)
    answered.deliver()
    store.set_clock(7210)
    census = store.other.census(AGES, 10)
    assert [each.task_name for each in census.open] == ["boot", "ask"]
    assert counted(census) == {"boot": (1, 0, 2), "ask": (0, 1, 0)}
    assert census.open[0].oldest_at == first.delay().opened_at
    assert 7200 < (census.now - census.open[0].oldest_at) / 1e6 < 7300


def test_tasks_beyond_the_largest_are_counted_together(store: Store) -> None:
    for name in ("a", "b", "b", "c", "c", "c"):
        park(store, name, 0)
    oldest = store.other.census(AGES, 10).open
    census = store.other.census(AGES, 1)
    assert counted(census) == {"c": (3, 0, 0), None: (3, 0, 0)}
    assert census.open[1].oldest_at == min(
        each.oldest_at for each in oldest if each.task_name != "c"
    )


def test_empty_store_has_nothing_to_count(store: Store) -> None:
    census = store.other.census(AGES, 10)
    assert (list(census.open), census.incidents, census.lag_seconds) == ([], 0, 0.0)


def test_incidents_and_what_is_overdue_are_counted(store: Store) -> None:
    broken = park(store, "boot", 0, timeout_seconds=60.0)
    broken.other.note_incident(broken.uuid, "no factory", "no")
    assert store.other.census(AGES, 10).incidents == 1
    store.set_clock(160)
    assert 95 < store.other.census(AGES, 10).lag_seconds < 110
    broken.other.tend(broken.uuid, rings=True)
    assert store.other.census(AGES, 10).lag_seconds == 0.0


def test_answered_flows_that_nobody_resumed_are_counted(store: Store) -> None:
    def answered() -> tuple[int, int | None]:
        census = store.other.census(AGES, 10)
        return census.answered, census.answered_at

    park(store, "not answered", 0)
    assert answered() == (0, None)
    first, second, broken, suspended = (park(store, "answered", 0) for _ in range(4))
    for number, flow in enumerate((first, second, broken, suspended), 1):
        store.set_clock(number * 100)
        # Also where whoever answers can post no doorbell.
        flow.deliver(rings=flow is not second)
    # These are told of as what they are; one of them is to be tried again.
    broken.other.note_incident(broken.uuid, incident.FACTORY_FAILED, "no")
    assert broken.record().check_at is not None
    suspended.other.set_wish(suspended.uuid, r.WISH_SUSPEND, None)
    assert answered() == (2, first.delay().arrived_at)
    lease = first.take().lease
    assert answered() == (1, second.delay().arrived_at)
    # Its owner dies: nobody has resumed it after all.
    store.set_clock(500 + A_LONG_LEASE)
    assert answered() == (2, first.delay().arrived_at)
    assert first.absorb(lease, first.key(), ending=PARKS).has_ended
    assert answered() == (1, second.delay().arrived_at)
    # It is rung for again and again, by whoever can and by whoever cannot.
    for rings in (True, False):
        second.other.tend(second.uuid, rings=rings)
        assert answered() == (1, second.delay().arrived_at)


def test_trace_is_kept_with_the_delay(flow: Flow) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    changes = flow.opening()
    opened = [dataclasses.replace(opening, traceparent=trace) for opening in changes.opened]
    lease = flow.take().lease
    flow.ledger.commit(lease, dataclasses.replace(changes, opened=opened))
    assert flow.delay().traceparent == trace
    assert flow.deliver().items[0].traceparent == trace
    assert [delay.traceparent for delay in flow.ledger.arrivals(lease)] == [trace]


def test_trace_is_kept_where_the_outcome_came_first(flow: Flow) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    lease = flow.take().lease
    flow.begin(lease)
    assert flow.deliver().items[0].traceparent is None
    changes = flow.opening()
    opened = [dataclasses.replace(opening, traceparent=trace) for opening in changes.opened]
    flow.ledger.commit(lease, dataclasses.replace(changes, opened=opened))
    assert flow.delay().traceparent == trace
    assert flow.delay().outcome is not None


def test_what_waits_is_counted_from_the_index_alone(sqlite_url: str) -> None:
    backend = open_backend(sqlite_url)
    with contextlib.closing(backend), contextlib.closing(ledger.beside(backend)) as opened:
        _, plans = statements_and_plans(opened, lambda: opened.census(AGES, 10))
    tables = [plan for plan in plans if "lazy_" in plan]
    assert any("COVERING INDEX lazy_delays_open (waiting_at>?)" in plan for plan in tables), plans
    # Of flows that were called for, and of these alone, the delays are read.
    assert any("lazy_flows USING INDEX lazy_flows_check" in plan for plan in tables), plans
    of_flow = "SEARCH lazy_delays USING INDEX sqlite_autoindex_lazy_delays_1 (flow_uuid=?)"
    assert not [plan for plan in tables if "INDEX lazy_" not in plan and plan != of_flow]
