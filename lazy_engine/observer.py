# SPDX-License-Identifier: Apache-2.0
"""What happens to the flows of a store, for whoever counts or traces it.

An observer is attached to a store (:meth:`lazy_engine.Client.observe`), for one
process. It is told what engines, clients and watchdogs of that process do
there, after it has become durable. :mod:`lazy_engine.metrics` and
:mod:`lazy_engine.telemetry` are observers; without one nothing is measured,
and nothing but this module is imported.

Methods are called in the thread that does the work, with no lock of the
ledger's held. They must be quick. What they raise is logged, and ends nothing.
None is told a token.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, ParamSpec, TypeVar

from lazy_engine.ledger.record import DelayOpening, DelayRecord
from lazy_engine.receipt import Receipt
from lazy_engine.terms import Fired
from lazy_engine.token import DelayKey

LOG = logging.getLogger(__name__)

#: Key of a flow's ``meta`` under which the trace is kept that it is part of.
META_TRACE: Final = "traceparent"

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """An outcome that was handed in, whatever became of it.

    :ivar kind: ``"result"`` or ``"failure"``.
    :ivar traceparent: the trace that the delay was opened in, or ``None``.
    :ivar began_ns: when the call began, in nanoseconds since 1970.
    :ivar ended_ns: when it was durable.
    """

    receipt: Receipt
    kind: str
    traceparent: str | None
    began_ns: int
    ended_ns: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A run of a flow that begins: its engine has just become the flow's owner.

    :ivar traceparent: the trace that the flow was submitted or first run in, or ``None``.
    :ivar arrivals: outcomes that were there to absorb.
    """

    flow_uuid: str
    flow_name: str
    traceparent: str | None
    arrivals: Sequence[DelayRecord]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Absorbed:
    """An outcome that was handed to its task.

    :ivar now: the store's time then, in microseconds.
    """

    record: DelayRecord
    now: int

    @property
    def parked_seconds(self) -> float | None:
        """From the opening to the outcome's arrival; ``None`` if that came first."""
        arrived_at, opened_at = self.record.arrived_at, self.record.opened_at
        if arrived_at is None or opened_at is None or arrived_at < opened_at:
            return None
        return (arrived_at - opened_at) / 1e6

    @property
    def wake_seconds(self) -> float:
        """From the outcome's arrival until now."""
        return max(0, self.now - (self.record.arrived_at or self.now)) / 1e6


class WatchedAttempt:
    """One attempt of one task, as an observer follows it.

    As a context manager it surrounds the call that runs the task's own code,
    or hands it to another thread together with the context.
    """

    #: To be kept with the delay, should the attempt end in one.
    traceparent: str | None = None

    def __enter__(self) -> WatchedAttempt:
        return self

    def __exit__(self, *_: object) -> None:
        """The call is over."""

    def end(self, what: str) -> None:
        """Be told that the attempt is over.

        :param what: ``"executed"``, ``"reverted"`` or ``"delayed"``.
        """


class WatchedRun:
    """One run of one flow, as an observer follows it."""

    #: To be kept with the flow, should it have none yet.
    traceparent: str | None = None

    def attempt(self, name: DelayKey, task_name: str) -> WatchedAttempt | None:
        """Be told that a task is about to be executed or reverted."""
        return None

    def committed(self, opened: Sequence[DelayOpening], absorbed: Sequence[Absorbed]) -> None:
        """Be told of a commit, where one opened delays or absorbed outcomes."""

    def end(self, state: str | None) -> None:
        """Be told that the run is over.

        :param state: what the flow was left in; ``None`` if its owner lost it
            or gave it up in the middle.
        """


class Observer:
    """Is told nothing of interest to it; extend what is."""

    def delivered(self, delivered: Delivered) -> None:
        """Be told of an outcome that was handed in."""

    def refused(self, error: Exception) -> None:
        """Be told of a delivery that was refused, so that nothing was recorded."""

    def fired(self, fired: Iterable[Fired]) -> None:
        """Be told what due timers did."""

    def had_incident(self, kind: str) -> None:
        """Be told that a flow could not be run."""

    def run(self, begun: Begun) -> WatchedRun | None:
        """Be told that a flow is being run; return what follows it."""
        return None

    def traceparent(self) -> str | None:
        """Return the trace that the caller is in (W3C Trace Context)."""
        return None

    def joined(self, traceparent: str | None, call: Callable[_P, _T]) -> Callable[_P, _T]:
        """Return a call that takes part in a trace from outside.

        :param traceparent: as it was sent, or ``None``.
        """
        return call


def _tell(call: Callable[..., _T], *told: Any) -> _T | None:
    """Tell an observer; what it raises is its own affair, and must end nobody's work.

    What it is told of is durable by then: an error would say that it is not.
    """
    try:
        return call(*told)
    except Exception:
        LOG.exception("an observer failed")
        return None


class Several(Observer):
    """Tells several observers; the first that has a trace to offer gives it."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.all = tuple(observers)

    def delivered(self, delivered: Delivered) -> None:
        for each in self.all:
            _tell(each.delivered, delivered)

    def refused(self, error: Exception) -> None:
        for each in self.all:
            _tell(each.refused, error)

    def fired(self, fired: Iterable[Fired]) -> None:
        told = list(fired)
        for each in self.all:
            _tell(each.fired, told)

    def had_incident(self, kind: str) -> None:
        for each in self.all:
            _tell(each.had_incident, kind)

    def run(self, begun: Begun) -> WatchedRun | None:
        runs = [run for each in self.all if (run := _tell(each.run, begun)) is not None]
        return SeveralRuns(runs) if runs else None

    def traceparent(self) -> str | None:
        return next((found for each in self.all if (found := _tell(each.traceparent))), None)

    def joined(self, traceparent: str | None, call: Callable[_P, _T]) -> Callable[_P, _T]:
        for each in self.all:
            call = _tell(each.joined, traceparent, call) or call
        return call


class SeveralRuns(WatchedRun):
    """One run, as several observers follow it."""

    def __init__(self, runs: Sequence[WatchedRun]) -> None:
        self._runs = runs
        self.traceparent = next((each.traceparent for each in runs if each.traceparent), None)

    def attempt(self, name: DelayKey, task_name: str) -> WatchedAttempt | None:
        attempts = [one for each in self._runs if (one := _tell(each.attempt, name, task_name))]
        return SeveralAttempts(attempts) if attempts else None

    def committed(self, opened: Sequence[DelayOpening], absorbed: Sequence[Absorbed]) -> None:
        for each in self._runs:
            _tell(each.committed, opened, absorbed)

    def end(self, state: str | None) -> None:
        for each in self._runs:
            _tell(each.end, state)


class SeveralAttempts(WatchedAttempt):
    """One attempt, as several observers follow it."""

    def __init__(self, attempts: Sequence[WatchedAttempt]) -> None:
        self._attempts = attempts
        self.traceparent = next((each.traceparent for each in attempts if each.traceparent), None)

    def __enter__(self) -> WatchedAttempt:
        for each in self._attempts:
            _tell(each.__enter__)
        return self

    def __exit__(self, *_: object) -> None:
        for each in reversed(self._attempts):
            _tell(each.__exit__, None, None, None)

    def end(self, what: str) -> None:
        for each in self._attempts:
            _tell(each.end, what)


#: Whom a store tells that nobody observes.
NOBODY = Several(())
