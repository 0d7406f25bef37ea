# SPDX-License-Identifier: Apache-2.0
"""What every ledger promises about time: deadlines, heartbeats, lost doorbells, cancelling."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from taskflow import states
from taskflow.persistence import backends

from lazy_engine import ledger, outcome
from lazy_engine.access import open_backend
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger.sql_schema import VERSION
from lazy_engine.receipt import Disposition
from lazy_engine.terms import ALERT, DEFAULT
from lazy_engine.token import EXECUTE, REVERT
from tests.contract.plan import statements_and_plans
from tests.contract.stored import (
    PARKS,
    RESTS,
    SUCCEEDS,
    Flow,
    Store,
    at_once,
    make_flow,
)

PARKS_HEEDING = dataclasses.replace(PARKS, heeds_cancel=True)
REVERTED = r.Ending(state=states.REVERTED, is_final=True, absorbs=True, heeds_cancel=True)


def tend(flow: Flow, *, rings: bool = True) -> r.Tended:
    tended = flow.other.tend(flow.uuid, rings=rings)
    assert tended is not None
    return tended


def due(flow: Flow) -> bool:
    return flow.uuid in flow.other.due(100)


# -- deadlines -------------------------------------------------------------


def test_deadline_is_absolute_and_runs_from_the_opening_commit(flow: Flow) -> None:
    flow.park(timeout_seconds=60.0)
    delay = flow.delay()
    assert delay.timers.timeout_at == delay.due_at == delay.opened_at + 60_000_000
    left_seconds = flow.other.next_due_in(61)
    assert left_seconds is not None
    assert 50 < left_seconds <= 60
    assert flow.other.next_due_in(40) is None


def test_nothing_is_due_before_its_time(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0)
    store.set_clock(50)
    assert not due(flow)
    before = flow.snapshot()
    assert tend(flow) == r.Tended(record=flow.record(), wants_owner=False, fired=[])
    assert flow.snapshot() == before


def test_passed_deadline_is_an_outcome_and_rings_once(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0)
    store.set_clock(61)
    assert due(flow)
    tended = tend(flow)
    assert tended.wants_owner
    assert tended.record.rung_at is not None
    (fired,) = tended.fired
    assert fired.has_outcome
    delay = flow.delay()
    assert delay.outcome.kind == outcome.TIMEOUT
    assert json.loads(delay.outcome.body)["timer"] == "deadline"
    assert (delay.is_open, delay.due_at) == (False, None)
    assert not due(flow)
    again = tend(flow)
    assert (again.wants_owner, list(again.fired)) == (False, [])
    taken = flow.take()
    assert [d.key for d in taken.arrivals] == [flow.key()]


def test_default_is_the_outcome_if_the_delay_says_so(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0, on_timeout=DEFAULT, default_text='{"a":1}')
    store.set_clock(61)
    tend(flow)
    assert (flow.delay().outcome.kind, flow.delay().outcome.body) == (outcome.DEFAULT, '{"a":1}')


def test_answer_after_the_timeout_was_written_is_late(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0)
    store.set_clock(61)
    tend(flow)
    assert flow.disposition() is Disposition.LATE
    assert flow.delay().outcome.kind == outcome.TIMEOUT
    assert flow.delay().late is not None


def test_answer_before_the_timeout_is_written_wins(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0)
    store.set_clock(61)
    assert flow.disposition() is Disposition.ACCEPTED
    assert list(tend(flow).fired) == []
    assert flow.delay().outcome.kind == outcome.RESULT


def test_timeout_and_answer_at_once_agree(store: Store) -> None:
    for _ in range(8):
        store.set_clock(0)
        flow = make_flow(store)
        flow.park(timeout_seconds=60.0)
        store.set_clock(61)
        delivery = flow.delivery()
        tended, told = at_once(
            lambda f=flow: f.ledger.tend(f.uuid, rings=True),
            lambda f=flow, d=delivery: f.other.deliver(f.uuid, [d], rings=True),
        )
        got = told.items[0].disposition
        assert (len(tended.fired), got) in {(1, Disposition.LATE), (0, Disposition.ACCEPTED)}
        assert tended.wants_owner + told.must_ring == 1, "one of the two rings"


def test_two_watchdogs_at_once_fire_a_deadline_once(store: Store) -> None:
    for _ in range(8):
        store.set_clock(0)
        flow = make_flow(store)
        flow.park(timeout_seconds=60.0)
        store.set_clock(61)
        answers = at_once(
            *(
                lambda one=one, f=flow: one.tend(f.uuid, rings=True)
                for one in [store.ledger, store.other] * 2
            )
        )
        assert sum(len(tended.fired) for tended in answers) == 1
        assert sum(tended.wants_owner for tended in answers) == 1


def test_taking_the_lease_judges_what_is_due(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0)
    store.set_clock(61)
    taken = flow.take()
    assert [d.outcome.kind for d in taken.arrivals] == [outcome.TIMEOUT]
    assert taken.lease.pulse.arrival_number == flow.record().arrival_number == 1
    assert flow.disposition() is Disposition.LATE


def test_timer_of_a_flow_that_runs_tells_its_owner(flow: Flow, store: Store) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening(timeout_seconds=60.0))
    store.set_clock(61)
    tended = tend(flow)
    assert (len(tended.fired), tended.wants_owner) == (1, False)
    assert flow.ledger.pulse(lease).arrival_number > lease.pulse.arrival_number
    done = flow.ledger.commit(lease, flow.changes(open_delays=1), PARKS)
    assert not done.has_ended
    assert [d.outcome.kind for d in done.arrivals] == [outcome.TIMEOUT]


def test_timers_and_outcomes_have_one_order(flow: Flow, store: Store) -> None:
    lease = flow.take().lease
    second = flow.key(atom_uuid=str(uuid.uuid4()))
    opening = flow.opening(timeout_seconds=60.0)
    more = r.DelayOpening(key=second, task_name="second")
    flow.ledger.commit(
        lease, dataclasses.replace(opening, opened=[*opening.opened, more], open_delays=2), PARKS
    )
    store.set_clock(61)
    tend(flow)
    flow.deliver(key=second)
    numbers = [d.arrival_number for d in flow.take().arrivals]
    assert numbers == sorted(set(numbers)) == [1, 2]


def test_alert_marks_the_delay_and_lets_it_wait(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0, on_timeout=ALERT)
    store.set_clock(61)
    tended = tend(flow)
    (fired,) = tended.fired
    assert (fired.is_alert, fired.has_outcome, tended.wants_owner) == (True, False, False)
    delay = flow.delay()
    assert delay.is_open
    assert delay.alerted_at is not None
    assert (delay.due_at, due(flow)) == (None, False)
    assert flow.disposition() is Disposition.ACCEPTED


def test_deadline_at_the_very_beginning_of_time_is_due(flow: Flow) -> None:
    flow.park(until=0, on_timeout=DEFAULT)
    assert due(flow)
    assert len(tend(flow).fired) == 1


def test_closed_delays_are_never_due(flow: Flow, store: Store) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening(timeout_seconds=60.0))
    flow.ledger.commit(lease, flow.changes(closed=[flow.closing(r.CLOSED_RETRIED)]), PARKS)
    store.set_clock(61)
    assert not due(flow)
    assert list(tend(flow).fired) == []


def test_early_outcome_leaves_no_timer(flow: Flow, store: Store) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    assert flow.disposition() is Disposition.EARLY
    flow.ledger.commit(lease, flow.opening(timeout_seconds=60.0))
    flow.ledger.release(lease)
    store.set_clock(61)
    assert list(tend(flow).fired) == []
    assert flow.delay().outcome.kind == outcome.RESULT


def test_due_lists_the_longest_due_first_and_no_more_than_asked_for(store: Store) -> None:
    flows = [make_flow(store) for _ in range(3)]
    for flow, seconds in zip(flows, (30.0, 10.0, 20.0), strict=True):
        flow.park(timeout_seconds=seconds)
    store.set_clock(40)
    wanted = [flows[n].uuid for n in (1, 2, 0)]
    assert list(store.other.due(100)) == wanted
    assert list(store.other.due(1)) == wanted[:1]


def test_open_delays_are_listed_by_their_deadline(store: Store) -> None:
    soon, late, never = (make_flow(store) for _ in range(3))
    soon.park(timeout_seconds=60.0, heartbeat_seconds=5.0)
    late.park(timeout_seconds=600.0, probe_seconds=5.0)
    never.park(heartbeat_seconds=5.0)
    before = store.ledger.now() + 120_000_000
    found = store.other.waiting(r.Page(due_before=before))
    assert [d.key.flow_uuid for d in found] == [soon.uuid]


def test_open_delays_are_listed_in_pages_by_what_is_due(store: Store) -> None:
    due = {"soon": 60.0, "later": 600.0, "last": 6000.0}
    flows = {name: make_flow(store) for name in ("last", "soon", "never", "later", "answered")}
    for name, flow in flows.items():
        # The earliest of a delay's timers counts.
        flow.park(timeout_seconds=due.get(name), heartbeat_seconds=due.get(name, 0) * 2 or None)
    flows["answered"].deliver()
    named = {flow.uuid: name for name, flow in flows.items()}
    for flow_uuid in (None, flows["later"].uuid):
        found: list[str] = []
        after = None
        page = r.Page(order=r.BY_DUE, limit=2, flow_uuid=flow_uuid)
        while some := store.other.waiting(dataclasses.replace(page, after=after)):
            found += [named[delay.key.flow_uuid] for delay in some]
            after = r.place_of(some[-1], r.BY_DUE)
        assert found == (["later"] if flow_uuid else ["soon", "later", "last"])


def test_what_is_due_is_found_by_an_index_alone(sqlite_url: str) -> None:
    backend = open_backend(sqlite_url)
    with contextlib.closing(backend), contextlib.closing(ledger.beside(backend)) as opened:
        statements, plans = statements_and_plans(
            opened, lambda: (opened.due(100), opened.next_due_in(1.0))
        )
    assert len(statements) == 3, "one each, and a BEGIN"
    searches = [plan for plan in plans if "lazy_" in plan]
    assert len(searches) == 4
    assert not [plan for plan in plans if "SCAN lazy_" in plan]
    for plan in searches:
        assert "INDEX lazy_delays_due" in plan or "INDEX lazy_flows_check" in plan, plan


# -- heartbeats ------------------------------------------------------------


def beat(flow: Flow, *, progress: float | None = None, details: Any = None, **key: Any) -> Any:
    text = None if details is None else json.dumps(details)
    return flow.other.heartbeat(flow.key(**key), progress=progress, details_text=text)


def test_silence_times_out_with_its_own_reason(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0, heartbeat_seconds=10.0)
    store.set_clock(11)
    tend(flow)
    assert json.loads(flow.delay().outcome.body)["timer"] == "heartbeat"


def test_heartbeat_puts_the_silence_off_and_not_the_deadline(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0, heartbeat_seconds=40.0)
    deadline = flow.delay().timers.timeout_at
    store.set_clock(30)
    assert beat(flow) == r.Beat(is_wanted=True)
    delay = flow.delay()
    assert delay.timers.timeout_at == delay.due_at == deadline
    store.set_clock(50)
    assert list(tend(flow).fired) == []
    store.set_clock(61)
    tend(flow)
    assert json.loads(flow.delay().outcome.body)["timer"] == "deadline"


@pytest.mark.parametrize("is_owned", [False, True])
def test_progress_lands_where_taskflow_keeps_it(flow: Flow, is_owned: bool) -> None:
    if is_owned:
        flow.ledger.commit(flow.take().lease, flow.opening())
    else:
        flow.park()
    assert beat(flow, progress=0.25, details={"disk": 2}).is_wanted
    meta = flow.stored_task().meta
    assert meta["progress"] == 0.25
    assert meta["progress_details"] == {"at_progress": 0.25, "details": {"disk": 2}}
    assert meta["lazy_attempts"] == {EXECUTE: 1}
    assert (flow.delay().progress, flow.delay().is_open) == (0.25, True)


def test_heartbeat_with_progress_fences_no_owner(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening())
    beat(flow, progress=0.5)
    assert flow.ledger.commit(lease, flow.changes(open_delays=1), PARKS).has_ended


def test_whoever_parked_the_flow_reads_new_progress(flow: Flow) -> None:
    parked = flow.park()
    beat(flow, progress=0.5)
    taken = flow.take(known=parked.version)
    assert taken.detail is not None
    assert taken.detail.find(flow.task.uuid).meta["progress"] == 0.5


def test_heartbeat_without_progress_leaves_the_last_one(flow: Flow) -> None:
    flow.park(heartbeat_seconds=10.0)
    beat(flow, progress=0.5, details="half")
    beat(flow)
    assert (flow.delay().progress, flow.delay().progress_text) == (0.5, '"half"')


def test_heartbeat_tells_who_works_in_vain(flow: Flow) -> None:
    flow.park()
    flow.deliver()
    assert beat(flow) == r.Beat(is_wanted=False)
    assert beat(flow, attempt=2) == r.Beat(is_wanted=True), "that attempt may yet open a delay"
    lease = flow.take().lease
    flow.absorb(lease, flow.key(), ending=SUCCEEDS)
    assert beat(flow, attempt=2) == r.Beat(is_wanted=False)


def test_heartbeat_for_an_unknown_flow(flow: Flow) -> None:
    assert flow.other.heartbeat(flow.key(), progress=None, details_text=None) is None


def test_heartbeat_and_parking_at_once_agree(store: Store) -> None:
    for _ in range(6):
        flow = make_flow(store)
        lease = flow.take().lease
        flow.ledger.commit(lease, flow.opening(heartbeat_seconds=10.0))
        changes = flow.changes(flow_state=DELAYED, open_delays=1)
        done, answer = at_once(
            lambda f=flow, le=lease, c=changes: f.ledger.commit(le, c, PARKS),
            lambda f=flow: beat(f, progress=0.5),
        )
        assert (done.has_ended, answer.is_wanted) == (True, True)
        assert flow.stored_task().meta["progress"] == 0.5
        assert flow.take().detail.find(flow.task.uuid).meta["progress"] == 0.5


# -- probes ----------------------------------------------------------------


def test_probe_that_is_due_wants_an_owner_and_decides_nothing(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=600.0, probe_seconds=10.0)
    store.set_clock(11)
    tended = tend(flow)
    (fired,) = tended.fired
    assert (fired.wants_probe, fired.has_outcome, tended.wants_owner) == (True, False, True)
    assert flow.delay().is_open
    assert not due(flow)
    taken = flow.take()
    assert [d.key for d in taken.probing] == [flow.key()]
    assert taken.probing[0].timers.probe_at <= taken.now


def test_lost_wake_for_a_probe_is_repeated(flow: Flow, store: Store) -> None:
    flow.park(probe_seconds=10.0)
    store.set_clock(11)
    assert tend(flow).wants_owner
    store.set_clock(80)
    assert due(flow)
    assert tend(flow).wants_owner


def test_waiting_for_a_probe_hides_no_deadline(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=30.0, probe_seconds=10.0)
    store.set_clock(11)
    tend(flow)
    store.set_clock(31)
    assert due(flow)
    tend(flow)
    assert flow.delay().outcome.kind == outcome.TIMEOUT


def test_probe_in_vain_is_noted_and_repeated(flow: Flow, store: Store) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening(probe_seconds=10.0))
    store.set_clock(11)
    probing = r.DelayProbing(key=flow.key(), state_text='{"seen":1}')
    assert flow.ledger.commit(lease, flow.changes(probed=[probing], open_delays=1), PARKS).has_ended
    delay = flow.delay()
    assert delay.probe_state_text == '{"seen":1}'
    assert delay.due_at == delay.timers.probe_at > flow.ledger.now() + 5_000_000
    assert flow.take().probing[0].probe_state_text == '{"seen":1}'


def test_probe_in_vain_of_an_answered_delay_changes_nothing(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening(probe_seconds=10.0))
    flow.deliver()
    before = flow.delay()
    probing = r.DelayProbing(key=flow.key(), state_text="1")
    flow.ledger.commit(lease, flow.changes(probed=[probing]))
    assert flow.delay() == before


# -- lost doorbells and dead owners ----------------------------------------


def test_lost_doorbell_is_found_and_repeated_ever_less_often(flow: Flow, store: Store) -> None:
    flow.park()
    assert flow.deliver().must_ring
    rang = []
    at = 0.0
    while at < 86400:
        store.set_clock(at)
        if due(flow) and tend(flow).wants_owner:
            rang.append(at)
        at += 30 if at < 600 else 600
    assert 60 <= rang[0] <= 90
    assert len(rang) < 40, "a day without anybody is no storm"
    assert rang[-1] > 80000, "and nobody gives up"
    flow.take()
    assert (flow.record().rung_at, flow.record().rings) == (None, 0)


def test_answer_that_nobody_rings_for_is_found(flow: Flow, store: Store) -> None:
    flow.park()
    assert not flow.deliver(rings=False).must_ring
    assert not due(flow), "whoever delivers is expected to resume"
    store.set_clock(61)
    assert due(flow)
    assert tend(flow, rings=False).wants_owner
    assert not tend(flow, rings=False).wants_owner


def test_passive_answer_to_a_flow_without_a_factory_is_found(flow: Flow, store: Store) -> None:
    newcomer = r.Newcomer(
        flow_name="flow", has_factory=False, key_id=flow.ledger.signing_key().key_id
    )
    lease = flow.take(newcomer=newcomer).lease
    flow.ledger.commit(lease, flow.opening(), PARKS)
    flow.deliver(rings=False)
    store.set_clock(61)
    assert tend(flow, rings=False).wants_owner


def test_doorbell_that_could_not_be_posted_is_tried_again_soon(flow: Flow, store: Store) -> None:
    """A board that was away for hours must not leave a ring that is an hour away."""
    flow.park()
    assert flow.deliver().must_ring
    flow.other.unring(flow.uuid)
    for at in range(61, 7200, 61):
        store.set_clock(at)
        assert tend(flow).wants_owner, at
        flow.other.unring(flow.uuid)
    assert flow.record().rings == 0


def test_unringing_a_flow_that_was_taken_meanwhile_changes_nothing(flow: Flow) -> None:
    flow.park()
    flow.deliver()
    lease = flow.take().lease
    flow.absorb(lease, flow.key(), ending=PARKS)
    before = flow.snapshot()
    flow.other.unring(flow.uuid)
    assert flow.snapshot() == before


def test_flow_of_a_dead_owner_is_rung_for_after_its_lease(flow: Flow, store: Store) -> None:
    flow.take(seconds=20)
    store.set_clock(10)
    assert not due(flow)
    store.set_clock(21)
    assert due(flow)
    if not flow.other.guarantees.has_clock:
        # Who sees the lease for the first time waits for a whole one, by its own clock.
        assert not tend(flow).wants_owner
        store.set_clock(42)
        assert due(flow)
    assert tend(flow).wants_owner
    assert not due(flow)


def test_living_owner_is_left_alone(flow: Flow, store: Store) -> None:
    lease = flow.take(seconds=20).lease
    store.set_clock(15)
    flow.ledger.renew(lease)
    store.set_clock(21)
    assert not due(flow)
    before = flow.record()
    assert not tend(flow).wants_owner
    after = flow.record()
    assert after == dataclasses.replace(before, check_at=after.lease_expires_at)


def test_flow_given_up_in_the_middle_is_looked_at_later(flow: Flow, store: Store) -> None:
    flow.ledger.release(flow.take().lease)
    assert not due(flow)
    store.set_clock(61)
    assert tend(flow).wants_owner


def test_flow_that_cannot_be_run_is_tried_ever_less_often(flow: Flow, store: Store) -> None:
    for number in (1, 2, 3):
        lease = flow.take().lease
        flow.other.note_incident(flow.uuid, "task gone", "put it back")
        flow.ledger.release(lease)
        left_seconds = (flow.record().check_at - flow.ledger.now()) / 1e6
        assert 60 * 2**number - 10 < left_seconds <= 60 * 2**number


def test_flow_that_is_merely_parked_is_never_looked_at(flow: Flow, store: Store) -> None:
    flow.park()
    store.set_clock(10**7)
    assert not due(flow)
    assert flow.other.next_due_in(10**9) is None


def test_flow_without_a_factory_is_not_rung_for(flow: Flow, store: Store) -> None:
    newcomer = r.Newcomer(
        flow_name="flow", has_factory=False, key_id=flow.ledger.signing_key().key_id
    )
    lease = flow.take(newcomer=newcomer).lease
    flow.ledger.commit(lease, flow.opening(timeout_seconds=60.0), PARKS)
    store.set_clock(61)
    tended = tend(flow)
    assert (len(tended.fired), tended.wants_owner) == (1, False)
    assert not due(flow)


def test_unknown_flow_is_tended_by_nobody(flow: Flow) -> None:
    assert flow.other.tend(flow.uuid, rings=True) is None


# -- suspended flows -------------------------------------------------------


def test_timers_of_a_suspended_flow_fire_and_wake_nobody(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0)
    flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, None)
    store.set_clock(61)
    tended = tend(flow)
    assert (len(tended.fired), tended.wants_owner) == (1, False)
    store.set_clock(10**6)
    assert not due(flow)
    arrivals = flow.take(resumes=True).arrivals
    assert [d.outcome.kind for d in arrivals] == [outcome.TIMEOUT]


# -- cancelling ------------------------------------------------------------


def cancel(flow: Flow, *, rings: bool = True) -> r.Cancelled:
    cancelled = flow.other.cancel(flow.uuid, "enough", rings=rings)
    assert cancelled is not None
    return cancelled


def test_cancel_closes_what_waits_and_rings(flow: Flow, store: Store) -> None:
    flow.park(timeout_seconds=60.0, heartbeat_seconds=30.0)
    cancelled = cancel(flow)
    assert (cancelled.is_new, cancelled.must_ring) == (True, True)
    assert (cancelled.record.wish, cancelled.record.wish_reason) == (r.WISH_CANCEL, "enough")
    assert flow.delay().close_reason == r.CLOSED_CANCELLED
    assert flow.disposition() is Disposition.LATE
    assert beat(flow) == r.Beat(is_wanted=False)
    assert list(flow.other.waiting(r.Page())) == []
    again = cancel(flow)
    assert (again.is_new, again.must_ring) == (False, False)
    store.set_clock(61)
    assert list(tend(flow).fired) == []


def test_cancel_that_nobody_rings_for_is_found(flow: Flow, store: Store) -> None:
    flow.park()
    assert not cancel(flow, rings=False).must_ring
    store.set_clock(61)
    assert tend(flow, rings=False).wants_owner


def test_cancel_leaves_an_outcome_that_came_before(flow: Flow) -> None:
    flow.park()
    flow.deliver("first")
    cancel(flow)
    assert flow.disposition("first") is Disposition.DUPLICATE
    assert flow.disposition("second") is Disposition.LATE
    assert [flow.ledger.decode(d.outcome) for d in flow.take().arrivals] == ["first"]


def test_cancel_and_answer_at_once_agree(store: Store) -> None:
    for _ in range(8):
        flow = make_flow(store)
        flow.park()
        delivery = flow.delivery()
        cancelled, told = at_once(
            lambda f=flow: f.ledger.cancel(f.uuid, "enough", rings=True),
            lambda f=flow, d=delivery: f.other.deliver(f.uuid, [d], rings=True),
        )
        got = told.items[0].disposition
        assert got in (Disposition.ACCEPTED, Disposition.LATE)
        assert (flow.delay().outcome is not None) is (got is Disposition.ACCEPTED)
        assert (flow.delay().closed_at is not None) is (got is Disposition.LATE)
        assert cancelled.must_ring + told.must_ring == 1


def test_cancel_and_parking_at_once_agree(store: Store) -> None:
    for _ in range(8):
        flow = make_flow(store)
        lease = flow.take().lease
        opening = flow.opening()
        done, cancelled = at_once(
            lambda f=flow, le=lease, o=opening: f.ledger.commit(le, o, PARKS_HEEDING),
            lambda f=flow: f.other.cancel(f.uuid, "enough", rings=True),
        )
        assert done.has_ended is cancelled.must_ring, (
            "either its owner hears of it, or somebody rings"
        )
        if not done.has_ended:
            assert done.pulse.wish == r.WISH_CANCEL


def test_wish_to_cancel_stays_until_the_flow_has_ended(flow: Flow) -> None:
    flow.park()
    cancel(flow)
    assert flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, "later").wish == r.WISH_CANCEL
    for _ in range(2):
        lease = flow.take(resumes=True).lease
        assert lease.pulse.wish == r.WISH_CANCEL
        flow.ledger.release(lease)
    lease = flow.take().lease
    ending = dataclasses.replace(REVERTED, heeds_cancel=False)
    assert flow.ledger.commit(lease, flow.changes(flow_state=states.REVERTED), ending).has_ended
    assert (flow.record().state, flow.record().wish) == (states.REVERTED, r.WISH_CANCEL)
    assert not cancel(flow).is_new
    assert flow.take(may_rerun=True).lease.pulse.wish is None


def test_end_that_heeds_a_cancel_goes_on(flow: Flow) -> None:
    lease = flow.take().lease
    cancel(flow)
    done = flow.ledger.commit(
        lease, flow.changes(), dataclasses.replace(SUCCEEDS, heeds_cancel=True)
    )
    assert (done.has_ended, done.pulse.wish) == (False, r.WISH_CANCEL)


def test_suspended_flow_can_be_cancelled(flow: Flow) -> None:
    flow.park()
    flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, None)
    assert cancel(flow).must_ring
    flow.take()


def test_cancel_of_a_flow_that_is_over_or_unknown(flow: Flow) -> None:
    assert flow.other.cancel(flow.uuid, "enough", rings=True) is None
    flow.ledger.commit(flow.take().lease, flow.changes(), SUCCEEDS)
    before = flow.snapshot()
    assert not cancel(flow).is_new
    assert flow.snapshot() == before


def wait_in_revert(flow: Flow, **asked: Any) -> None:
    """Cancel a flow, and have its task wait in ``revert``."""
    flow.park()
    cancel(flow)
    lease = flow.take().lease
    ending = dataclasses.replace(PARKS, heeds_cancel=False)
    assert flow.ledger.commit(lease, flow.opening(kind=REVERT, **asked), ending).has_ended


def test_compensation_of_a_cancelled_flow_can_be_answered(flow: Flow) -> None:
    wait_in_revert(flow)
    assert beat(flow, kind=REVERT) == r.Beat(is_wanted=True)
    assert flow.disposition(kind=EXECUTE) is Disposition.LATE
    told = flow.deliver("undone", kind=REVERT)
    assert (told.items[0].disposition, told.must_ring) == (Disposition.ACCEPTED, True)
    assert [d.key for d in flow.take().arrivals] == [flow.key(kind=REVERT)]


def test_cancelled_flow_whose_compensation_waits_is_not_looked_at_in_vain(
    flow: Flow, store: Store
) -> None:
    wait_in_revert(flow, timeout_seconds=1000.0)
    store.set_clock(999)
    assert not due(flow)
    store.set_clock(1001)
    assert tend(flow).wants_owner
    assert flow.delay(kind=REVERT).outcome.kind == outcome.TIMEOUT


def test_second_cancel_leaves_compensations_alone(flow: Flow) -> None:
    wait_in_revert(flow)
    assert not cancel(flow).is_new
    assert flow.delay(kind=REVERT).is_open


def test_cancel_leaves_compensations_that_wait_already(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening(kind=REVERT), PARKS)
    assert cancel(flow).is_new
    assert flow.delay(kind=REVERT).is_open
    assert flow.disposition(kind=REVERT) is Disposition.ACCEPTED


def test_cancelled_flow_that_was_interrupted_is_looked_at_again(flow: Flow, store: Store) -> None:
    lease = flow.take().lease
    cancel(flow)
    assert flow.ledger.commit(lease, flow.changes(), RESTS).has_ended
    store.set_clock(61)
    assert tend(flow).wants_owner


# -- upgrading -------------------------------------------------------------

NEW_COLUMNS = {
    "lazy_flows": ("rings", "check_at"),
    "lazy_delays": (
        "terms",
        "timeout_at",
        "heartbeat_at",
        "probe_at",
        "due_at",
        "alerted_at",
        "probe_state",
        "progress",
        "progress_details",
        "traceparent",
    ),
}


def _become_version_1(url: str) -> None:
    """Take away what version 2 of the tables added."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for index in ("lazy_flows_check", "lazy_delays_due"):
            connection.execute(sa.text(f"DROP INDEX {index}"))
        for table, columns in NEW_COLUMNS.items():
            for column in columns:
                connection.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(
            sa.text("UPDATE lazy_facts SET value = '1' WHERE name = 'schema_version'")
        )
    engine.dispose()


