# SPDX-License-Identifier: Apache-2.0
"""What a ``Delay`` asks of the clock, and what its timers do when they are due.

A delay has up to three timers: its *deadline*, its *heartbeat* (no sign of
life for too long) and its *probe* (the task wants to look for itself). Each is
an absolute instant of the store's clock, kept with the delay; the earliest is
the delay's ``due_at``, which the watchdog finds by an index. Nothing here reads
a clock: a ledger passes its own time in, inside the transaction that also
writes what :func:`fire` decides, so a timer and a delivery are never judged
apart.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from lazy_engine import outcome

if TYPE_CHECKING:
    from lazy_engine.ledger.record import DelayRecord, FlowRecord

#: What becomes of a delay whose time is up.
FAIL: Final = "fail"
DEFAULT: Final = "default"
ALERT: Final = "alert"
ON_TIMEOUT: Final = (FAIL, DEFAULT, ALERT)

#: How long a wake for a probe counts as under way.
PROBE_RING_SECONDS: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one delay asks of the clock.

    :ivar timeout_seconds: from the opening to the deadline, or ``None``.
    :ivar until: the deadline itself, in microseconds since 1970 UTC, or ``None``.
    :ivar heartbeat_seconds: longest time without a heartbeat, or ``None``.
    :ivar probe_seconds: from one probe to the next, or ``None``.
    :ivar on_timeout: one of :data:`ON_TIMEOUT`.
    :ivar default_text: the result for ``"default"``, as canonical JSON.
    """

    timeout_seconds: float | None = None
    until: int | None = None
    heartbeat_seconds: float | None = None
    probe_seconds: float | None = None
    on_timeout: str = FAIL
    default_text: str = "null"

    def to_text(self) -> str | None:
        """Return what is stored; ``None`` if the clock has no part in it.

        Shape: a JSON object of the fields that differ from their defaults.
        """
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return json.dumps(fields, sort_keys=True) if fields else None

    @classmethod
    def from_text(cls, text: str | None) -> Terms:
        """Return the terms that :meth:`to_text` wrote, by this version or an older one."""
        return cls(**json.loads(text)) if text else cls()


NO_TERMS: Final = Terms()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """When the timers of an open delay are due, in the store's microseconds."""

    timeout_at: int | None = None
    heartbeat_at: int | None = None
    probe_at: int | None = None

    @property
    def due_at(self) -> int | None:
        """The earliest of them."""
        set_ones = [at for at in (self.timeout_at, self.heartbeat_at, self.probe_at) if at]
        return min(set_ones, default=None)


NO_TIMERS: Final = Timers()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """What the due timers of a delay did.

    :ivar record: the delay as it is to be written.
    :ivar has_outcome: the delay got its outcome: somebody must absorb it.
    :ivar is_alert: its time is up, and it goes on waiting.
    :ivar wants_probe: its task wants to look for itself.
    """

    record: DelayRecord
    has_outcome: bool = False
    is_alert: bool = False
    wants_probe: bool = False


def start(terms: Terms, opened_at: int) -> Timers:
    """Return the timers of a delay that is opened now."""
    return Timers(
        timeout_at=terms.until
        if terms.until is not None
        else _after(opened_at, terms.timeout_seconds),
        heartbeat_at=_after(opened_at, terms.heartbeat_seconds),
        probe_at=_after(opened_at, terms.probe_seconds),
    )


def beat(record: DelayRecord, now: int) -> DelayRecord:
    """Return a delay whose outside has just given a sign of life."""
    terms = Terms.from_text(record.terms_text)
    return with_timers(
        record,
        dataclasses.replace(record.timers, heartbeat_at=_after(now, terms.heartbeat_seconds)),
    )


def probed(record: DelayRecord, now: int, state_text: str | None) -> DelayRecord:
    """Return a delay whose task has looked in vain, and will look again."""
    terms = Terms.from_text(record.terms_text)
    changed = dataclasses.replace(record, probe_state_text=state_text)
    return with_timers(
        changed, dataclasses.replace(record.timers, probe_at=_after(now, terms.probe_seconds))
    )


def with_timers(record: DelayRecord, timers: Timers) -> DelayRecord:
    """Return a delay with other timers."""
    return dataclasses.replace(record, timers=timers, due_at=timers.due_at)


def fire(record: DelayRecord, now: int, *, delivery_id: str) -> Fired | None:
    """Say what the due timers of an open delay do; ``None`` if none is due.

    Whoever calls this writes the answer in the same transaction, so that an
    outcome which was recorded before keeps the delay from timing out, and one
    that comes later finds it timed out.
    """
    if not record.is_open or record.due_at is None or record.due_at > now:
        return None
    terms = Terms.from_text(record.terms_text)
    timers = record.timers
    is_deadline = timers.timeout_at is not None and timers.timeout_at <= now
    is_silence = timers.heartbeat_at is not None and timers.heartbeat_at <= now
    if not (is_deadline or is_silence):
        # Looked at again should the wake get lost; the probe stays due.
        later = now + int(PROBE_RING_SECONDS * 1e6)
        rest = dataclasses.replace(timers, probe_at=None).due_at
        changed = dataclasses.replace(record, due_at=min(later, rest) if rest else later)
        return Fired(record=changed, wants_probe=True)
    if terms.on_timeout == ALERT:
        muted = dataclasses.replace(
            timers,
            timeout_at=None if is_deadline else timers.timeout_at,
            heartbeat_at=None if is_silence else timers.heartbeat_at,
        )
        changed = dataclasses.replace(with_timers(record, muted), alerted_at=now)
        return Fired(record=changed, is_alert=True)
    answered = dataclasses.replace(
        record,
        outcome=_outcome(terms, record, is_deadline=is_deadline),
        arrived_at=now,
        delivery_id=delivery_id,
        due_at=None,
    )
    return Fired(record=answered, has_outcome=True)


def fire_all(
    delays: Iterable[DelayRecord], flow: FlowRecord, now: int
) -> tuple[FlowRecord, list[Fired]]:
    """Have the due timers of a flow's delays do what they do.

    :returns: the flow, which counts the outcomes, and what was done.
    """
    call = str(uuid.uuid4())
    number = flow.arrival_number
    fired = []
    for delay in delays:
        done = fire(delay, now, delivery_id=call)
        if done is None:
            continue
        if done.has_outcome:
            number += 1
            numbered = dataclasses.replace(done.record, arrival_number=number)
            done = dataclasses.replace(done, record=numbered)
        fired.append(done)
    return dataclasses.replace(flow, arrival_number=number), fired


def _outcome(terms: Terms, record: DelayRecord, *, is_deadline: bool) -> outcome.Encoded:
    if terms.on_timeout == DEFAULT:
        return outcome.Encoded(
            outcome.DEFAULT,
            terms.default_text,
            outcome.digest(outcome.DEFAULT, terms.default_text),
        )
    if is_deadline:
        timer, what = "deadline", "its deadline passed and no outcome had come"
    else:
        timer, what = "heartbeat", f"no heartbeat came for {terms.heartbeat_seconds:g} seconds"
    value = {"timer": timer, "message": f"task '{record.task_name}' timed out: {what}"}
    text = outcome.canonical_json(value)
    return outcome.Encoded(outcome.TIMEOUT, text, outcome.digest(outcome.TIMEOUT, text))


def _after(start_at: int, seconds: float | None) -> int | None:
    return None if seconds is None else start_at + int(seconds * 1e6)


def default_of(encoded: outcome.Encoded) -> Any:
    """Return the value of a default outcome."""
    return json.loads(encoded.body)
