# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's runtime: the parts of a compiled flow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taskflow.deciders import Depth
from taskflow.engines.action_engine import (
    compiler,
    deciders,
    executor,
    runtime,
    selector,
)
from taskflow.engines.action_engine.actions import retry as retry_action

from lazy_engine.host.name import ATOMS, RETRY, Atom


class Graph:
    """The nodes of a compiled flow, and what is directly before and after each.

    :ivar atoms: tasks and retry controllers, in the order of the compilation.
    :ivar flow_nodes: where flows begin and end; nothing runs there.
    """

    def __init__(self, compilation: compiler.Compilation) -> None:
        graph = compilation.execution_graph
        kinds = {node: data["kind"] for node, data in graph.nodes(data=True)}
        self.before: dict[Any, list[Any]] = {node: list(graph.pred[node]) for node in kinds}
        self.after: dict[Any, list[Any]] = {node: list(graph.succ[node]) for node in kinds}
        self.atoms: list[Atom] = [node for node, kind in kinds.items() if kind in ATOMS]
        self.atom_set = frozenset(self.atoms)
        self.flow_nodes = [node for node, kind in kinds.items() if kind not in ATOMS]
        self.retries = frozenset(node for node, kind in kinds.items() if kind == RETRY)


def item_of(node: Any) -> Any:
    """Return the flow that a node ends, or what the node itself is."""
    return node.flow if isinstance(node, compiler.Terminator) else node


def decider_of(parts: runtime.Runtime, atom: Atom) -> deciders.Decider:
    """Return what decides, late, whether an atom that may execute is ignored instead."""
    return deciders.IgnoreDecider(atom, parts.fetch_edge_deciders(atom))


def goes_ahead() -> deciders.Decider:
    """Return the decider that never objects."""
    return deciders.NoOpDecider()


class HostRuntime(runtime.Runtime):  # type: ignore[misc]  # no types
    """TaskFlow's runtime, with its parts exchangeable."""

    @property
    def notifier(self) -> Any:
        """Where atom notifications go."""
        return self._atom_notifier

    @property
    def task_executor(self) -> executor.TaskExecutor:
        """What runs the tasks."""
        return self._task_executor

    @property
    def retry_executor(self) -> executor.SerialRetryExecutor:
        """What runs the retry controllers."""
        return self._retry_executor

    @property
    def has_narrow_deciders(self) -> bool:
        """Whether a decider may ignore less than all that comes after it."""
        return any(
            decider.depth is not Depth.ALL
            for atom in self.atoms()
            for decider in self.fetch_edge_deciders(atom)
        )

    def make_selector(self) -> selector.Selector:
        """Return TaskFlow's way of finding the atoms that can run next."""
        return selector.Selector(self)

    @property
    def host_compilation(self) -> Any:
        """The compiled flow, with its ``execution_graph``."""
        return self._compilation

    def make_retry_action(self) -> retry_action.RetryAction:
        """Return TaskFlow's way of scheduling retry controllers."""
        return retry_action.RetryAction(self.storage, self.notifier, self.retry_executor)

    def atoms(self) -> Iterator[Atom]:
        """Yield every atom of the flow."""
        yield from self.iterate_nodes(ATOMS)
