# SPDX-License-Identifier: Apache-2.0
"""Compiles flows in a time that grows with their size, and not with its square.

TaskFlow's compiler makes a graph for every atom and flow and merges them one by
one, each time into a new copy of all that it has so far; and whoever wants to
know where an atom stands in the hierarchy walks through all of it. Here all
nodes go into one graph from the beginning, and the hierarchy knows its nodes.
What comes out is the same (taskflow 6.5, ``action_engine/compiler.py``): nodes,
edges, what hangs on them, and the order of all these.

Whatever is not quite ordinary (a task that is in a flow twice, one retry
controller in two flows, something that is neither task nor flow) is left to
TaskFlow's compiler, which then says what is wrong with it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from taskflow import flow as taskflow_flow
from taskflow import logging as taskflow_logging
from taskflow import task as taskflow_task
from taskflow.engines.action_engine import compiler
from taskflow.flow import LINK_INVARIANT, LINK_RETRY
from taskflow.types import graph as taskflow_graph
from taskflow.types import tree

_ENTRY: Final = {LINK_INVARIANT: True}
_RETRY_ENTRY: Final = {LINK_INVARIANT: True, LINK_RETRY: True}


class _Unfamiliar(Exception):
    """Leaves the compiling of something that TaskFlow itself is to look at."""


class _Ends(NamedTuple):
    """Where a compiled item begins and ends; both are nodes of the graph."""

    first: Any
    last: Any


class Hierarchy(tree.Node):  # type: ignore[misc]  # TaskFlow has no types
    """The root of a flow's hierarchy, which knows where everything stands in it.

    :ivar places: node of the hierarchy, by what stands there.
    """

    def __init__(self, item: Any, **metadata: Any) -> None:
        super().__init__(item, **metadata)
        self.places: dict[Any, tree.Node] = {item: self}

    def find(self, item: Any, only_direct: bool = False, include_self: bool = True) -> Any:
        """Return the node of an item, or ``None``; see :meth:`taskflow.types.tree.Node.find`."""
        if only_direct or not include_self or item not in self.places:
            return super().find(item, only_direct=only_direct, include_self=include_self)
        return self.places[item]


def compile_flow(flow: Any) -> compiler.Compilation:
    """Compile a flow, or a task alone.

    :raises TypeError: it holds something that is neither a flow nor a task.
    :raises ValueError: it holds something twice.
    """
    # What TaskFlow tells of its steps is there for those who asked to be told.
    theirs = logging.getLogger(compiler.__name__)
    if not theirs.isEnabledFor(taskflow_logging.TRACE):
        try:
            return _Compiling(flow).compilation()
        except (_Unfamiliar, KeyError):
            pass
    return compiler.PatternCompiler(flow).compile()


def least_size(flow: Any) -> int:
    """Return how many atoms a flow or a task has at least: those of flows inside it are not counted."""
    return len(flow) if isinstance(flow, taskflow_flow.Flow) else 1


class _Compiling:
    """One flow on its way into a compilation."""

    def __init__(self, root: Any) -> None:
        if not isinstance(root, (taskflow_flow.Flow, taskflow_task.Task)):
            raise _Unfamiliar
        self._root = root
        kind = compiler.FLOW if isinstance(root, taskflow_flow.Flow) else compiler.TASK
        data = {"noop": True} if kind == compiler.FLOW else {}
        self._tree = Hierarchy(root, kind=kind, **data)
        self._graph = taskflow_graph.DiGraph(name=root.name)

    def compilation(self) -> compiler.Compilation:
        self._add(self._root, None, None)
        self._graph.freeze()
        self._tree.freeze()
        return compiler.Compilation(self._graph, self._tree)

    def _add(self, item: Any, parent: tree.Node | None, controller: Any) -> _Ends:
        """Add a flow or a task to the graph and to the hierarchy.

        :param controller: the nearest retry controller around it.
        """
        if item in self._graph:
            raise _Unfamiliar
        if isinstance(item, taskflow_flow.Flow):
            return self._add_flow(item, parent, controller)
        if not isinstance(item, taskflow_task.Task):
            raise _Unfamiliar
        self._add_node(item, controller, kind=compiler.TASK)
        self._grow(parent, item, kind=compiler.TASK)
        return _Ends(item, item)

    def _add_node(self, node: Any, controller: Any, **data: Any) -> None:
        if controller is not None:
            data[compiler.RETRY] = controller
        self._graph.add_node(node, **data)

    def _grow(self, parent: tree.Node | None, item: Any, **metadata: Any) -> tree.Node:
        if parent is None:
            return self._tree
        node = tree.Node(item, **metadata)
        parent.add(node)
        self._tree.places[item] = node
        return node

    def _add_flow(self, flow: Any, parent: tree.Node | None, controller: Any) -> _Ends:
        self._add_node(flow, controller, kind=compiler.FLOW, noop=True)
        node = self._grow(parent, flow, kind=compiler.FLOW, noop=True)
        retry = flow.retry
        if retry is not None:
            self._grow(node, retry, kind=compiler.RETRY)
        inner = controller if retry is None else retry
        ends = {child: self._add(child, node, inner) for child in flow}
        linked_from, linked_to = self._link(flow, ends, is_root=parent is None)
        begin = flow
        if retry is not None:
            if retry in self._graph:
                raise _Unfamiliar
            self._add_node(retry, controller, kind=compiler.RETRY)
            self._connect(flow, retry, _ENTRY)
            begin = retry
        firsts = [end.first for child, end in ends.items() if child not in linked_to]
        for first in firsts:
            self._connect(begin, first, _ENTRY if retry is None else _RETRY_ENTRY)
        lasts = [end.last for child, end in ends.items() if child not in linked_from]
        if not firsts:  # nothing is in it, or nothing comes first
            lasts = [flow, *lasts] if retry is None else [*lasts, retry]
        terminator = compiler.Terminator(flow)
        self._add_node(terminator, controller, kind=compiler.FLOW_END, noop=True)
        for last in lasts:
            self._connect(last, terminator, _ENTRY)
        return _Ends(flow, terminator)

    def _link(
        self, flow: Any, ends: Mapping[Any, _Ends], *, is_root: bool
    ) -> tuple[set[Any], set[Any]]:
        """Link a flow's children as it says; return those linked from and to."""
        links: Sequence[tuple[Any, Any, Mapping[str, Any]]] = list(flow.iter_links())
        if not is_root:
            # TaskFlow copies the graph of an inner flow into that around it node
            # by node; what is before a node then stands in the order of nodes.
            position = {child: number for number, child in enumerate(ends)}
            links = sorted(links, key=lambda link: position[link[0]])
        linked_from, linked_to = set(), set()
        for start, end, data in links:
            self._connect(ends[start].last, ends[end].first, data)
            linked_from.add(start)
            linked_to.add(end)
        return linked_from, linked_to

    def _connect(self, start: Any, end: Any, data: Mapping[str, Any]) -> None:
        self._graph.add_edge(start, end, attr_dict=dict(data) if data else None)
