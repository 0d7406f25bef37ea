# SPDX-License-Identifier: Apache-2.0
"""What timers do when they are due; no clock runs here."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from lazy_engine import outcome, terms
from lazy_engine.ledger.record import DelayOpening, DelayRecord, FlowRecord
from lazy_engine.terms import ALERT, DEFAULT, Terms, Timers
from lazy_engine.token import EXECUTE, DelayKey

OPENED = 1_000_000_000
SECOND = 1_000_000


def key(atom_uuid: str = "a") -> DelayKey:
    return DelayKey(flow_uuid="f", atom_uuid=atom_uuid, kind=EXECUTE, attempt=1)


def opened(atom_uuid: str = "a", **asked: Any) -> DelayRecord:
    opening = DelayOpening(key=key(atom_uuid), task_name="t", terms=Terms(**asked))
    return opening.open(OPENED)


def fire(record: DelayRecord, after_seconds: float) -> terms.Fired | None:
    return terms.fire(record, OPENED + int(after_seconds * SECOND), delivery_id="d")


ASKED = [
    {},
    {"timeout_seconds": 5.0},
    {"until": 0},
    {"heartbeat_seconds": 0.5, "probe_seconds": 2.0},
    {"timeout_seconds": 0.0, "on_timeout": DEFAULT, "default_text": "[1]"},
    {"on_timeout": ALERT, "timeout_seconds": 1.0},
]


@pytest.mark.parametrize("asked", ASKED)
def test_terms_survive_being_stored(asked: dict[str, Any]) -> None:
    wanted = Terms(**asked)
    text = wanted.to_text()
    assert Terms.from_text(text) == wanted
    assert (text is None) is (not asked)
    if text is not None:
        assert json.loads(text) == asked, "only what differs from the defaults is stored"


@pytest.mark.parametrize(
    ("timers", "due_at"),
    [
        (Timers(), None),
        (Timers(timeout_at=3, heartbeat_at=2, probe_at=1), 1),
        (Timers(timeout_at=3, heartbeat_at=2), 2),
        (Timers(timeout_at=0, heartbeat_at=2), 0),
        (Timers(timeout_at=-5, probe_at=1), -5),
    ],
)
def test_delay_is_due_with_its_earliest_timer(timers: Timers, due_at: int | None) -> None:
    assert timers.due_at == due_at


def test_timers_start_with_the_opening() -> None:
    record = opened(timeout_seconds=5.0, heartbeat_seconds=3.0, probe_seconds=1.5)
    assert record.timers == Timers(
        timeout_at=OPENED + 5 * SECOND,
        heartbeat_at=OPENED + 3 * SECOND,
        probe_at=OPENED + 1_500_000,
    )
    assert opened(until=7, timeout_seconds=5.0).timers.timeout_at == 7


def test_timer_fires_at_its_very_instant_and_not_before() -> None:
    record = opened(timeout_seconds=5.0)
    assert terms.fire(record, OPENED + 5 * SECOND - 1, delivery_id="d") is None
    fired = terms.fire(record, OPENED + 5 * SECOND, delivery_id="d")
    assert fired is not None
    assert fired.has_outcome
    assert fired.record.outcome is not None
    assert fired.record.outcome.kind == outcome.TIMEOUT
    assert (fired.record.delivery_id, fired.record.due_at) == ("d", None)
    assert fired.record.arrived_at == OPENED + 5 * SECOND


@pytest.mark.parametrize(
    "changes",
    [
        {"opened_at": None},
        {"closed_at": 1},
        {"outcome": outcome.Encoded("result", "1", "x")},
        {"due_at": None},
    ],
)
def test_delay_that_does_not_wait_has_no_timers(changes: dict[str, Any]) -> None:
    record = dataclasses.replace(opened(timeout_seconds=5.0), **changes)
    assert fire(record, 10) is None


def test_default_is_the_result_whichever_timer_is_due() -> None:
    asked = {"on_timeout": DEFAULT, "default_text": '{"a":1}'}
    for timer in ("timeout_seconds", "heartbeat_seconds"):
        fired = fire(opened(**asked, **{timer: 5.0}), 5)
        assert fired is not None
        assert fired.record.outcome is not None
        assert fired.record.outcome.kind == outcome.DEFAULT
        assert terms.default_of(fired.record.outcome) == {"a": 1}
        assert fired.record.outcome.is_by_timer


def test_deadline_and_silence_are_told_apart() -> None:
    both = opened(timeout_seconds=5.0, heartbeat_seconds=3.0)
    for seconds, timer in ((3, "heartbeat"), (5, "deadline")):
        fired = fire(both, seconds)
        assert fired is not None
        assert fired.record.outcome is not None
        value = json.loads(fired.record.outcome.body)
        assert value["timer"] == timer
        assert "task 't' timed out" in value["message"]


def test_heartbeat_moves_its_own_timer_alone() -> None:
    record = opened(timeout_seconds=5.0, heartbeat_seconds=3.0)
    beaten = terms.beat(record, OPENED + SECOND)
    assert beaten.timers.heartbeat_at == OPENED + 4 * SECOND
    assert beaten.timers.timeout_at == record.timers.timeout_at
    assert beaten.due_at == OPENED + 4 * SECOND
    assert terms.beat(opened(timeout_seconds=5.0), OPENED).timers.heartbeat_at is None


def test_alert_mutes_the_timer_and_leaves_the_others() -> None:
    record = opened(on_timeout=ALERT, timeout_seconds=5.0, heartbeat_seconds=3.0)
    first = fire(record, 3)
    assert first is not None
    assert (first.is_alert, first.has_outcome) == (True, False)
    assert first.record.is_open
    assert first.record.due_at == record.timers.timeout_at
    second = fire(first.record, 5)
    assert second is not None
    assert second.is_alert
    assert second.record.due_at is None
    again = terms.beat(second.record, OPENED + 6 * SECOND)
    assert again.due_at == OPENED + 9 * SECOND, "a worker that is back is watched again"


def test_due_probe_asks_for_an_owner_and_stays_due() -> None:
    fired = fire(opened(probe_seconds=2.0), 2)
    assert fired is not None
    assert (fired.wants_probe, fired.has_outcome, fired.is_alert) == (True, False, False)
    assert fired.record.timers.probe_at == OPENED + 2 * SECOND
    assert fired.record.due_at == OPENED + 2 * SECOND + int(terms.PROBE_RING_SECONDS * SECOND)
    assert fire(fired.record, 3) is None
    assert fire(fired.record, 2 + terms.PROBE_RING_SECONDS) is not None


def test_probe_under_way_hides_no_deadline() -> None:
    fired = fire(opened(probe_seconds=2.0, timeout_seconds=5.0), 2)
    assert fired is not None
    assert fired.record.due_at == OPENED + 5 * SECOND


def test_probe_in_vain_comes_again_with_what_it_left() -> None:
    record = opened(probe_seconds=2.0, timeout_seconds=50.0)
    probed = terms.probed(record, OPENED + 3 * SECOND, '{"n":1}')
    assert probed.timers.probe_at == probed.due_at == OPENED + 5 * SECOND
    assert probed.probe_state_text == '{"n":1}'


def test_outcomes_of_one_round_are_numbered_in_order() -> None:
    flow = FlowRecord(flow_uuid="f", flow_name="flow", arrival_number=7)
    delays = [
        opened("a", timeout_seconds=1.0),
        opened("b", timeout_seconds=99.0),
        opened("c", timeout_seconds=1.0, on_timeout=ALERT),
        opened("d", heartbeat_seconds=1.0),
    ]
    after, fired = terms.fire_all(delays, flow, OPENED + 2 * SECOND)
    assert [done.record.key.atom_uuid for done in fired] == ["a", "c", "d"]
    assert [done.record.arrival_number for done in fired] == [8, None, 9]
    assert after.arrival_number == 9
    assert terms.fire_all(delays, flow, OPENED) == (flow, [])
