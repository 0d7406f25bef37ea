# SPDX-License-Identifier: Apache-2.0
"""What a turn does to delays that are held as records; stores prove the rest in the ledger's own suite."""

from __future__ import annotations

import pytest
from taskflow.persistence import models

from lazy_engine.ledger import record as r
from lazy_engine.ledger import turn
from lazy_engine.outcome import Encoded
from lazy_engine.token import EXECUTE, REVERT, DelayKey

NOW = 100


def key(attempt: int = 1, kind: str = EXECUTE, atom: str = "a") -> DelayKey:
    return DelayKey(flow_uuid="f", atom_uuid=atom, kind=kind, attempt=attempt)


def answered(name: DelayKey, number: int, opened_at: int | None = 1) -> r.DelayRecord:
    outcome = Encoded("result", "1", "digest")
    return r.DelayRecord(
        key=name, task_name="t", opened_at=opened_at, outcome=outcome, arrival_number=number
    )


def changes(**values: object) -> r.Changes:
    return r.Changes(flow=models.FlowDetail("flow", "f"), **values)  # type: ignore[arg-type]


def test_opening_keeps_an_early_outcome() -> None:
    delays = {key(): answered(key(), 1, opened_at=None)}
    opening = r.DelayOpening(key=key(), task_name="t", details_text="{}")
    turn.apply(delays, changes(opened=[opening]), NOW)
    assert (delays[key()].opened_at, delays[key()].details_text) == (NOW, "{}")
    assert delays[key()].is_unabsorbed


def test_absorbing_an_early_outcome_opens_its_delay() -> None:
    delays = {key(): answered(key(), 1, opened_at=None), key(2): answered(key(2), 2, opened_at=5)}
    turn.apply(delays, changes(absorbed=[key(), key(2)]), NOW)
    assert [(d.opened_at, d.absorbed_at) for d in delays.values()] == [(NOW, NOW), (5, NOW)]


@pytest.mark.parametrize(
    ("other", "is_reached"),
    [
        (key(1), True),
        (key(2), True),
        (key(3), False),
        (key(1, kind=REVERT), False),
        (key(1, atom="b"), False),
    ],
)
def test_closing_reaches_attempts_of_its_atom_up_to_one(other: DelayKey, is_reached: bool) -> None:
    closing = r.DelayClosing(atom_uuid="a", kind=EXECUTE, up_to_attempt=2, reason="retried")
    assert turn.reaches(closing, other) is is_reached
    delays = {other: r.DelayRecord(key=other, task_name="t", opened_at=1)}
    turn.apply(delays, changes(closed=[closing]), NOW)
    assert (delays[other].close_reason == "retried") is is_reached


def test_end_closes_what_is_not_closed_yet() -> None:
    delays = {
        key(1): r.DelayRecord(key=key(1), task_name="t", closed_at=5, close_reason="retried"),
        key(2): r.DelayRecord(key=key(2), task_name="t", opened_at=6),
    }
    turn.close_all(delays, NOW)
    assert [(d.closed_at, d.close_reason) for d in delays.values()] == [
        (5, "retried"),
        (NOW, r.CLOSED_ENDED),
    ]


def test_unabsorbed_outcomes_are_in_order_of_arrival() -> None:
    delays = [answered(key(1), 3), answered(key(2), 1), answered(key(3), 2, opened_at=None)]
    assert [d.key.attempt for d in turn.unabsorbed(delays, with_early=True)] == [2, 3, 1]
    assert [d.key.attempt for d in turn.unabsorbed(delays, with_early=False)] == [2, 1]
