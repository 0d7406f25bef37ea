# SPDX-License-Identifier: Apache-2.0
"""The picture of a flow, from what its store says of its shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from taskflow import states, task
from taskflow.engines.action_engine import compiler
from taskflow.patterns import graph_flow, linear_flow, unordered_flow

from lazy_engine import graph, shape


class Step(task.Task):
    def execute(self, **_: Any) -> None:
        return None


def line(*parts: Any, name: str = "line") -> Any:
    return linear_flow.Flow(name).add(*map(step, parts))


def wide(*parts: Any, name: str = "wide") -> Any:
    return unordered_flow.Flow(name).add(*map(step, parts))


def step(part: Any) -> Any:
    return Step(part) if isinstance(part, str) else part


def stored(flow: Any) -> list[shape.StoredAtom]:
    """Return what the store says of a flow, sorted so that the order gives nothing away."""
    found = shape.read(compiler.PatternCompiler(flow).compile().execution_graph)
    return [
        shape.StoredAtom(
            name=atom.name,
            state=states.PENDING,
            version=None,
            shape=json.loads(json.dumps(atom.to_meta())),
        )
        for _, atom in sorted(found.atoms.items())
    ]


def before(drawn: graph.Graph) -> dict[str, set[str]]:
    """Return the names before each name, past the joins."""
    near: dict[int, set[int]] = {number: set() for number in range(len(drawn.nodes))}
    for source, target in drawn.edges:
        near[target].add(source)

    def names(number: int) -> set[str]:
        found = set()
        for other in near[number]:
            name = drawn.nodes[other].name
            found |= names(other) if name is None else {name}
        return found

    return {
        node.name: names(number) for number, node in enumerate(drawn.nodes) if node.name is not None
    }


def many(letter: str, count: int = 20) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


FLOWS = {
    "a row": line("a", "b", "c"),
    "side by side": line("a", wide("b", line("c", "d", name="inner")), "e"),
    "a join of many": line("a", wide(*many("b")), "c"),
    "a join of many rows": line(
        "a", wide(*[line(f"b{n}", f"c{n}", name=f"row {n}") for n in range(12)]), "d", "e"
    ),
    "many after many": line(wide(*many("a"), name="one"), wide(*many("b"), name="two"), "c"),
    "many after many after many": line(
        wide(*many("a"), name="one"),
        wide(*many("b"), name="two"),
        wide(*many("c"), name="three"),
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_picture_has_the_edges_of_the_code(name: str) -> None:
    found = shape.read(compiler.PatternCompiler(FLOWS[name]).compile().execution_graph)
    wanted = {
        atom: {other for other in found.before([atom]) if _is_nearest(found, other, atom)}
        for atom in found.atoms
    }
    drawn = graph.draw(stored(FLOWS[name]))
    assert before(drawn) == wanted
    assert not any(node.is_loose for node in drawn.nodes)
    for source, target in drawn.edges:
        assert drawn.nodes[source].layer < drawn.nodes[target].layer


def _is_nearest(found: shape.Shape, other: str, atom: str) -> bool:
    between = found.before([atom]) - {other}
    return not any(other in found.before([name]) for name in between)


def test_edges_from_all_to_all_go_through_a_join() -> None:
    drawn = graph.draw(stored(FLOWS["many after many"]))
    assert len(drawn.edges) == 20 + 20 + 20
    assert [node.name for node in drawn.nodes].count(None) == 1


def test_no_two_nodes_stand_in_one_place() -> None:
    drawn = graph.draw(stored(FLOWS["a join of many rows"]))
    places = [(node.layer, node.place) for node in drawn.nodes]
    assert len(set(places)) == len(places)


def test_what_comes_after_unknown_atoms_is_told_apart_and_stands_below() -> None:
    # Two joins side by side: of neither it is known which atoms it is of.
    rows = [line(wide(*many(x), name=f"wide {x}"), f"{x}-joined", name=x) for x in "ab"]
    drawn = graph.draw(stored(line(wide(*rows), "end")))
    loose = {node.name for node in drawn.nodes if node.is_loose}
    assert loose == {"a-joined", "b-joined"}
    layers = {node.name: node.layer for node in drawn.nodes}
    assert layers["a0"] < layers["a-joined"] < layers["end"]


def test_circle_that_changed_code_left_behind_is_drawn() -> None:
    one, other = stored(line("a", "b"))[1], stored(line("b", "a"))[0]
    assert (one.name, other.name) == ("b", "a")
    drawn = graph.draw([one, other])
    assert sorted(drawn.edges) == [(0, 1), (1, 0)]
    assert len({node.layer for node in drawn.nodes}) == 2


def test_atoms_without_a_stored_shape_and_no_atoms_at_all_are_drawn() -> None:
    assert graph.draw([]) == graph.Graph(nodes=[], edges=[])
    bare = shape.StoredAtom(name="a", state=states.SUCCESS, version=None, shape=None)
    assert [node.name for node in graph.draw([bare]).nodes] == ["a"]


def test_lines_that_cross_are_few() -> None:
    flow = graph_flow.Flow("g")
    steps = {name: Step(name) for name in ("a", "b", "c", "x", "y", "z")}
    flow.add(*steps.values())
    for source, target in (("a", "z"), ("b", "y"), ("c", "x")):
        flow.link(steps[source], steps[target])
    drawn = graph.draw(stored(flow))
    place = {node.name: node.place for node in drawn.nodes}
    straight = [place[s] - place[t] for s, t in (("a", "z"), ("b", "y"), ("c", "x"))]
    assert straight == [0, 0, 0]
