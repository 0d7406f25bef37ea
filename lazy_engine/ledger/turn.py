# SPDX-License-Identifier: Apache-2.0
"""What a turn of the machine does to a flow's delays; pure.

For ledgers that hold delays as records. The SQL ledger says the same in
statements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from lazy_engine.ledger import record as r
from lazy_engine.token import DelayKey


def apply(delays: dict[DelayKey, r.DelayRecord], changes: r.Changes, now: int) -> None:
    """Open, absorb and close delays as a commit says.

    :param delays: by key; must hold every record that *changes* concerns.
    """
    for opening in changes.opened:
        early = delays.get(opening.key) or r.DelayRecord(
            key=opening.key, task_name=opening.task_name
        )
        delays[opening.key] = dataclasses.replace(
            early, opened_at=now, details_text=opening.details_text
        )
    for key in changes.absorbed:
        delay = delays[key]
        delays[key] = dataclasses.replace(delay, absorbed_at=now, opened_at=delay.opened_at or now)
    for closing in changes.closed:
        for key, delay in delays.items():
            if reaches(closing, key) and delay.closed_at is None:
                delays[key] = dataclasses.replace(delay, closed_at=now, close_reason=closing.reason)


def reaches(closing: r.DelayClosing, key: DelayKey) -> bool:
    """Whether a closing is about that attempt."""
    return (key.atom_uuid, key.kind) == (
        closing.atom_uuid,
        closing.kind,
    ) and key.attempt <= closing.up_to_attempt


def close_all(delays: dict[DelayKey, r.DelayRecord], now: int) -> None:
    """Close every delay of a flow that is over."""
    for key, delay in delays.items():
        if delay.closed_at is None:
            delays[key] = dataclasses.replace(delay, closed_at=now, close_reason=r.CLOSED_ENDED)


def unabsorbed(delays: Iterable[r.DelayRecord], *, with_early: bool) -> list[r.DelayRecord]:
    """Return outcomes to absorb, oldest first.

    :param with_early: also those whose delay has not been opened.
    """
    found = [
        delay
        for delay in delays
        if delay.is_unabsorbed and (with_early or delay.opened_at is not None)
    ]
    return sorted(found, key=lambda delay: delay.arrival_number or 0)
