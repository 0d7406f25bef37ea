# SPDX-License-Identifier: Apache-2.0
"""What people and programs are shown of flows and delays."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lazy_engine import errors, rules, shape
from lazy_engine.ledger import record as r
from lazy_engine.token import DelayKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenDelay:
    """A delay that waits for an outcome. Holds no token; see ``Client.token``.

    :ivar id: the delay's UUID, as in ``Delay.id``.
    :ivar kind: ``"execute"`` or ``"revert"``.
    :ivar details: what the task gave as ``Delay(details=…)``.
    :ivar timeout_at: its deadline by the store's clock, or ``None``.
    :ivar heartbeat_at: by when the next heartbeat must come, or ``None``.
    :ivar due_at: when something is next due: one of these, or a probe.
    :ivar alerted_at: since when it is overdue and waits on (``on_timeout="alert"``).
    :ivar progress: what the last heartbeat said, or ``None``.
    :ivar place: opaque; give the last one of a page as ``delays(after=…)``.
    """

    id: str
    flow_uuid: str
    task_name: str
    kind: str
    attempt: int
    opened_at: datetime.datetime
    details: Any
    timeout_at: datetime.datetime | None
    heartbeat_at: datetime.datetime | None
    alerted_at: datetime.datetime | None
    progress: float | None
    place: str
    due_at: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskView:
    """One task (or retry controller) of a flow, as stored.

    :ivar intention: ``EXECUTE``, ``REVERT``, ``RETRY`` or ``IGNORE``.
    :ivar attempt: how often ``execute`` was begun.
    :ivar progress: between 0 and 1.
    :ivar failure: what went wrong, for people, or ``None``.
    """

    name: str
    state: str
    intention: str
    is_retry: bool
    attempt: int
    progress: float
    failure: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Incident:
    """Why a flow could not be run, for a reason that is not its own.

    :ivar kind: one of those in :mod:`lazy_engine.incident`.
    :ivar count: how often in a row.
    :ivar next_try_at: when the watchdog has it tried again; ``None`` if that is
        left for a person. ``Client.resume`` tries at any time.
    """

    kind: str
    message: str
    first_at: datetime.datetime
    last_at: datetime.datetime
    count: int
    next_try_at: datetime.datetime | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotedDrift:
    """Changes of a flow's code that a resume found and went on with.

    :ivar noted_at: when it did.
    :ivar changes: in words, at most a hundred.
    :ivar count: how many there were.
    """

    noted_at: datetime.datetime
    changes: Sequence[str]
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowView:
    """A flow at one moment.

    :ivar state: as it is lived: ``PENDING``, ``RUNNING``, ``DELAYED``,
        ``SUSPENDED``, ``SUCCESS``, ``FAILURE`` or ``REVERTED``.
    :ivar tasks: state by task name.
    :ivar atoms: the same tasks with all that is known of them.
    :ivar results: result by task name, of tasks that have succeeded.
    :ivar delays: what waits.
    :ivar has_factory: whether a conductor can run it.
    :ivar owner: who runs it, or ``None``.
    :ivar is_cancelled: somebody asked for it to be called off.
    :ivar wish_reason: why it was suspended or cancelled, or ``None``.
    :ivar drift: how its code had changed when it was last resumed by other
        code than before, or ``None``.
    """

    uuid: str
    name: str
    state: str
    tasks: Mapping[str, str]
    atoms: Sequence[TaskView]
    results: Mapping[str, Any]
    delays: Sequence[OpenDelay]
    incident: Incident | None
    has_factory: bool
    owner: str | None
    is_cancelled: bool
    wish_reason: str | None
    created_at: datetime.datetime
    changed_at: datetime.datetime
    ended_at: datetime.datetime | None
    drift: NotedDrift | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowSummary:
    """A flow in a list; see :class:`FlowView`.

    :ivar state: as it is lived.
    :ivar open_delays: how many of its tasks wait.
    :ivar place: opaque; give the last one of a page as ``flows(after=…)``.
    """

    uuid: str
    name: str
    state: str
    open_delays: int
    incident: Incident | None
    has_factory: bool
    owner: str | None
    wish_reason: str | None
    created_at: datetime.datetime
    changed_at: datetime.datetime
    ended_at: datetime.datetime | None
    place: str


def instant(micros: int) -> datetime.datetime:
    """Return a store's instant as an aware datetime in UTC."""
    return datetime.datetime.fromtimestamp(micros / 1e6, tz=datetime.UTC)


