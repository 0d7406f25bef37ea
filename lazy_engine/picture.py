# SPDX-License-Identifier: Apache-2.0
"""All that people are shown of one flow at once: its graph, tasks, arguments and receipts.

Whatever is long is cut, and of values that tasks were given only the kind is
told: a page that somebody leaves open must not be where secrets are read.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from taskflow import states
from taskflow.persistence import models

from lazy_engine import graph, outcome, shape, token, view
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import stored_attempt
from lazy_engine.terms import NO_TIMERS

#: How many tasks and delays of a flow are shown, and how long a text.
MOST_TASKS: Final = 1000
MOST_DELAYS: Final = 500
_MOST_TEXT: Final = 2000

#: What people are told of a task, by its stored state.
LOOKS: Final[Mapping[str, str]] = {
    states.PENDING: "pending",
    states.IGNORE: "ignored",
    states.RUNNING: "running",
    states.RETRYING: "running",
    states.SUCCESS: "done",
    DELAYED: "waiting",
    states.FAILURE: "failed",
    states.REVERT_FAILURE: "failed",
    states.REVERTING: "reverting",
    states.REVERTED: "reverted",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Argument:
    """A value that a flow was given; which one is not told.

    :ivar what: its kind and size, in words.
    """

    name: str
    what: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskPicture:
    """A task (or retry controller) of the picture.

    :ivar look: ``pending``, ``running``, ``waiting``, ``done``, ``failed``,
        ``reverting``, ``reverted`` or ``ignored``.
    :ivar arguments: the names of what it is given.
    :ivar result: as text, cut where it is long; ``None`` if there is none.
    :ivar created_at: when it was first stored, by the clock of who did.
    :ivar changed_at: when that last changed.
    """

    name: str
    look: str
    state: str
    intention: str
    is_retry: bool
    attempt: int
    progress: float
    arguments: Sequence[str]
    result: str | None
    failure: str | None
    created_at: datetime.datetime | None
    changed_at: datetime.datetime | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DelayPicture:
    """A delay, open or not, and what was recorded for it.

    :ivar is_open: it waits for an answer.
    :ivar outcome: ``result``, ``failure``, ``timeout`` or ``default``, once there is one.
    :ivar outcome_text: the outcome itself, cut where it is long.
    :ivar late: the kind of the first outcome that came too late.
    """

    id: str
    task_name: str
    kind: str
    attempt: int
    is_open: bool
    opened_at: datetime.datetime | None
    timeout_at: datetime.datetime | None
    heartbeat_at: datetime.datetime | None
    probe_at: datetime.datetime | None
    alerted_at: datetime.datetime | None
    progress: float | None
    progress_details: str | None
    details: str | None
    outcome: str | None
    outcome_text: str | None
    arrived_at: datetime.datetime | None
    absorbed_at: datetime.datetime | None
    closed_at: datetime.datetime | None
    close_reason: str | None
    late: str | None
    late_text: str | None
    late_at: datetime.datetime | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A flow as it is drawn.

    :ivar flow: as in a list.
    :ivar factory: the import path of what makes it, or ``None``.
    :ivar arguments: what the factory, and the tasks, were given from outside.
    :ivar tasks: in no order; more than :data:`MOST_TASKS` are cut, the least telling first.
    :ivar graph: of the tasks, by their names; without joins' names.
    :ivar delays: the newest :data:`MOST_DELAYS`, newest first.
    :ivar now: the store's time.
    """

    flow: view.FlowSummary
    is_cancelled: bool
    drift: view.NotedDrift | None
    factory: str | None
    arguments: Sequence[Argument]
    tasks: Sequence[TaskPicture]
    tasks_left_out: int
    graph: graph.Graph
    delays: Sequence[DelayPicture]
    delays_left_out: int
    now: datetime.datetime


def cut(text: str, most: int = _MOST_TEXT) -> str:
    """Return a text of at most so many characters, without tokens."""
    masked = token.mask(text)
    return masked if len(masked) <= most else f"{masked[:most]} …"


