# SPDX-License-Identifier: Apache-2.0
"""Pages of lists, and counts of what is in a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from lazy_engine.ledger.record.delay import DelayRecord
from lazy_engine.ledger.record.flow import FlowRecord

#: Orders in which open delays are listed: oldest first, and those first for which
#: something is due soonest; the latter leaves out what no timer waits for.
BY_AGE: Final = "age"
BY_DUE: Final = "due"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which open delays to list: those after *after*, in the order that is asked for.

    :ivar due_before: only those whose deadline is before that instant.
    :ivar order: :data:`BY_AGE` or :data:`BY_DUE`.
    """

    flow_uuid: str | None = None
    task_name: str | None = None
    due_before: int | None = None
    after: tuple[int, str, str, str, int] | None = None
    limit: int = 100
    order: str = BY_AGE


def place_of(record: DelayRecord, order: str = BY_AGE) -> tuple[int, str, str, str, int]:
    """Return where a delay stands in the order in which delays are listed."""
    key = record.key
    at = record.opened_at if order == BY_AGE else record.due_at
    return (at or 0, key.flow_uuid, key.atom_uuid, key.kind, key.attempt)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowPage:
    """Which flows to list: those after *after*, with incidents first, then the newest.

    :ivar state: only those that are in this state, as it is lived.
    :ivar only_incidents: only those that could not be run.
    """

    state: str | None = None
    only_incidents: bool = False
    after: tuple[bool, int, str] | None = None
    limit: int = 100

    def has(self, flow: FlowRecord, lived_state: str) -> bool:
        """Whether a flow is one of them, where a page is not full."""
        return (
            self.state in (None, lived_state)
            and (flow.incident is not None or not self.only_incidents)
            and (self.after is None or place_of_flow(flow) > self.after)
        )


def place_of_flow(flow: FlowRecord) -> tuple[bool, int, str]:
    """Return where a flow stands in the order in which flows are listed."""
    return (flow.incident is None, -flow.created_at, flow.flow_uuid)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenCount:
    """How many delays of one task wait, and since when.

    :ivar task_name: ``None`` for all tasks that have no count of their own.
    :ivar by_age: how many in each age class, the youngest first.
    :ivar oldest_at: when the first of them was opened.
    """

    task_name: str | None
    by_age: tuple[int, ...]
    oldest_at: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How much waits in a store.

    :ivar now: the store's time at which it was taken.
    :ivar incidents: flows that could not be run.
    :ivar lag_seconds: for how long the watchdogs have left undone what is due first.
    :ivar answered: flows with outcomes that their tasks do not have yet, which were called
        for and which nobody runs.
    :ivar answered_at: when the first of these outcomes arrived, or ``None``.
    """

    now: int
    open: Sequence[OpenCount]
    incidents: int
    lag_seconds: float
    answered: int
    answered_at: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many there are of what, each counted up to a limit.

    :ivar states: flows by their state, as it is lived; states that no flow is
        in are left out.
    :ivar at_least: states of which there may be more than were counted.
    :ivar incidents: flows that could not be run.
    :ivar waiting: open delays.
    """

    states: Mapping[str, int]
    at_least: frozenset[str]
    incidents: int
    waiting: int