@contextlib.contextmanager
def _reopened(url: str) -> Any:
    backend = backends.fetch({"connection": url})
    with contextlib.closing(backend), contextlib.closing(ledger.beside(backend)) as opened:
        yield Store("reopened", url, backend, opened, opened)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_tables_of_version_1_are_upgraded_with_all_that_is_in_them(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    backend = open_backend(url)
    with contextlib.closing(backend), contextlib.closing(ledger.beside(backend)) as first:
        store = Store(kind, url, backend, first, first)
        parked, answered, owned, ended = (make_flow(store) for _ in range(4))
        parked.park()
        answered.park()
        answered.deliver()
        owned.take(seconds=0.001)
        ended.ledger.commit(ended.take().lease, ended.changes(), SUCCEEDS)
    _become_version_1(url)
    with _reopened(url) as store:
        for flow in (parked, answered, owned, ended):
            flow.ledger = flow.other = store.ledger
        found = sa.inspect(store.ledger._transactor.engine)
        for table, columns in NEW_COLUMNS.items():
            assert set(columns) <= {column["name"] for column in found.get_columns(table)}
            assert found.get_indexes(table)
        assert parked.delay().is_open
        assert {answered.uuid, owned.uuid} == set(store.ledger.due(100)), (
            "the flows that may want an owner, and no others"
        )
        assert tend(answered).wants_owner
        parked.take()
        later = make_flow(store)
        later.park(timeout_seconds=60.0)
        store.set_clock(61)
        assert later.uuid in store.ledger.due(100)
    with _reopened(url) as store:  # a second time there is nothing to do
        facts = store.ledger._tables.facts
        version = store.ledger._transactor.read(
            lambda c: c.execute(
                sa.select(facts.c.value).where(facts.c.name == "schema_version")
            ).scalar_one()
        )
        assert version == str(VERSION)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_version_1_is_upgraded_by_several_at_once(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    backend = open_backend(url)
    with contextlib.closing(backend), contextlib.closing(ledger.beside(backend)):
        pass
    _become_version_1(url)

    def open_one() -> int:
        with _reopened(url) as store:
            return int(store.ledger.now())

    assert all(at_once(*[open_one] * 3))
