# SPDX-License-Identifier: Apache-2.0
"""A flow compiled here is the very same as compiled by TaskFlow, down to the order of everything."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from taskflow import deciders, retry, task
from taskflow.engines.action_engine import compiler as theirs
from taskflow.patterns import graph_flow, linear_flow, unordered_flow
from taskflow.types import tree

from lazy_engine import compiler as ours
from tests.counting import count_calls

_SCALE = int(os.environ.get("LAZY_ENGINE_PROPERTY_SCALE", "1"))
_LINKS = st.tuples(
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from((None, *deciders.Depth)),
)

shapes = st.recursive(
    st.just("task"),
    lambda inner: st.tuples(
        st.sampled_from(("linear", "unordered", "graph", "targeted")),
        st.booleans(),
        st.lists(inner, max_size=5),
        st.lists(_LINKS, max_size=6),
    ),
    max_leaves=15,
)


class Step(task.Task):
    def execute(self) -> None:
        raise AssertionError("nothing is run here")


def _yes(history: Any) -> bool:
    return True


def build(shape: Any, name: str = "f", provides: Any = None) -> Any:
    """Make a flow.

    :param provides: asked for each task what it provides.
    """
    if shape == "task":
        return Step(name, provides=None if provides is None else provides())
    kind, has_retry, children, links = shape
    controller = retry.Times(2, name=f"{name}.retry") if has_retry else None
    pattern = {
        "linear": linear_flow.Flow,
        "unordered": unordered_flow.Flow,
        "graph": graph_flow.Flow,
        "targeted": graph_flow.TargetedFlow,
    }[kind]
    flow = pattern(name, retry=controller)
    parts = [build(child, f"{name}.{index}", provides) for index, child in enumerate(children)]
    flow.add(*parts)
    if kind in ("graph", "targeted"):
        # Against the order of adding too: then the order of children is another.
        for first, second, depth in links:
            if max(first, second) < len(parts) and first < second:
                start, end = (parts[first], parts[second])
                if len(links) % 2:
                    start, end = parts[len(parts) - 1 - first], parts[len(parts) - 1 - second]
                decider = None if depth is None else _yes
                flow.link(start, end, decider=decider, decider_depth=depth)
        if kind == "targeted" and parts and len(links) > 2:
            flow.set_target(parts[len(parts) // 2])
    return flow


def _named(node: Any) -> tuple[str, str]:
    return type(node).__name__, node.name


def _graph(graph: Any) -> Any:
    """All of a graph; terminators, which are made anew each time, by name."""
    return {
        "class": type(graph),
        "frozen": graph.frozen,
        "about": graph.graph,
        "nodes": [(_named(node), data) for node, data in graph.nodes(data=True)],
        "after": [
            (_named(node), [(_named(end), data) for end, data in graph.succ[node].items()])
            for node in graph
        ],
        "before": [
            (_named(node), [(_named(start), data) for start, data in graph.pred[node].items()])
            for node in graph
        ],
    }


def _tree(node: tree.Node) -> Any:
    parent = None if node.parent is None else node.parent.item
    return node.item, node.metadata, node.frozen, parent, [_tree(child) for child in node]


#: An inner flow in which one comes after two others that stand the other way round.
_CROSSED = ("graph", False, ["task"] * 3, [(0, 1, None), (1, 2, None), (0, 2, None)])


@settings(max_examples=200 * _SCALE, deadline=None)
@given(shape=shapes)
@example(shape=("linear", False, [_CROSSED, "task"], []))
@example(shape=_CROSSED)
def test_compilation_is_taskflows(shape: Any) -> None:
    flow = build(shape)
    found, wanted = ours._Compiling(flow).compilation(), theirs.PatternCompiler(flow).compile()
    assert _graph(found.execution_graph) == _graph(wanted.execution_graph)
    assert _tree(found.hierarchy) == _tree(wanted.hierarchy)
    for node in wanted.hierarchy.dfs_iter(include_self=True):
        place = found.hierarchy.find(node.item)
        assert place.item is node.item
        assert place.parent is None or place in list(place.parent)
    assert found.hierarchy.find(Step("elsewhere")) is None


_NOBODYS = object()


class Foreign(linear_flow.Flow):
    """A flow of somebody's own that holds what nobody can run."""

    def __iter__(self) -> Any:
        yield _NOBODYS


def _twice() -> Any:
    step = Step("step")
    return linear_flow.Flow("f").add(step, linear_flow.Flow("inner").add(step))


def _shared_retry() -> Any:
    controller = retry.Times(2, name="controller")
    inner = [linear_flow.Flow(name, retry=controller).add(Step(name)) for name in ("a", "b")]
    return linear_flow.Flow("f").add(*inner)


def _nested_retry() -> Any:
    controller = retry.Times(2, name="controller")
    inner = linear_flow.Flow("inner", retry=controller).add(Step("step"))
    return linear_flow.Flow("f", retry=controller).add(inner)


class Circle(unordered_flow.Flow):
    """A flow of somebody's own whose tasks each come after the other."""

    def iter_links(self) -> Any:
        first, second = list(self)
        yield first, second, {}
        yield second, first, None


def _circle() -> Any:
    inner = Circle("inner", retry=retry.Times(2)).add(Step("a"), Step("b"))
    return linear_flow.Flow("f").add(inner)


def _outcome(compile_flow: Any, flow: Any) -> Any:
    try:
        compilation = compile_flow(flow)
    except Exception as error:
        return type(error), str(error)
    return _graph(compilation.execution_graph), _tree(compilation.hierarchy)


@pytest.mark.parametrize(
    "make",
    [
        _twice,
        _shared_retry,
        _nested_retry,
        _circle,
        lambda: Foreign("f"),
        lambda: linear_flow.Flow("f").add(Foreign("inner")),
        lambda: Step("alone"),
        lambda: _NOBODYS,
    ],
)
def test_unusual_flow_is_compiled_or_refused_as_by_taskflow(make: Any) -> None:
    flow = make()
    wanted = _outcome(lambda flow: theirs.PatternCompiler(flow).compile(), flow)
    assert _outcome(ours.compile_flow, flow) == wanted


def test_calls_grow_with_the_size_of_a_flow() -> None:
    def calls(count: int) -> int:
        flow = linear_flow.Flow("f").add(*[Step(f"step {number}") for number in range(count)])
        return count_calls(lambda: ours.compile_flow(flow))

    assert calls(400) < 4.2 * calls(100)
