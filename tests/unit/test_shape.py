# SPDX-License-Identifier: Apache-2.0
"""Shapes of flows, and what counts as a change of them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from taskflow import retry, states, task
from taskflow.engines.action_engine import compiler
from taskflow.patterns import graph_flow, linear_flow, unordered_flow
from taskflow.types import graph as graphs

from lazy_engine import shape
from lazy_engine.delay import DELAYED
from lazy_engine.shape import ADDED, GONE, MOVED, VERSION, Shape, StoredAtom


class Step(task.Task):
    def __init__(self, name: str, version: tuple[int, int] = (1, 0)) -> None:
        super().__init__(name)
        self.version = version

    def execute(self) -> None:
        pass


def line(*parts: Any, name: str = "flow", again: Any = None) -> Any:
    return linear_flow.Flow(name, retry=again).add(*map(step, parts))


def wide(*parts: Any, name: str = "wide") -> Any:
    return unordered_flow.Flow(name).add(*map(step, parts))


def step(part: Any) -> Any:
    return Step(part) if isinstance(part, str) else part


def shape_of(flow: Any) -> Shape:
    return shape.read(compiler.PatternCompiler(flow).compile().execution_graph)


def stored(flow: Any, begun: str = "", state: str = states.SUCCESS) -> list[StoredAtom]:
    """Return what the store says of a flow of which the atoms *begun* have begun."""
    return [
        StoredAtom(
            name=atom.name,
            state=state if atom.name in begun.split() else states.PENDING,
            version=atom.version,
            shape=json.loads(json.dumps(atom.to_meta())),
        )
        for atom in shape_of(flow).atoms.values()
    ]


def changes(new: Any, old: Sequence[StoredAtom]) -> set[tuple[str, str, bool]]:
    drift = shape.compare(shape_of(new), old)
    assert len({(c.what, c.name) for c in drift.changes}) == len(drift.changes)
    return {(change.what, change.name, change.is_harmful) for change in drift.changes}


def test_atom_knows_the_nearest_before_it_through_nested_flows() -> None:
    found = shape_of(line("a", wide("b", line("c", "d", name="inner")), "e")).atoms
    assert {name: atom.names for name, atom in found.items()} == {
        "a": (),
        "b": ("a",),
        "c": ("a",),
        "d": ("c",),
        "e": ("b", "d"),
    }


def test_retry_controller_stands_before_what_it_governs() -> None:
    found = shape_of(line("a", line("b", name="inner", again=retry.Times(2, "again")))).atoms
    assert found["again"].names == ("a",)
    assert found["b"].names == ("again",)
    assert found["again"].kind == "retry"


@pytest.mark.parametrize(
    "same",
    [
        line("a", "b", "c", name="other name"),
        line("a", line("b", "c", name="inner")),
        line(wide("a"), "b", "c"),
        line(line("a", "b", name="inner"), line(name="empty"), "c"),
    ],
)
def test_names_of_flows_and_mere_nesting_mean_nothing(same: Any) -> None:
    flow = line("a", "b", "c")
    assert shape_of(same).digest == shape_of(flow).digest
    assert not changes(same, stored(flow, "a b c"))


@pytest.mark.parametrize(
    "other",
    [
        line("a", "c", "b"),
        line("a", "b"),
        line("a", "b", "c", "d"),
        line("a", wide("b", "c")),
        line("a", "b", Step("c", version=(1, 1))),
    ],
)
def test_every_change_changes_the_digest(other: Any) -> None:
    assert shape_of(other).digest != shape_of(line("a", "b", "c")).digest


def test_the_same_code_has_not_drifted() -> None:
    flow = line("a", wide("b", "c"), "d")
    assert not shape.compare(shape_of(flow), stored(flow, "a b"))


def test_what_has_not_begun_may_change_at_will() -> None:
    old = stored(line("a", "b", "c", "d"), "a")
    assert changes(line("a", "d", "new", Step("b", version=(2, 0))), old) == {
        (GONE, "c", False),
        (ADDED, "new", False),
        (MOVED, "d", False),
        (MOVED, "b", False),
        (VERSION, "b", False),
    }


@pytest.mark.parametrize("state", [states.SUCCESS, DELAYED, states.RUNNING, states.FAILURE])
def test_what_has_begun_must_not_be_gone(state: str) -> None:
    assert changes(line("a"), stored(line("a", "b"), "b", state)) == {(GONE, "b", True)}


@pytest.mark.parametrize("state", [states.PENDING, states.IGNORE, states.REVERTED])
def test_what_left_no_traces_may_be_gone(state: str) -> None:
    assert changes(line("a"), stored(line("a", "b"), "b", state)) == {(GONE, "b", False)}


def test_nothing_may_be_added_before_what_has_begun() -> None:
    old = stored(line("a", "b", "c"), "a b", DELAYED)
    assert changes(line("a", "new", "b", "c"), old) == {(ADDED, "new", True), (MOVED, "b", True)}


def test_addition_before_what_has_begun_is_found_without_a_stored_shape() -> None:
    old = [StoredAtom(name="b", state=states.SUCCESS, version="1.0", shape=None)]
    assert changes(line("new", "b", "later"), old) == {
        (ADDED, "new", True),
        (ADDED, "later", False),
    }


def test_addition_beside_what_has_begun_is_allowed() -> None:
    old = stored(line("a", wide("b"), "c"), "a b", DELAYED)
    assert changes(line("a", wide("b", "new"), "c"), old) == {
        (ADDED, "new", False),
        (MOVED, "c", False),
    }


def test_what_has_begun_must_not_be_moved() -> None:
    old = stored(line("a", "b", "c"), "a b")
    assert changes(line("b", "a", "c"), old) == {
        (MOVED, "a", True),
        (MOVED, "b", True),
        (MOVED, "c", False),
    }


def test_retry_controller_around_what_has_begun_is_no_allowed_change() -> None:
    old = stored(line("a", "b"), "a")
    assert (ADDED, "again", True) in changes(line("a", "b", again=retry.Times(1, "again")), old)


@pytest.mark.parametrize(
    ("version", "is_harmful"), [((1, 1), False), ((2, 0), True), ((10, 0), True)]
)
def test_only_a_major_version_of_what_has_begun_must_stay(
    version: tuple[int, int], is_harmful: bool
) -> None:
    found = changes(line(Step("a", version=version), "b"), stored(line("a", "b"), "a"))
    assert found == {(VERSION, "a", is_harmful)}


def test_atom_stored_without_a_version_fits_every_version() -> None:
    old = [StoredAtom(name="a", state=states.SUCCESS, version=None, shape=None)]
    assert not changes(line("a"), old)


def test_edges_of_a_graph_count() -> None:
    def flow(*links: tuple[str, str]) -> Any:
        steps = {name: Step(name) for name in "abc"}
        made = graph_flow.Flow("graph").add(*steps.values())
        for before, after in links:
            made.link(steps[before], steps[after])
        return made

    old = stored(flow(("a", "b")), "a c")
    assert changes(flow(("a", "b"), ("a", "c")), old) == {(MOVED, "c", True)}
    assert changes(flow(("a", "b"), ("c", "b")), old) == {(MOVED, "b", False)}


def test_more_predecessors_than_are_kept_by_name_still_count() -> None:
    names = [f"a{number}" for number in range(30)]
    flow = line(wide(*names), "last")
    assert shape_of(flow).atoms["last"].names is None
    assert not changes(flow, stored(flow, "last"))
    other = line(wide(*names[:-1], "b"), "last")
    assert (MOVED, "last", True) in changes(other, stored(flow, "last"))


def test_what_was_found_gone_before_it_began_is_not_news_again() -> None:
    old = stored(line("a", "b"), "a")
    code = shape_of(line("a"))
    known = [
        StoredAtom(name=a.name, state=a.state, version=a.version, shape=shape.meta_of(a.name, code))
        for a in old
    ]
    assert not shape.compare(code, known)
    assert not changes(line("a", "b"), known), "and it may come back"


def test_changes_are_named_harmful_ones_first() -> None:
    old = stored(line("a", "b", "c"), "a b", DELAYED)
    drift = shape.compare(shape_of(line("new", "b", "later")), old)
    assert [change.name for change in drift.harmful] == ["a", "new", "b"]
    assert str(drift) == (
        "'a' (DELAYED) is gone; 'new' is added, before tasks that have begun; 'b' (DELAYED) is"
        " moved: it came after 'a' and comes after 'new'; 'c' (PENDING) is gone;"
        " 'later' is added"
    )


def test_only_the_first_of_many_changes_are_said_and_noted() -> None:
    drift = shape.compare(
        shape_of(line("a", *(f"new{number}" for number in range(150)))), stored(line("a"), "a")
    )
    assert str(drift).endswith("; and 140 more")
    noted = drift.to_meta(7)
    assert (noted["at"], noted["count"], len(noted["changes"])) == (7, 150, 100)
    json.dumps(noted)


def test_ten_thousand_atoms_take_a_moment() -> None:
    """Linear: no more than a generous time that a quadratic way would miss by far."""

    class Node:
        version = (1, 0)
        rebind: ClassVar[dict[str, str]] = {}

        def __init__(self, name: str) -> None:
            self.name = name

    graph = graphs.DiGraph(name="wide")
    middle = Node("middle[$]")
    graph.add_node(middle, kind="flow_end")
    for number in range(5000):
        for name, edge in ((f"a{number}", False), (f"b{number}", True)):
            node = Node(name)
            graph.add_node(node, kind="task")
            graph.add_edge(*((middle, node) if edge else (node, middle)))
    started = time.monotonic()
    found = shape.read(graph)
    old = [
        StoredAtom(name=atom.name, state=states.SUCCESS, version="1.0", shape=atom.to_meta())
        for atom in found.atoms.values()
    ]
    assert not shape.compare(found, old)
    assert found.is_stored_in({shape.META_SHAPE: found.to_meta()})
    assert time.monotonic() - started < 5
