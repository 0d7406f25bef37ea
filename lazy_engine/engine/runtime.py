# SPDX-License-Identifier: Apache-2.0
"""The parts of an engine that one compiled flow is run with."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import Any

from taskflow import states

from lazy_engine import host, shape
from lazy_engine.engine.action import LazyTaskAction
from lazy_engine.engine.completer import LazyCompleter
from lazy_engine.engine.scope import Scopes
from lazy_engine.engine.selector import LazySelector


class LazyRuntime(host.HostRuntime):
    """TaskFlow's runtime with the lazy engine's parts in it."""

    @functools.cached_property
    def task_action(self) -> LazyTaskAction:
        """Schedules and completes tasks."""
        return LazyTaskAction(self.storage, self.notifier, self.task_executor)

    @functools.cached_property
    def selector(self) -> Any:
        """Finds the atoms that can run next."""
        return self.make_selector() if self.has_narrow_deciders else LazySelector(self)

    @functools.cached_property
    def retry_action(self) -> Any:
        """Schedules and completes retry controllers."""
        return self.make_retry_action()

    @functools.cached_property
    def completer(self) -> LazyCompleter:
        """Completes atoms."""
        return LazyCompleter(self)

    @functools.cached_property
    def scopes(self) -> Scopes:
        """Where atoms may take arguments from."""
        return Scopes(self.host_compilation)

    @functools.cached_property
    def shape(self) -> shape.Shape:
        """The compiled flow's shape."""
        return shape.read(self.host_compilation.execution_graph)

    @functools.cached_property
    def _atoms_by_name(self) -> dict[str, tuple[int, host.Atom]]:
        return {atom.name: (place, atom) for place, atom in enumerate(self.atoms())}

    def atom_of(self, atom_uuid: str) -> host.Atom:
        """Return the atom whose detail has that uuid."""
        return self._atoms_by_name[self.storage.flow_detail.find(atom_uuid).name][1]

    def atoms_named(self, names: Iterable[str]) -> list[host.Atom]:
        """Return those of some atoms that are in the code, in the order of the flow."""
        found = [self._atoms_by_name[name] for name in names if name in self._atoms_by_name]
        return [atom for _, atom in sorted(found, key=operator.itemgetter(0))]

    def is_success(self) -> bool:
        """Whether all atoms of the flow have succeeded, or are ignored."""
        others = self.storage.states.outside((states.SUCCESS, states.IGNORE))
        return all(name not in self._atoms_by_name for name in others)
