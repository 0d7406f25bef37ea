# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's actions on tasks, and what it makes of their ends."""

from __future__ import annotations

from typing import Any

from taskflow.engines.action_engine import (
    completer,
    runtime,
)
from taskflow.engines.action_engine.actions import task as task_action
from taskflow.types import failure as taskflow_failure

from lazy_engine.host.name import Atom


class HostTaskAction(task_action.TaskAction):  # type: ignore[misc]  # no types
    """TaskFlow's way of scheduling and completing tasks."""

    @property
    def host_storage(self) -> Any:
        """The engine's storage."""
        return self._storage

    def notify(self, state: str, details: dict[str, Any]) -> None:
        """Tell the atom listeners."""
        self._notifier.notify(state, details)

    def arguments_of(self, task: Atom) -> dict[str, Any]:
        """Return what the task's ``execute`` is called with."""
        arguments: dict[str, Any] = self._storage.fetch_mapped_args(
            task.rebind, atom_name=task.name, optional_args=task.optional
        )
        return arguments


class HostCompleter(completer.Completer):  # type: ignore[misc]  # no types
    """TaskFlow's way of completing atoms and resolving failures."""

    @property
    def resolves(self) -> bool:
        """Whether failures are resolved (engine option ``never_resolve``)."""
        return bool(self._resolve)

    @property
    def host_runtime(self) -> runtime.Runtime:
        """The engine's runtime."""
        return self._runtime

    def revert_all(self) -> None:
        """Mean every atom to be reverted, whatever retry controllers would say."""
        self._undefined_resolver.apply()

    def resolve(self, atom: Atom, failure: taskflow_failure.Failure) -> None:
        """Ask the retry controllers what to do, and set intentions accordingly."""
        self._process_atom_failure(atom, failure)
