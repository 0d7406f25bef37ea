# SPDX-License-Identifier: Apache-2.0
"""How a flow is put together, read from the flow that its factory makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import taskflow.engines
from taskflow import atom as taskflow_atom
from taskflow import flow as taskflow_flow
from taskflow.patterns import graph_flow, linear_flow, unordered_flow

from lazy_engine import ledger

TASK: Final = "task"
RETRY: Final = "retry"

_KINDS: Final[Mapping[type, str]] = {
    linear_flow.Flow: "linear",
    unordered_flow.Flow: "unordered",
    graph_flow.Flow: "graph",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A flow, a task or a retry controller.

    :ivar kind: ``"linear"``, ``"unordered"``, ``"graph"`` (or another pattern's
        class name), ``"task"``, ``"retry"``.
    :ivar children: what a flow is made of, its retry controller first.
    """

    name: str
    kind: str
    children: Sequence[Node] = ()

    def atom_names(self) -> Iterator[str]:
        """Yield the names of its tasks and retry controllers."""
        if self.kind in (TASK, RETRY):
            yield self.name
        for child in self.children:
            yield from child.atom_names()

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON: ``{"name", "kind", "children": […]}``."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind not in (TASK, RETRY):
            found["children"] = [child.to_dict() for child in self.children]
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Structure:
    """A flow's structure.

    :ivar root: the flow.
    :ivar before: for each atom, the names of the nearest ones that must be
        through before it may begin.
    """

    root: Node
    before: Mapping[str, Sequence[str]]


def read(backend: Any, flow_uuid: str) -> Structure | str:
    """Make a stored flow with its factory and return its structure.

    :returns: the structure, or why there is none.
    """
    detail = ledger.beside(backend).detail(flow_uuid)
    if detail is None or "factory" not in (detail.meta or {}):
        return "it has no factory"
    try:
        flow = taskflow.engines.flow_from_detail(detail)
        return Structure(root=_node(flow), before=_before(flow))
    except Exception as error:
        # A factory is anybody's code; without it there is still a list to show.
        cause = error.__cause__ or error.__context__ or error
        return f"its factory failed: {type(cause).__name__}: {cause}"


def _node(part: Any) -> Node:
    if not isinstance(part, taskflow_flow.Flow):
        return Node(name=part.name, kind=TASK)
    children = [_node(child) for child in part]
    if part.retry is not None:
        children.insert(0, Node(name=part.retry.name, kind=RETRY))
    found = (kind for pattern, kind in _KINDS.items() if isinstance(part, pattern))
    return Node(name=part.name, kind=next(found, type(part).__name__), children=children)


def _before(flow: Any) -> dict[str, list[str]]:
    engine = taskflow.engines.load(flow)
    engine.compile()
    graph = engine.compilation.execution_graph
    return {
        node.name: sorted(_nearest_before(graph, node))
        for node in graph.nodes
        if isinstance(node, taskflow_atom.Atom)
    }


def _nearest_before(graph: Any, node: Any) -> set[str]:
    """Return the names of the nearest atoms upstream, past the marks of nested flows."""
    found: set[str] = set()
    seen: set[int] = set()
    left = list(graph.predecessors(node))
    while left:
        other = left.pop()
        if id(other) in seen:
            continue
        seen.add(id(other))
        if isinstance(other, taskflow_atom.Atom):
            found.add(other.name)
        else:
            left.extend(graph.predecessors(other))
    return found