def tasks(
    atoms: Sequence[models.AtomDetail], times: Mapping[str, tuple[int | None, int | None]]
) -> list[TaskPicture]:
    """Return what is shown of a flow's tasks.

    :param times: when each was stored and last changed, by name.
    """
    return [_task(atom, *times.get(atom.name, (None, None))) for atom in atoms]


def _task(atom: models.AtomDetail, created_at: int | None, changed_at: int | None) -> TaskPicture:
    state = atom.state or states.PENDING
    failure = atom.failure or atom.revert_failure
    meta = atom.meta or {}
    has_result = state == states.SUCCESS and isinstance(atom, models.TaskDetail)
    return TaskPicture(
        name=atom.name,
        look=LOOKS.get(state, "pending"),
        state=state,
        intention=atom.intention or states.EXECUTE,
        is_retry=isinstance(atom, models.RetryDetail),
        attempt=stored_attempt(meta, token.EXECUTE),
        progress=float(meta.get("progress", 0.0)),
        arguments=[str(name) for name in (meta.get(shape.META_SHAPE) or {}).get("arguments", ())],
        result=cut(_text(atom.results)) if has_result and atom.results is not None else None,
        failure=cut(failure.pformat()) if failure is not None and state != DELAYED else None,
        created_at=_instant(created_at),
        changed_at=_instant(changed_at or created_at),
    )


def importance(task: TaskPicture) -> bool:
    """Whether a task tells less than others, for sorting: those that do nothing come last."""
    return task.failure is None and task.look in ("pending", "done", "ignored", "reverted")


def arguments(detail: models.FlowDetail, injected: Mapping[str, Any]) -> list[Argument]:
    """Return what a flow was given from outside; of values only what they are.

    :param injected: values that were put into its storage.
    """
    meta = detail.meta or {}
    made_by = meta.get("factory") or {}
    given = {
        **{
            f"argument {number}": value for number, value in enumerate(made_by.get("args") or (), 1)
        },
        **(made_by.get("kwargs") or {}),
        **injected,
        **(meta.get("store") or {}),
    }
    return [Argument(name=cut(str(name), 200), what=describe(given[name])) for name in given]


def describe(value: object) -> str:
    """Say what a value is without telling it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, Mapping):
        return f"an object of {len(value)} values"
    if isinstance(value, Sequence):
        return f"a list of {len(value)} values"
    return type(value).__name__


def delay(record: r.DelayRecord) -> DelayPicture:
    """Return what is shown of a delay."""
    timers = record.timers if record.is_open else NO_TIMERS
    return DelayPicture(
        id=record.key.delay_id,
        task_name=record.task_name,
        kind=record.key.kind,
        attempt=record.key.attempt,
        is_open=record.is_open,
        opened_at=_instant(record.opened_at),
        timeout_at=_instant(timers.timeout_at),
        heartbeat_at=_instant(timers.heartbeat_at),
        probe_at=_instant(timers.probe_at),
        alerted_at=_instant(record.alerted_at),
        progress=record.progress,
        progress_details=_cut_or_none(record.progress_text),
        details=_cut_or_none(record.details_text),
        outcome=record.outcome.kind if record.outcome else None,
        outcome_text=_outcome_text(record.outcome),
        arrived_at=_instant(record.arrived_at),
        absorbed_at=_instant(record.absorbed_at),
        closed_at=_instant(record.closed_at),
        close_reason=record.close_reason,
        late=record.late.kind if record.late else None,
        late_text=_outcome_text(record.late),
        late_at=_instant(record.late_at),
    )


def _outcome_text(encoded: outcome.Encoded | None) -> str | None:
    return None if encoded is None else cut(_text(encoded.body))


def _cut_or_none(text: str | None) -> str | None:
    return None if text is None else cut(text)


def _text(value: object) -> str:
    """Return a value as people read it: JSON where it is JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def _instant(micros: int | None) -> datetime.datetime | None:
    return None if micros is None else view.instant(micros)