def _instant(micros: int | None) -> datetime.datetime | None:
    return None if micros is None else instant(micros)


def open_delay(record: r.DelayRecord, order: str = r.BY_AGE) -> OpenDelay:
    """Return what is shown of a delay.

    :param order: of the list that it stands in.
    """
    return OpenDelay(
        id=record.key.delay_id,
        flow_uuid=record.key.flow_uuid,
        task_name=record.task_name,
        kind=record.key.kind,
        attempt=record.key.attempt,
        opened_at=instant(record.opened_at or 0),
        details=json.loads(record.details_text) if record.details_text else None,
        timeout_at=_instant(record.timers.timeout_at),
        heartbeat_at=_instant(record.timers.heartbeat_at),
        alerted_at=_instant(record.alerted_at),
        progress=record.progress,
        due_at=_instant(record.due_at),
        place=_write_place(r.place_of(record, order)),
    )


def flow_summary(record: r.FlowRecord, now: int) -> FlowSummary:
    """Return what is shown of a flow in a list."""
    return FlowSummary(
        uuid=record.flow_uuid,
        name=record.flow_name,
        state=rules.lived_state(record, now),
        open_delays=record.open_delays,
        incident=incident(record.incident),
        has_factory=record.has_factory,
        owner=record.owner,
        wish_reason=record.wish_reason,
        created_at=instant(record.created_at),
        changed_at=instant(record.changed_at),
        ended_at=instant(record.ended_at) if record.ended_at else None,
        place=_write_place(r.place_of_flow(record)),
    )


def _write_place(place: Sequence[Any]) -> str:
    text = json.dumps(place, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_flow_place(place: str) -> tuple[bool, int, str]:
    """Return the place that ``FlowSummary.place`` stands for.

    :raises ValueError: it does not come from a listing.
    """
    try:
        is_sound, minus_created_at, flow_uuid = json.loads(base64.urlsafe_b64decode(place))
        return (bool(is_sound), int(minus_created_at), str(flow_uuid))
    except (ValueError, TypeError) as error:
        raise ValueError("after= takes the 'place' of a FlowSummary") from error


def read_place(place: str) -> tuple[int, str, str, str, int]:
    """Return the place that ``OpenDelay.place`` stands for.

    :raises ValueError: it does not come from a listing.
    """
    try:
        at, flow_uuid, atom_uuid, kind, attempt = json.loads(base64.urlsafe_b64decode(place))
        key = DelayKey(
            flow_uuid=str(flow_uuid), atom_uuid=str(atom_uuid), kind=str(kind), attempt=int(attempt)
        )
        return (int(at), key.flow_uuid, key.atom_uuid, key.kind, key.attempt)
    except (ValueError, TypeError) as error:
        raise ValueError("after= takes the 'place' of an OpenDelay") from error


def incident(stored: Mapping[str, Any] | None) -> Incident | None:
    """Return what is shown of a flow's incident."""
    if stored is None:
        return None
    return Incident(
        kind=stored["kind"],
        message=stored["message"],
        first_at=instant(stored["first_at"]),
        last_at=instant(stored["last_at"]),
        count=stored["count"],
        next_try_at=instant(stored["next_try_at"]) if stored["next_try_at"] else None,
    )


def noted_drift(meta: Mapping[str, Any] | None) -> NotedDrift | None:
    """Return what a flow detail's meta says of changes of its code."""
    stored = (meta or {}).get(shape.META_DRIFT)
    if stored is None:
        return None
    return NotedDrift(
        noted_at=instant(stored["at"]),
        changes=[str(shape.Change(**change)) for change in stored["changes"]],
        count=stored["count"],
    )


def unknown_flow(flow_uuid: str) -> errors.UnknownFlow:
    """Return the error for a flow that is not stored."""
    return errors.UnknownFlow(
        f"no flow {flow_uuid} in this store (was it purged, or is it in another store?)",
        flow_uuid=flow_uuid,
    )
