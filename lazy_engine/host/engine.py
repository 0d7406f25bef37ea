# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's engine, opened up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from taskflow import exceptions as taskflow_exceptions
from taskflow import storage as taskflow_storage
from taskflow.engines.action_engine import engine as action_engine
from taskflow.engines.action_engine import (
    executor,
)
from taskflow.persistence import models

from lazy_engine.compiler import compile_flow
from lazy_engine.host.runtime import HostRuntime


class HostEngine(action_engine.ActionEngine):  # type: ignore[misc]  # no types
    """TaskFlow's engine, with the parts that run a flow left to fill in."""

    _compiled: bool
    _storage_ensured: bool

    def make_runtime(self, compilation: Any) -> HostRuntime:
        """Return the runtime for a compiled flow."""
        raise NotImplementedError

    def use_executor(self, task_executor: executor.TaskExecutor) -> None:
        """Say what runs the tasks."""
        self._task_executor = task_executor

    def compile(self) -> None:
        """Compile the flow; does nothing the second time."""
        with self._lock:
            if not self._compiled:
                self._compilation = self._check_compilation(compile_flow(self._flow))
                self._runtime = self.make_runtime(self._compilation)
                self._runtime.compile()
                self._compiled = True

    def prepare(self) -> None:
        """Make sure that every atom has a detail (in memory, for now)."""
        with self._lock:
            if not self._compiled:
                raise taskflow_exceptions.InvalidState(
                    "cannot prepare an engine that has not been compiled: call compile() first"
                )
            if not self._storage_ensured:
                self.change_state(taskflow_storage.states.RESUMING)
                self._ensure_storage()
                self.change_state(taskflow_storage.states.SUSPENDED)
                self._storage_ensured = True

    def ensure_atoms(self) -> None:
        """Add details for atoms that have none, and inject what they bring along."""
        self._ensure_storage()

    def change_state(self, state: str) -> None:
        """Change the flow's state and tell the flow listeners."""
        self._change_state(state)

    @property
    def host_runtime(self) -> Any:
        """The runtime of the compiled flow."""
        return self._runtime

    @property
    def engine_lock(self) -> Any:
        """Held while :meth:`run` runs."""
        return self._lock

    @property
    def executors(self) -> tuple[Any, Any]:
        """What runs tasks and retry controllers; both have ``start`` and ``stop``."""
        return self._task_executor, self._retry_executor

    @property
    def gathers_statistics(self) -> bool:
        """Engine option ``gather_statistics``."""
        return bool(self._gather_statistics)

    @property
    def host_flow(self) -> Any:
        """The flow that the engine was made with."""
        return self._flow

    @property
    def host_flow_detail(self) -> models.FlowDetail:
        """The flow detail that the engine was made with."""
        return self._flow_detail

    @property
    def host_backend(self) -> Any:
        """The persistence backend that the engine was made with, or ``None``."""
        return self._backend

    @property
    def scope_fetcher(self) -> Callable[[str], Iterable[Any] | None]:
        """Finds, once compiled, where an atom's arguments may come from."""

        def fetch(atom_name: str) -> Any:
            return self._runtime.fetch_scopes_for(atom_name) if self._compiled else None

        return fetch
