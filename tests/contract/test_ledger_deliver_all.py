# SPDX-License-Identifier: Apache-2.0
"""What every ledger promises of outcomes for many flows at once: each flow as if it had come alone."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa

from lazy_engine import errors
from lazy_engine.ledger import record as r
from lazy_engine.receipt import Disposition
from tests.contract.stored import Flow, Store, answer_lost_once, at_once, make_flow


def parked(store: Store, count: int) -> list[Flow]:
    flows = [make_flow(store) for _ in range(count)]
    for flow in flows:
        flow.park()
    return flows


def deliver_all(store: Store, *by_flow: tuple[Flow, list[r.Delivery]]) -> dict[str, Any]:
    asked = {flow.uuid: deliveries for flow, deliveries in by_flow}
    return dict(store.other.deliver_all(asked, rings=True))


def disposition(answers: dict[str, Any], flow: Flow) -> Disposition:
    (item,) = answers[flow.uuid].items
    return item.disposition


def test_each_flow_gets_its_own_outcomes_and_answer(store: Store) -> None:
    first, second, answered, unknown = *parked(store, 3), make_flow(store)
    answered.deliver("before")
    asked = [(each, [each.delivery(each.uuid)]) for each in (first, second, answered, unknown)]
    answers = deliver_all(store, *asked)
    assert disposition(answers, first) is Disposition.ACCEPTED
    assert disposition(answers, second) is Disposition.ACCEPTED
    assert disposition(answers, answered) is Disposition.CONFLICT
    assert answers[unknown.uuid] is None
    assert [answers[each.uuid].must_ring for each in (first, second)] == [True, True]
    for flow in (first, second):
        (arrival,) = flow.take().arrivals
        assert flow.ledger.decode(arrival.outcome) == flow.uuid


def test_several_outcomes_of_one_flow_are_judged_in_their_order(store: Store) -> None:
    flow, other = parked(store, 2)
    deliveries = [flow.delivery(value) for value in ("a", "b", "a")]
    answers = deliver_all(store, (flow, deliveries), (other, [other.delivery()]))
    assert [item.disposition for item in answers[flow.uuid].items] == [
        Disposition.ACCEPTED,
        Disposition.CONFLICT,
        Disposition.DUPLICATE,
    ]


def test_answer_that_was_lost_is_given_again(store: Store) -> None:
    store.only_shared()
    flows = parked(store, 3)
    asked = [(flow, [flow.delivery()]) for flow in flows]
    with answer_lost_once(store.other):
        answers = deliver_all(store, *asked)
    for flow in flows:
        assert disposition(answers, flow) is Disposition.ACCEPTED
        assert answers[flow.uuid].must_ring, "nobody else would ring"


def test_callers_with_the_same_flows_agree_and_do_not_lock_each_other_out(store: Store) -> None:
    flows = parked(store, 8)

    def one(order: int) -> dict[str, Any]:
        asked = [(flow, [flow.delivery(order)]) for flow in flows[::order]]
        return deliver_all(store, *asked)

    both = at_once(lambda: one(1), lambda: one(-1))
    for flow in flows:
        found = {disposition(answers, flow) for answers in both}
        assert found == {Disposition.ACCEPTED, Disposition.CONFLICT}


def test_flow_that_fails_does_not_touch_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, better = parked(store, 3)
    deliver = type(store.other).deliver

    def fail(on: Any, flow_uuid: str, deliveries: Any, *, rings: bool) -> Any:
        if flow_uuid == bad.uuid:
            raise errors.StoreUnavailable("this one cannot be stored")
        return deliver(on, flow_uuid, deliveries, rings=rings)

    def fail_together(*_: Any, **__: Any) -> Any:
        raise errors.StoreUnavailable("one of them cannot be stored")

    monkeypatch.setattr(type(store.other), "deliver", fail)
    if hasattr(store.other, "deliver_together"):
        monkeypatch.setattr(type(store.other), "deliver_together", fail_together)
    answers = deliver_all(store, *[(each, [each.delivery()]) for each in (good, bad, better)])
    assert disposition(answers, good) is disposition(answers, better) is Disposition.ACCEPTED
    assert isinstance(answers[bad.uuid], errors.StoreUnavailable)


def test_store_that_is_away_is_not_tried_for_each_flow(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = parked(store, 5)
    tried = []

    def fail(_on: Any, flow_uuid: str, *_: Any, **__: Any) -> Any:
        tried.append(flow_uuid)
        raise errors.StoreUnavailable("gone")

    monkeypatch.setattr(type(store.other), "deliver", fail)
    if hasattr(store.other, "deliver_together"):
        monkeypatch.setattr(type(store.other), "deliver_together", fail)
    answers = deliver_all(store, *[(each, [each.delivery()]) for each in flows])
    assert all(isinstance(each, errors.StoreUnavailable) for each in answers.values())
    assert len(tried) <= 3


def test_many_flows_share_a_transaction_where_there_are_such(sqlite_url: str) -> None:
    from lazy_engine import ledger
    from lazy_engine.access import open_backend

    backend = open_backend(sqlite_url)
    with contextlib.closing(backend), contextlib.closing(ledger.beside(backend)) as opened:
        store = Store("sqlite", sqlite_url, backend, opened, opened)
        flows = parked(store, 70)
        commits = []
        engine = opened._transactor.engine
        sa.event.listen(engine, "commit", commits.append)
        deliver_all(store, *[(flow, [flow.delivery()]) for flow in flows])
        assert len(commits) == 2, "64 and 6"
        assert dataclasses.asdict(flows[-1].delay())["arrived_at"] is not None
