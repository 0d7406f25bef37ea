# SPDX-License-Identifier: Apache-2.0
"""The public names and their types, as a user's own program under ``mypy --strict`` sees them.

It is read by mypy (``make types``) and never run. A name that goes, an argument that is renamed and a type that
changes are errors here, and so is a wrong use that is no error any more: its ``type: ignore`` is then unused.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_type

import lazy_engine
from lazy_engine import (
    DELAYED,
    Client,
    Delay,
    DelayCancelled,
    DelayFailed,
    DelayMisuse,
    DelayTimeout,
    Disposition,
    Failed,
    Fenced,
    FlowBusy,
    FlowCancelled,
    FlowIncident,
    FlowSuspended,
    FlowView,
    Heartbeat,
    HeartbeatTimeout,
    InvalidToken,
    LazyEngineError,
    OpenDelay,
    OutcomeNotStorable,
    OutcomeTooLarge,
    Receipt,
    Result,
    ResultNotStorable,
    StillWaiting,
    StoreUnavailable,
    UnknownDelay,
    UnknownFlow,
    UnsupportedBackend,
)
from lazy_engine.conductor import LazyConductor
from lazy_engine.watchdog import Watchdog

EVERY_ERROR: Sequence[type[LazyEngineError]] = (
    DelayCancelled,
    DelayFailed,
    DelayMisuse,
    DelayTimeout,
    Fenced,
    FlowBusy,
    FlowCancelled,
    FlowIncident,
    FlowSuspended,
    HeartbeatTimeout,
    InvalidToken,
    OutcomeNotStorable,
    OutcomeTooLarge,
    ResultNotStorable,
    StoreUnavailable,
    UnknownDelay,
    UnknownFlow,
    UnsupportedBackend,
)
EVERY_DISPOSITION: Sequence[Disposition] = (
    Disposition.ACCEPTED,
    Disposition.CONFLICT,
    Disposition.DUPLICATE,
    Disposition.EARLY,
    Disposition.LATE,
)
STATE: str = DELAYED


def a_task(now: datetime.datetime) -> Delay:
    delay = Delay(
        timeout_seconds=3600,
        heartbeat_seconds=60.0,
        probe_every_seconds=5,
        on_timeout="default",
        default={"a": 1},
        details=["strict", "JSON"],
    )
    assert_type(delay.token, str)
    assert_type(delay.id, str)
    assert_type(delay.attempt, int)
    assert_type(Delay.sleep(5, result=1), Delay)
    assert_type(Delay.until(now, result=1), Delay)
    Delay(timeout_seconds=None)
    Delay(3600)  # type: ignore[call-arg]  # keywords only
    Delay(timeout_seconds="3600")  # type: ignore[arg-type]  # no number
    delay.token = "another"  # type: ignore[misc]  # it cannot be set
    if delay.attempt > 3:
        raise delay  # a task may raise it as well
    return delay


def submitting(client: Client, factory: Callable[..., Any]) -> str:
    assert_type(client.submit(factory), str)
    client.submit(factory, store=[])  # type: ignore[arg-type]  # a mapping
    return client.submit(
        "module.function", ["positional"], {"keyword": 1}, store={"value": 1}, flow_uuid="uuid"
    )


def delivering(client: Client, token: str) -> None:
    assert_type(client.complete(token), Receipt)
    assert_type(client.complete(token, {"any": ["JSON"]}), Receipt)
    assert_type(client.fail(token, "text"), Receipt)
    assert_type(client.fail(token, OSError(), kind="Quota", details=1), Receipt)
    assert_type(client.heartbeat(token, progress=0.5, details={}), Heartbeat)
    assert_type(client.heartbeat(token).cancelled, bool)
    failed = Failed("text", kind="Quota", details={})
    answers = client.deliver_many([(token, Result(1)), (token, failed)])
    assert_type(answers, list[Receipt | LazyEngineError])
    client.complete(None)  # type: ignore[arg-type]  # a token
    client.deliver_many([(token, 1)])  # type: ignore[list-item]  # a Result or a Failed
    Failed("text", "Quota")  # type: ignore[call-arg]  # by keyword


def a_receipt(receipt: Receipt) -> None:
    assert_type(receipt.disposition, Disposition)
    assert_type(receipt.flow_uuid, str)
    assert_type(receipt.task_name, str)
    assert_type(receipt.attempt, int)
    assert_type(receipt.woken, bool)
    receipt.woken = True  # type: ignore[misc]  # frozen


def looking(client: Client, now: datetime.datetime) -> None:
    view = client.flow("uuid")
    assert_type(view, FlowView)
    assert_type(view.state, str)
    assert_type(view.tasks, Mapping[str, str])
    assert_type(view.results, Mapping[str, Any])
    assert_type(view.delays, Sequence[OpenDelay])
    assert_type(view.owner, str | None)
    assert_type(view.created_at, datetime.datetime)
    assert_type(view.ended_at, datetime.datetime | None)
    if view.incident is not None:
        assert_type(view.incident.kind, str)
        assert_type(view.incident.message, str)
        assert_type(view.incident.count, int)
        assert_type(view.incident.next_try_at, datetime.datetime | None)
    found = client.delays(
        flow_uuid="uuid", task_name="task", due_before_at=now, after="place", limit=10
    )
    assert_type(found, list[OpenDelay])
    for delay in found:
        assert_type(delay.id, str)
        assert_type(delay.opened_at, datetime.datetime)
        assert_type(delay.timeout_at, datetime.datetime | None)
        assert_type(delay.progress, float | None)
        assert_type(delay.place, str)
    for flow in client.flows(state=DELAYED, incidents=True, after="place", limit=10):
        assert_type(flow.uuid, str)
        assert_type(flow.open_delays, int)
        assert_type(flow.place, str)
    assert_type(client.token("uuid", "task"), str)
    assert_type(client.wait("uuid", timeout_seconds=5), str)
    for change in client.drift("uuid").harmful:
        assert_type(str(change), str)
    client.delays(due_before_at=1.0)  # type: ignore[arg-type]  # an instant


def operating(client: Client, now: datetime.datetime, told: list[int]) -> None:
    assert_type(client.resume("uuid"), str)
    client.suspend("uuid")
    client.suspend("uuid", "why")
    assert_type(client.cancel("uuid", "why"), bool)
    client.cancel("uuid")  # type: ignore[call-arg]  # why?
    assert_type(client.purge(finished_before_at=now), int)
    assert_type(client.purge(finished_before_at=now, progress=told.append), int)
    client.purge()  # type: ignore[call-arg]  # of what?
    assert_type(client.sweep(), list[str])


def opening(backend: object, jobboard: object) -> Client:
    Client({"connection": "sqlite:////path/to/flows.db"})
    with Watchdog(Client(backend), period_seconds=5, on_wanting=print):
        pass
    conductor = LazyConductor(
        "name", jobboard, backend, engine_options={}, wait_timeout=1.0, max_simultaneous_jobs=2
    )
    conductor.connect()
    conductor.run(max_dispatches=1)
    conductor.stop()
    assert_type(conductor.at_work, int)
    return Client(backend, jobboard)


def errors(error: LazyEngineError, failure: DelayFailed, incident: FlowIncident) -> None:
    assert_type(error.flow_uuid, str | None)
    assert_type(failure.kind, str | None)
    assert_type(incident.kind, str)
    assert_type(StillWaiting("state").state, Any)
    assert_type(lazy_engine.__all__, list[str])
