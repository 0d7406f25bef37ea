# SPDX-License-Identifier: Apache-2.0
"""How a lazy engine schedules tasks, and lets them wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any, Final

from taskflow import states

from lazy_engine import attempt, host, token
from lazy_engine.delay import DELAYED, Delay
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.ledger import record as r
from lazy_engine.observer import WatchedRun

#: Attribute of a task: deadline of its delays that name none, in seconds.
TIMEOUT_ATTRIBUTE: Final = "delay_timeout_seconds"


@contextlib.contextmanager
def _running(current: attempt.Attempt) -> Iterator[None]:
    reset = attempt.current.set(current)
    try:
        if current.watched is None:
            yield
        else:
            with current.watched:
                yield
    finally:
        attempt.current.reset(reset)


class LazyTaskAction(host.HostTaskAction):
    """Schedules tasks with a name for every attempt.

    :ivar signing_key: signs the tokens of this flow.
    :ivar default_timeout_seconds: for delays that name no deadline.
    :ivar early: outcomes of attempts that a crash interrupted, by name, and what
        they complete their tasks with, instead of executing the attempt again.
    :ivar watched: what follows the run, or ``None``.
    """

    signing_key: token.Key
    default_timeout_seconds: float | None
    early: dict[token.DelayKey, tuple[r.DelayRecord, Any]]
    watched: WatchedRun | None

    @property
    def _lazy_storage(self) -> LazyStorage:
        storage: LazyStorage = self.host_storage
        return storage

    def schedule_execution(self, task: host.Atom) -> Any:
        """Schedule a task's ``execute``; the future carries its attempt."""
        current = self._begin(task, token.EXECUTE)
        if current.name in self.early:
            self.change_state(task, states.RUNNING, progress=0.0)
            return self._from_early(task, current, host.EXECUTED)
        self._watch(current)
        with _running(current):
            future = super().schedule_execution(task)
        future.attempt = current
        return future

    def schedule_reversion(self, task: host.Atom) -> Any:
        """Schedule a task's ``revert``; the future carries its attempt."""
        current = self._begin(task, token.REVERT)
        if current.name in self.early:
            self.change_state(task, states.REVERTING, progress=0.0)
            return self._from_early(task, current, host.REVERTED)
        self._watch(current)
        with _running(current):
            future = super().schedule_reversion(task)
        future.attempt = current
        return future

    def _begin(self, task: host.Atom, kind: str) -> attempt.Attempt:
        name = self._lazy_storage.begin_attempt(task.name, kind)
        own_seconds = getattr(task, TIMEOUT_ATTRIBUTE, None)
        return attempt.Attempt(
            name=name,
            task_name=task.name,
            signing_key=self.signing_key,
            default_timeout_seconds=(
                self.default_timeout_seconds if own_seconds is None else own_seconds
            ),
            has_probe=callable(getattr(task, "probe", None)),
        )

    def _watch(self, current: attempt.Attempt) -> None:
        if self.watched is not None:
            current.watched = self.watched.attempt(current.name, current.task_name)

    def _from_early(self, task: host.Atom, current: attempt.Attempt, verdict: str) -> Any:
        future: Any = futures.Future()
        future.atom = task
        future.attempt = current
        record, result = self.early.pop(current.name)
        future.set_result((verdict, result))
        self._lazy_storage.absorb(current.name, record)
        return future

    def wait_for_outside(self, task: host.Atom, delay: Delay, current: attempt.Attempt) -> None:
        """Let a task whose attempt ended in a ``Delay`` wait, and tell so."""
        old_state = self._lazy_storage.get_atom_state(task.name)
        self._lazy_storage.open_delay(task.name, delay, current.name)
        self.notify(
            DELAYED,
            {
                "task_name": task.name,
                "task_uuid": current.name.atom_uuid,
                "old_state": old_state,
                "delay_id": delay.id,
                "attempt": delay.attempt,
            },
        )

    def call_off(self, task: host.Atom) -> None:
        """End a task's wait, and tell so."""
        failure = self._lazy_storage.call_off(task.name)
        self.notify(
            self._lazy_storage.get_atom_state(task.name),
            {
                "task_name": task.name,
                "task_uuid": self._lazy_storage.get_atom_uuid(task.name),
                "old_state": DELAYED,
                "result": failure,
            },
        )
