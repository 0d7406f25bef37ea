# SPDX-License-Identifier: Apache-2.0
"""How a lazy engine schedules tasks, and lets them wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

from taskflow import states

from lazy_engine import attempt, host, token
from lazy_engine.delay import DELAYED, Delay
from lazy_engine.engine.storage import LazyStorage


@contextlib.contextmanager
def _running(current: attempt.Attempt) -> Iterator[None]:
    reset = attempt.current.set(current)
    try:
        yield
    finally:
        attempt.current.reset(reset)


class LazyTaskAction(host.HostTaskAction):
    """Schedules tasks with a name for every attempt.

    :ivar signing_key: signs the tokens of this flow.
    :ivar early: outcomes of attempts that a crash interrupted, by name, ready
        to be absorbed instead of executing the attempt again.
    """

    signing_key: token.Key
    early: dict[token.DelayKey, Any]

    @property
    def _lazy_storage(self) -> LazyStorage:
        storage: LazyStorage = self.host_storage
        return storage

    def schedule_execution(self, task: host.Atom) -> Any:
        """Schedule a task's ``execute``; the future carries its attempt."""
        current = self._begin(task, token.EXECUTE)
        if current.name in self.early:
            return self._from_early(task, current)
        with _running(current):
            future = super().schedule_execution(task)
        future.attempt = current
        return future

    def schedule_reversion(self, task: host.Atom) -> Any:
        """Schedule a task's ``revert``; the future carries its attempt."""
        current = self._begin(task, token.REVERT)
        with _running(current):
            future = super().schedule_reversion(task)
        future.attempt = current
        return future

    def _begin(self, task: host.Atom, kind: str) -> attempt.Attempt:
        name = self._lazy_storage.begin_attempt(task.name, kind)
        return attempt.Attempt(name=name, task_name=task.name, signing_key=self.signing_key)

    def _from_early(self, task: host.Atom, current: attempt.Attempt) -> Any:
        self.change_state(task, states.RUNNING, progress=0.0)
        future: Any = futures.Future()
        future.atom = task
        future.attempt = current
        future.set_result((host.EXECUTED, self.early.pop(current.name)))
        self._lazy_storage.absorb(current.name)
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
            states.FAILURE,
            {
                "task_name": task.name,
                "task_uuid": self._lazy_storage.get_atom_uuid(task.name),
                "old_state": DELAYED,
                "result": failure,
            },
        )
