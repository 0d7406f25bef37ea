# SPDX-License-Identifier: Apache-2.0
"""The rules between owners, deliverers and rings, case by case."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from taskflow import exceptions, states

from lazy_engine import rules
from lazy_engine.delay import DELAYED
from lazy_engine.ledger.record import (
    WISH_CANCEL,
    WISH_SUSPEND,
    DelayRecord,
    Ending,
    FlowRecord,
)
from lazy_engine.outcome import Encoded
from lazy_engine.receipt import Disposition
from lazy_engine.token import EXECUTE, REVERT, DelayKey

NOW = 1_000_000_000
KEY = DelayKey(flow_uuid="f", atom_uuid="a", kind=EXECUTE, attempt=1)


def flow(**values: Any) -> FlowRecord:
    wanted: dict[str, Any] = {"state": DELAYED, "has_factory": True, **values}
    return FlowRecord(flow_uuid="f", flow_name="flow", **wanted)


def delay(digest: str | None = None, **values: Any) -> DelayRecord:
    outcome = Encoded("result", "1", digest) if digest else None
    return DelayRecord(key=KEY, task_name="t", outcome=outcome, **values)


def judge(found: DelayRecord | None, *, is_over: bool = False, attempt_over: bool = False) -> Any:
    return rules.judge(found, digest="this", takes_none=is_over, attempt_is_over=attempt_over)


@pytest.mark.parametrize(
    ("expected", "values"),
    [
        (False, {"check_at": None}),
        (True, {"check_at": NOW - 1}),
        (True, {"check_at": NOW + 1, "rung_at": NOW}),
        (False, {"check_at": NOW + 1, "owner": "o", "lease_expires_at": NOW + 1}),
        (True, {"check_at": NOW, "owner": "o", "lease_expires_at": NOW}),
        (False, {"check_at": NOW, "wish": WISH_SUSPEND}),
        (True, {"check_at": NOW, "wish": WISH_CANCEL}),
        (False, {"check_at": NOW, "incident": {"next_try_at": NOW - 1}}),
        (False, {"check_at": NOW, "state": states.SUCCESS}),
    ],
)
def test_flow_is_called_until_somebody_has_it(expected: bool, values: dict[str, Any]) -> None:
    assert rules.is_called(flow(**values), NOW) is expected


@pytest.mark.parametrize(
    ("found", "over", "attempt_over", "expected"),
    [
        (None, False, False, Disposition.EARLY),
        (None, False, True, Disposition.LATE),
        (None, True, False, Disposition.LATE),
        (delay(), False, False, Disposition.EARLY),
        (delay(opened_at=1), False, False, Disposition.ACCEPTED),
        (delay(opened_at=1), False, True, Disposition.ACCEPTED),
        (delay(opened_at=1), True, False, Disposition.LATE),
        (delay(opened_at=1, closed_at=2), False, False, Disposition.LATE),
        (delay("this", opened_at=1), False, False, Disposition.DUPLICATE),
        (delay("this"), False, False, Disposition.DUPLICATE),
        (delay("this", opened_at=1, closed_at=2), True, True, Disposition.DUPLICATE),
        (delay("that", opened_at=1, closed_at=2), False, False, Disposition.LATE),
        (delay("that", opened_at=1), True, False, Disposition.LATE),
        (delay("that", opened_at=1), False, False, Disposition.CONFLICT),
        (delay("that", opened_at=1, absorbed_at=2), False, False, Disposition.CONFLICT),
        (delay("that"), False, False, Disposition.CONFLICT),
    ],
)
def test_outcome_is_judged_in_order_of_precedence(
    found: Any, over: bool, attempt_over: bool, expected: Disposition
) -> None:
    assert judge(found, is_over=over, attempt_over=attempt_over) is expected


def test_only_early_and_accepted_are_recorded() -> None:
    assert {d for d in Disposition if rules.records(d)} == {
        Disposition.EARLY,
        Disposition.ACCEPTED,
    }


def test_dispositions_stand_in_their_order_of_precedence() -> None:
    assert [d.name for d in Disposition] == ["DUPLICATE", "LATE", "CONFLICT", "EARLY", "ACCEPTED"]


def test_recorded_outcome_is_never_recorded_over() -> None:
    for digest, opened, closed, over, attempt_over in itertools.product(
        ("this", "that"), (None, 1), (None, 2), (False, True), (False, True)
    ):
        found = delay(digest, opened_at=opened, closed_at=closed)
        assert not rules.records(judge(found, is_over=over, attempt_over=attempt_over))


@pytest.mark.parametrize(
    ("attempt", "stored", "state", "is_over"),
    [
        (1, 0, states.PENDING, False),
        (1, 1, states.RUNNING, False),
        (1, 1, states.REVERTING, False),
        (1, 1, DELAYED, False),
        (1, 1, states.SUCCESS, True),
        (1, 1, states.FAILURE, True),
        (1, 1, states.PENDING, True),
        (1, 2, states.RUNNING, True),
        (1, 2, DELAYED, True),
        (2, 1, states.FAILURE, False),
        (2, 1, states.SUCCESS, False),
        (1, 0, None, False),
    ],
)
def test_attempt_is_over(attempt: int, stored: int, state: str | None, is_over: bool) -> None:
    assert (
        rules.attempt_is_over(
            attempt,
            stored_attempt=stored,
            stored_state=state,
            stored_is_delayed=state == DELAYED,
        )
        is is_over
    )


def test_lease_ends_at_its_expiry() -> None:
    owned = flow(owner="me", lease_expires_at=NOW)
    assert rules.has_owner(owned, NOW - 1)
    assert not rules.has_owner(owned, NOW)
    assert not rules.has_owner(flow(owner=None, lease_expires_at=NOW + 1), NOW)


def test_ring_is_fresh_for_a_minute() -> None:
    rung = flow(rung_at=NOW)
    assert rules.is_rung(rung, NOW)
    assert rules.is_rung(rung, NOW + 60_000_000 - 1)
    assert not rules.is_rung(rung, NOW + 60_000_000)
    assert not rules.is_rung(flow(), NOW)


def test_ring_from_a_clock_that_is_far_ahead_does_not_silence_the_bell() -> None:
    assert rules.is_rung(flow(rung_at=NOW + 60_000_000 - 1), NOW)
    assert not rules.is_rung(flow(rung_at=NOW + 60_000_000), NOW)


def test_parked_flow_may_be_rung_for() -> None:
    assert rules.may_ring(flow(), NOW)
    assert rules.may_ring(flow(owner="dead", lease_expires_at=NOW), NOW)
    assert rules.may_ring(flow(rung_at=NOW - 60_000_000), NOW)


@pytest.mark.parametrize(
    "values",
    [
        {"owner": "me", "lease_expires_at": NOW + 1},
        {"rung_at": NOW - 1},
        {"wish": WISH_SUSPEND},
        {"state": states.SUCCESS},
        {"state": states.REVERTED},
        {"state": states.FAILURE},
        {"has_factory": False},
    ],
)
def test_nobody_rings_in_vain(values: dict[str, Any]) -> None:
    assert not rules.may_ring(flow(**values), NOW)


@pytest.mark.parametrize(
    ("incident", "rests"),
    [(None, False), ({"next_try_at": None}, True), ({"next_try_at": NOW}, False)],
)
def test_flow_rests_after_an_incident(incident: Any, rests: bool) -> None:
    assert rules.rests(flow(incident=incident), NOW) is rests
    assert rules.may_ring(flow(incident=incident), NOW) is not rests
    assert rules.rests(flow(incident={"next_try_at": NOW + 1}), NOW)


@pytest.mark.parametrize("next_try_at", [None, NOW + 5])
def test_watchdog_leaves_a_flow_alone_that_rests(next_try_at: int | None) -> None:
    resting = flow(incident={"next_try_at": next_try_at}, check_at=NOW)
    after, wants_owner = rules.tend(resting, NOW, has_news=True, rings=True)
    assert not wants_owner
    assert (after.check_at, after.rung_at) == (next_try_at, None)


def test_watchdog_rings_for_a_flow_that_is_due_to_be_tried_again() -> None:
    due = flow(incident={"next_try_at": NOW}, check_at=NOW)
    after, wants_owner = rules.tend(due, NOW, has_news=False, rings=True)
    assert wants_owner
    assert after.rung_at == NOW


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({}, DELAYED),
        ({"owner": "me", "lease_expires_at": NOW + 1}, states.RUNNING),
        ({"owner": "me", "lease_expires_at": NOW}, DELAYED),
        ({"wish": WISH_SUSPEND}, states.SUSPENDED),
        ({"wish": WISH_SUSPEND, "owner": "me", "lease_expires_at": NOW + 1}, states.RUNNING),
        ({"state": states.SUCCESS, "wish": WISH_SUSPEND}, states.SUCCESS),
        ({"state": states.RUNNING}, states.RUNNING),
    ],
)
def test_flow_is_lived_as(values: dict[str, Any], state: str) -> None:
    assert rules.lived_state(flow(**values), NOW) == state


@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        (states.RUNNING, DELAYED, True),
        (states.SUSPENDING, DELAYED, True),
        (DELAYED, states.RUNNING, True),
        (DELAYED, states.SUSPENDED, False),
        (DELAYED, states.RESUMING, False),
        (states.RUNNING, states.SUCCESS, True),
        (states.PENDING, states.RUNNING, True),
    ],
)
def test_flow_moves(old: str, new: str, moves: bool) -> None:
    assert rules.moves(old, new) is moves


@pytest.mark.parametrize("pair", [(DELAYED, states.SUCCESS), (states.SUCCESS, DELAYED)])
def test_flow_does_not_move_where_nobody_allows_it(pair: tuple[str, str]) -> None:
    with pytest.raises(exceptions.InvalidState):
        rules.moves(*pair)


def test_final_states_are_taskflows() -> None:
    assert {states.SUCCESS, states.FAILURE, states.REVERTED} == rules.FINAL_STATES


# -- time ------------------------------------------------------------------

MINUTE = 60_000_000
PARKS = Ending(state=DELAYED, is_final=False, absorbs=True, heeds_cancel=True)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ({}, EXECUTE, False),
        ({"wish": WISH_SUSPEND}, EXECUTE, False),
        ({"wish": WISH_CANCEL}, EXECUTE, True),
        ({"wish": WISH_CANCEL}, REVERT, False),
        ({"state": states.REVERTED, "wish": WISH_CANCEL}, REVERT, True),
        ({"state": states.SUCCESS}, EXECUTE, True),
    ],
)
def test_cancelled_flow_takes_answers_to_its_compensations_only(
    values: dict[str, Any], kind: str, expected: bool
) -> None:
    assert rules.takes_none(flow(**values), kind) is expected


def test_answer_after_a_timer_is_late_and_no_conflict() -> None:
    for kind in ("timeout", "default"):
        answered = dataclasses.replace(delay(opened_at=1), outcome=Encoded(kind, "1", "that"))
        assert judge(answered) is Disposition.LATE


def test_each_ring_in_vain_is_followed_later_up_to_an_hour() -> None:
    rung = flow()
    pauses = []
    for _ in range(9):
        rung = rules.ring(rung, NOW)
        pauses.append((rung.check_at - NOW) // MINUTE)  # type: ignore[operator]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert (rung.rung_at, rung.rings) == (NOW, 9)


def test_caller_that_can_ring_does_and_another_leaves_it_to_the_watchdog() -> None:
    called, must_ring = rules.call(flow(), NOW, rings=True)
    assert (called.rung_at, must_ring) == (NOW, True)
    called, must_ring = rules.call(flow(), NOW, rings=False)
    assert (called.rung_at, called.check_at, must_ring) == (None, NOW + MINUTE, False)
    sooner = flow(check_at=NOW + 5)
    assert rules.call(sooner, NOW, rings=False) == (sooner, False)


@pytest.mark.parametrize("rings", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        {"owner": "me", "lease_expires_at": NOW + 1},
        {"rung_at": NOW - 1},
        {"wish": WISH_SUSPEND},
        {"state": states.SUCCESS},
    ],
)
def test_nobody_is_called_in_vain(values: dict[str, Any], rings: bool) -> None:
    before = flow(**values)
    assert rules.call(before, NOW, rings=rings) == (before, False)


def test_flow_without_a_factory_is_left_to_whoever_has_it() -> None:
    before = flow(has_factory=False)
    assert rules.call(before, NOW, rings=True) == (before, False)
    assert rules.call(before, NOW, rings=False)[0].check_at == NOW + MINUTE


def test_ring_that_was_not_posted_does_not_count() -> None:
    before = flow(rings=3)
    after = rules.unring(rules.ring(before, NOW), NOW)
    assert (after.rung_at, after.rings, after.check_at) == (None, 3, NOW + MINUTE)
    assert rules.unring(before, NOW) == before


def test_flow_given_up_is_looked_at_the_later_the_more_often_it_failed() -> None:
    owned = flow(owner="me", lease_expires_at=NOW + 1, check_at=NOW + 1)
    assert rules.released(owned, NOW).check_at == NOW + MINUTE
    failed = dataclasses.replace(owned, incident={"count": 3})
    assert rules.released(failed, NOW).check_at == NOW + 8 * MINUTE
    often = dataclasses.replace(owned, incident={"count": 1000})
    assert rules.released(often, NOW).check_at == NOW + 60 * MINUTE
    assert rules.released(owned, NOW).owner is None


def test_run_goes_on_for_answers_and_for_a_cancel_it_has_not_heeded() -> None:
    cancelled = flow(wish=WISH_CANCEL)
    assert rules.keeps_running(PARKS, flow(), has_arrivals=True)
    assert not rules.keeps_running(PARKS, flow(), has_arrivals=False)
    assert rules.keeps_running(PARKS, cancelled, has_arrivals=False)
    heeded = dataclasses.replace(PARKS, heeds_cancel=False)
    assert not rules.keeps_running(heeded, cancelled, has_arrivals=False)
    rests = dataclasses.replace(PARKS, absorbs=False)
    assert not rules.keeps_running(rests, flow(), has_arrivals=True)


def test_parked_flow_is_not_looked_at_unless_it_was_cut_off_while_cancelling() -> None:
    owned = flow(owner="me", lease_expires_at=NOW + 1, check_at=NOW + 1, rings=2, rung_at=1)
    after = rules.parked(owned, PARKS, NOW, has_arrivals=False)
    assert (after.owner, after.check_at, after.rings, after.rung_at) == (None, None, 0, None)
    cancelled = dataclasses.replace(owned, wish=WISH_CANCEL)
    assert rules.parked(cancelled, PARKS, NOW, has_arrivals=False).check_at is None
    rests = dataclasses.replace(PARKS, state=states.SUSPENDED)
    assert rules.parked(cancelled, rests, NOW, has_arrivals=False).check_at == NOW + MINUTE
    over = dataclasses.replace(PARKS, state=states.REVERTED, is_final=True)
    ended = rules.parked(cancelled, over, NOW, has_arrivals=False)
    assert (ended.check_at, ended.ended_at, ended.wish) == (None, NOW, WISH_CANCEL)


def test_parked_flow_that_leaves_outcomes_behind_is_looked_at_unless_it_rests() -> None:
    owned = flow(owner="me", lease_expires_at=NOW + 1)
    rests = dataclasses.replace(PARKS, state=states.SUSPENDED)
    assert rules.parked(owned, rests, NOW, has_arrivals=True).check_at == NOW + MINUTE
    asked = dataclasses.replace(owned, wish=WISH_SUSPEND)
    assert rules.parked(asked, rests, NOW, has_arrivals=True).check_at is None


def tend(found: FlowRecord, *, has_news: bool = False, rings: bool = True) -> Any:
    return rules.tend(found, NOW, has_news=has_news, rings=rings)


def test_watchdog_leaves_alone_what_nobody_may_run() -> None:
    for values in (
        {"state": states.SUCCESS},
        {"wish": WISH_SUSPEND},
        {"has_factory": False},
    ):
        after, wants_owner = tend(flow(check_at=NOW, **values), has_news=True)
        assert (after.check_at, wants_owner) == (None, False)
    assert tend(flow(check_at=NOW, has_factory=False), rings=False)[1]


def test_watchdog_looks_again_when_a_living_owners_lease_ends() -> None:
    owned = flow(owner="me", lease_expires_at=NOW + 7, check_at=NOW)
    # Whatever is asked of it: lists find it by that.
    for asked in ({}, {"wish": WISH_SUSPEND}, {"has_factory": False}):
        after, wants_owner = tend(dataclasses.replace(owned, **asked), has_news=True)
        assert (after.check_at, wants_owner) == (NOW + 7, False)


def test_watchdog_rings_for_news_once() -> None:
    after, wants_owner = tend(flow(), has_news=True)
    assert (after.rung_at, wants_owner) == (NOW, True)
    assert tend(after, has_news=True) == (after, False), "a doorbell is under way"
    assert tend(flow()) == (flow(), False)


def test_watchdog_rings_for_what_is_due_though_it_was_rung_for() -> None:
    after, wants_owner = tend(flow(rung_at=NOW - 1, rings=1, check_at=NOW))
    assert (after.rung_at, after.rings, wants_owner) == (NOW, 2, True)
    assert after.check_at == NOW + 2 * MINUTE


def test_watchdog_that_cannot_ring_notes_no_ring() -> None:
    after, wants_owner = tend(flow(check_at=NOW), rings=False)
    assert (after.rung_at, wants_owner) == (None, True)
    assert after.check_at == NOW + MINUTE
