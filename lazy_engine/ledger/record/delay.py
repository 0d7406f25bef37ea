# SPDX-License-Identifier: Apache-2.0
"""A delay's record."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

from lazy_engine.outcome import Encoded
from lazy_engine.terms import NO_TIMERS, Terms, Timers
from lazy_engine.token import DelayKey

#: Why a delay was closed.
CLOSED_CANCELLED: Final = "cancelled"
CLOSED_RETRIED: Final = "retried"
CLOSED_ENDED: Final = "ended"
CLOSED_NOT_DELAYED: Final = "not delayed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DelayRecord:
    """One row of ``lazy_delays``.

    :ivar opened_at: when the task's ``Delay`` was committed; ``None`` for an
        outcome that came first.
    :ivar details_text: canonical JSON from ``Delay(details=…)``.
    :ivar arrival_number: order of arrival within the flow.
    :ivar delivery_id: names the call that recorded the outcome, so that this
        call knows its own work again after a lost connection.
    :ivar late: the first outcome that came too late, kept for inspection.
    :ivar terms_text: what the delay asks of the clock; see :class:`~lazy_engine.terms.Terms`.
    :ivar timers: when its timers are due; they mean nothing once it is not open.
    :ivar due_at: when the watchdog is to look at it, or ``None``.
    :ivar alerted_at: when its time was up and it was let wait on.
    :ivar probe_state_text: what the last probe left for the next one, as JSON.
    :ivar progress: what the last heartbeat said, between 0 and 1.
    :ivar progress_text: details of that heartbeat, as JSON.
    :ivar traceparent: the trace that it was opened in (W3C Trace Context), or ``None``.
    """

    key: DelayKey
    task_name: str
    opened_at: int | None = None
    details_text: str | None = None
    outcome: Encoded | None = None
    arrived_at: int | None = None
    arrival_number: int | None = None
    delivery_id: str | None = None
    absorbed_at: int | None = None
    closed_at: int | None = None
    close_reason: str | None = None
    late: Encoded | None = None
    late_at: int | None = None
    terms_text: str | None = None
    timers: Timers = NO_TIMERS
    due_at: int | None = None
    alerted_at: int | None = None
    probe_state_text: str | None = None
    progress: float | None = None
    progress_text: str | None = None
    traceparent: str | None = None

    @property
    def terms(self) -> Terms:
        """What the delay asks of the clock."""
        return Terms.from_text(self.terms_text)

    def after(self, early: DelayRecord) -> DelayRecord:
        """Return this delay, newly opened, with the outcome that came before it."""
        return dataclasses.replace(
            early,
            opened_at=self.opened_at,
            details_text=self.details_text,
            terms_text=self.terms_text,
            timers=self.timers,
            traceparent=self.traceparent,
        )

    @property
    def is_open(self) -> bool:
        """Whether its task still waits for an outcome to arrive."""
        return self.opened_at is not None and self.closed_at is None and self.outcome is None

    def progress_meta(self) -> dict[str, Any]:
        """Return what a task's ``meta`` says of its progress, as TaskFlow has it."""
        meta: dict[str, Any] = {"progress": self.progress or 0.0}
        if self.progress_text is not None:
            details = json.loads(self.progress_text)
            meta["progress_details"] = {"at_progress": meta["progress"], "details": details}
        return meta

    @property
    def is_unabsorbed(self) -> bool:
        """Whether it has an outcome that its task has not got yet."""
        return self.outcome is not None and self.absorbed_at is None and self.closed_at is None
