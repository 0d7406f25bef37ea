# SPDX-License-Identifier: Apache-2.0
"""The desk: deliveries to one flow, received one after the other."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from taskflow import states

from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import (
    META_ATTEMPTS,
    Desk,
    next_incident,
    note_incident,
    stored_attempt,
)
from lazy_engine.outcome import Result, encode_json
from lazy_engine.receipt import Disposition
from lazy_engine.token import EXECUTE, REVERT, DelayKey

NOW = 5_000


def key(attempt: int = 1, kind: str = EXECUTE) -> DelayKey:
    return DelayKey(flow_uuid="f", atom_uuid="a", kind=kind, attempt=attempt)


def delivery(
    value: Any = "x", *, of: DelayKey | None = None, named: str | None = None
) -> r.Delivery:
    return r.Delivery(
        key=of or key(),
        outcome=encode_json(Result(value), max_bytes=1000),
        delivery_id=named or str(uuid.uuid4()),
    )


def opened(attempt: int = 1, **values: Any) -> r.DelayRecord:
    return r.DelayRecord(key=key(attempt), task_name="t", opened_at=1, **values)


def make_desk(
    *delays: r.DelayRecord, state: str = DELAYED, atom: str = DELAYED, **flow: Any
) -> Desk:
    record = r.FlowRecord(flow_uuid="f", flow_name="flow", state=state, **flow)
    desk = Desk(record, NOW, 7)
    desk.put_delays(delays)
    desk.put_atoms({"a": ("t", atom, {META_ATTEMPTS: {EXECUTE: 1}})})
    return desk


def test_accepted_outcome_is_noted_with_time_and_number() -> None:
    desk = make_desk(opened())
    told = desk.receive(delivery(named="me"))
    assert told == r.Delivered(disposition=Disposition.ACCEPTED, task_name="t")
    noted = desk.arrived[key()]
    assert (noted.arrived_at, noted.arrival_number, noted.delivery_id) == (NOW, 7, "me")
    assert noted.opened_at == 1
    assert desk.calls_for_owner
    assert desk.late == {}


def test_what_came_earlier_in_the_same_call_counts() -> None:
    desk = make_desk(opened())
    told = [desk.receive(delivery(value)) for value in ("x", "x", "y")]
    assert [t.disposition for t in told] == [
        Disposition.ACCEPTED,
        Disposition.DUPLICATE,
        Disposition.CONFLICT,
    ]
    assert len(desk.arrived) == 1


def test_numbers_rise_by_one_for_each_recorded_outcome() -> None:
    desk = make_desk(opened(1), opened(2))
    for value in (delivery(of=key(1)), delivery(of=key(1)), delivery(of=key(2))):
        desk.receive(value)
    assert [found.arrival_number for found in desk.arrived.values()] == [7, 8]


def test_early_outcome_makes_a_record_that_is_not_opened() -> None:
    desk = make_desk(atom=states.RUNNING)
    assert desk.receive(delivery()).disposition is Disposition.EARLY
    noted = desk.arrived[key()]
    assert (noted.opened_at, noted.task_name, noted.is_open) == (None, "t", False)


def test_late_outcome_is_kept_once_and_calls_nobody() -> None:
    desk = make_desk(opened(closed_at=2, close_reason="cancelled"))
    assert desk.receive(delivery("first")).disposition is Disposition.LATE
    assert desk.receive(delivery("second")).disposition is Disposition.LATE
    kept = desk.late[key()]
    assert kept.late == delivery("first").outcome
    assert (kept.outcome, kept.late_at, kept.close_reason) == (None, NOW, "cancelled")
    assert desk.arrived == {}
    assert not desk.calls_for_owner


def test_late_outcome_without_a_record_makes_a_closed_one() -> None:
    desk = make_desk(atom=states.SUCCESS)
    assert desk.receive(delivery()).disposition is Disposition.LATE
    assert desk.late[key()].closed_at == NOW
    assert not desk.late[key()].is_open


def test_everything_is_late_for_a_flow_that_is_over() -> None:
    desk = make_desk(opened(), state=states.REVERTED)
    assert desk.receive(delivery()).disposition is Disposition.LATE
    assert not desk.calls_for_owner


def test_duplicate_of_an_outcome_that_nobody_absorbed_calls_for_an_owner() -> None:
    outcome = delivery().outcome
    desk = make_desk(opened(outcome=outcome, arrival_number=1))
    assert desk.receive(delivery()).disposition is Disposition.DUPLICATE
    assert desk.calls_for_owner
    desk = make_desk(opened(outcome=outcome, arrival_number=1, absorbed_at=2))
    assert desk.receive(delivery()).disposition is Disposition.DUPLICATE
    assert not desk.calls_for_owner


def test_the_same_call_again_is_told_what_it_was_told() -> None:
    mine = delivery(named="me")
    kept = opened(outcome=mine.outcome, delivery_id="me", arrived_at=NOW - 1)
    assert make_desk(kept).receive(mine).disposition is Disposition.ACCEPTED
    early = r.DelayRecord(key=key(), task_name="t", outcome=mine.outcome, delivery_id="me")
    assert make_desk(early).receive(mine).disposition is Disposition.EARLY


def test_ring_that_the_same_call_noted_in_vain_does_not_count() -> None:
    mine = delivery(named="me")
    kept = opened(outcome=mine.outcome, delivery_id="me", arrived_at=NOW - 1)
    desk = make_desk(kept, rung_at=NOW - 1)
    desk.receive(mine)
    assert desk.flow.rung_at is None
    desk = make_desk(kept, rung_at=NOW - 2)
    desk.receive(mine)
    assert desk.flow.rung_at == NOW - 2, "somebody else's ring"


def test_unknown_atom_has_no_name() -> None:
    desk = make_desk()
    stranger = DelayKey(flow_uuid="f", atom_uuid="gone", kind=EXECUTE, attempt=1)
    assert desk.receive(delivery(of=stranger)).task_name == ""


def test_attempts_are_counted_by_kind() -> None:
    meta = {META_ATTEMPTS: {EXECUTE: 3}}
    assert stored_attempt(meta, EXECUTE) == 3
    assert stored_attempt(meta, REVERT) == 0
    assert stored_attempt({}, EXECUTE) == 0
    assert stored_attempt({META_ATTEMPTS: None}, EXECUTE) == 0


def test_incidents_are_counted_from_the_first() -> None:
    first = next_incident(None, "no factory", "m" * 5000, 10)
    assert first == {
        "kind": "no factory",
        "message": "m" * 2000,
        "first_at": 10,
        "last_at": 10,
        "count": 1,
        "next_try_at": None,
    }
    second = next_incident(first, "other", "m", 20)
    assert (second["first_at"], second["last_at"], second["count"]) == (10, 20, 2)
    assert second["next_try_at"] == 20 + 20_000_000


def parked(**values: Any) -> r.FlowRecord:
    return r.FlowRecord(flow_uuid="f", flow_name="flow", state=DELAYED, has_factory=True, **values)


def test_incident_says_when_the_flow_is_looked_at_again_and_answers_the_doorbell() -> None:
    noted = note_incident(parked(rung_at=5), "factory failed", "m", 10)
    assert noted.incident is not None
    assert noted.check_at == noted.incident["next_try_at"] == 10 + 10_000_000
    assert (noted.rung_at, noted.changed_at) == (None, 10)


def test_incident_of_a_flow_that_is_over_is_none() -> None:
    over = parked(rung_at=5, owner=None)
    over = dataclasses.replace(over, state="SUCCESS")
    assert note_incident(over, "factory failed", "m", 10) is over


def test_incident_of_its_owner_gives_the_flow_up() -> None:
    lease = r.Lease(
        flow_uuid="f",
        owner="me",
        epoch=3,
        commit_number=1,
        created_at=0,
        changed_at=0,
        seconds=30,
        key_id="k",
        pulse=r.Pulse(wish=None, arrival_number=0),
    )
    mine = parked(owner="me", epoch=3, lease_expires_at=99)
    noted = note_incident(mine, "code changed", "m", 10, lease)
    assert (noted.owner, noted.lease_expires_at, noted.check_at) == (None, None, 10_000_010)
    for others in (parked(owner="me", epoch=4), parked(owner="you", epoch=3)):
        assert note_incident(others, "code changed", "m", 10, lease) is others


def test_incident_elsewhere_does_not_disturb_a_living_owner() -> None:
    owned = parked(owner="me", lease_expires_at=99, rung_at=5, check_at=99)
    noted = note_incident(owned, "factory failed", "m", 10)
    assert noted.incident is not None
    assert (noted.owner, noted.rung_at, noted.check_at) == ("me", 5, 99)
