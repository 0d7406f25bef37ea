# SPDX-License-Identifier: Apache-2.0
"""What a turn of the machine does to a flow's delays; pure.

For ledgers that hold delays as records. The SQL ledger says the same in
statements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from lazy_engine import terms
from lazy_engine.ledger import record as r
from lazy_engine.token import DelayKey


def apply(delays: dict[DelayKey, r.DelayRecord], changes: r.Changes, now: int) -> None:
    """Open, absorb, close and probe delays as a commit says.

    :param delays: by key; must hold every record that *changes* concerns.
    """
    for opening in changes.opened:
        opened = opening.open(now)
        early = delays.get(opening.key)
        delays[opening.key] = opened if early is None else opened.after(early)
    for key in changes.absorbed:
        delay = delays[key]
        delays[key] = dataclasses.replace(delay, absorbed_at=now, opened_at=delay.opened_at or now)
    close(delays, changes.closed, now)
    for probing in changes.probed:
        delay = delays[probing.key]
        if delay.is_open:
            delays[probing.key] = terms.probed(delay, now, probing.state_text)


def close(
    delays: dict[DelayKey, r.DelayRecord], closings: Iterable[r.DelayClosing], now: int
) -> None:
    """Close delays that are not closed yet."""
    for closing in closings:
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
