# SPDX-License-Identifier: Apache-2.0
"""Where an atom's arguments may come from is what TaskFlow says, scope by scope and in the same order."""

from __future__ import annotations

import os
from typing import Any

import pytest
import taskflow.engines
from hypothesis import given, settings
from hypothesis import strategies as st
from taskflow import states, task
from taskflow.engines.action_engine import compiler, scopes
from taskflow.exceptions import NotFound
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.types.failure import Failure

from lazy_engine.compiler import compile_flow
from lazy_engine.engine.argument import ArgumentStorage
from lazy_engine.engine.scope import Scopes
from tests.counting import count_calls
from tests.properties.test_compiler import build, shapes

_SCALE = int(os.environ.get("LAZY_ENGINE_PROPERTY_SCALE", "1"))


@settings(max_examples=200 * _SCALE, deadline=None)
@given(shape=shapes, data=st.data())
def test_scopes_are_taskflows(shape: Any, data: st.DataObject) -> None:
    compilation = compile_flow(build(shape))
    graph = compilation.execution_graph
    atoms = [node for node in graph if graph.nodes[node]["kind"] in compiler.ATOMS]
    names = [atom.name for atom in atoms]
    wanted = set(data.draw(st.lists(st.sampled_from(names)))) if names else set()
    found = Scopes(compilation)
    numbers = sorted(map(found.number, wanted))
    by_number = {found.number(name): name for name in names}
    assert len(by_number) == len(names)
    for atom in atoms:
        walker = scopes.ScopeWalker(compilation, atom, names_only=True)
        theirs = [[name for name in scope if name in wanted] for scope in walker]
        ours = [[by_number[n] for n in scope] for scope in found.visible(atom.name, numbers)]
        assert [scope for scope in ours if scope] == [scope for scope in theirs if scope]
    assert not found.knows("nobody")


_RESULTS = (None, 7, {"part": 1}, {"part": 1, "a": 2}, [1, 2], [])
_STATES = (states.SUCCESS, states.SUCCESS, states.IGNORE, states.FAILURE)


def _answer(fetch: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return fetch(*args, **kwargs)
    except NotFound:
        return NotFound


@settings(max_examples=100 * _SCALE, deadline=None)
@given(shape=shapes.filter(lambda shape: shape != "task"), data=st.data())
def test_arguments_are_those_that_taskflow_finds(shape: Any, data: st.DataObject) -> None:
    kinds: Any = st.sampled_from(("a", "b", {"part"}, {"part", "a"}, ("a", "b"), ("b",)))
    injected = data.draw(st.sets(st.sampled_from("acd")))
    engine = taskflow.engines.load(build(shape, provides=lambda: data.draw(kinds)), engine="lazy")
    engine.compile()
    engine.prepare()
    storage = engine.storage
    stock = super(ArgumentStorage, storage)  # whose scopes are TaskFlow's own
    is_transient = data.draw(st.booleans())
    storage.inject(dict.fromkeys(injected, "injected"), transient=is_transient)
    wanted = [*"abcd", "part"]
    for atom in engine.host_runtime.atoms():
        if data.draw(st.booleans()):
            storage.inject_atom_args(atom.name, {"a": "brought"}, data.draw(st.booleans()))
        for name in wanted:
            for optional in ((), ("x",)):
                args: Any = (atom.name, {"x": name}), {"optional_args": optional}
                assert storage.fetch_unsatisfied_args(*args[0], **args[1]) == (
                    stock.fetch_unsatisfied_args(*args[0], **args[1])
                )
                args = ({"x": name}, atom.name), {"optional_args": optional}
                ours = _answer(storage.fetch_mapped_args, *args[0], **args[1])
                assert ours == _answer(stock.fetch_mapped_args, *args[0], **args[1])
        # Those before an atom are done before it asks.
        state = data.draw(st.sampled_from(_STATES))
        result: Any = data.draw(st.sampled_from(_RESULTS))
        if state == states.FAILURE:
            result = Failure.from_exception(ValueError("no"))
        if state == states.IGNORE:
            storage.set_atom_state(atom.name, state)
        else:
            storage.save(atom.name, result, state)


class Hand(task.Task):
    """Takes what the one before it had, and hands it on."""

    def __init__(self, number: int, takes: str, gives: str) -> None:
        super().__init__(f"hand {number}", provides=gives, rebind=[takes])

    def execute(self, value: int) -> int:
        return value + 1


def _row(count: int) -> Any:
    """Each name is provided once."""
    tasks = [Hand(number, f"v{number}", f"v{number + 1}") for number in range(count)]
    return linear_flow.Flow("row").add(*tasks)


def _loop(count: int) -> Any:
    """All provide one name."""
    first = Hand(0, "v0", "value")
    tasks = [Hand(number, "value", "value") for number in range(1, count)]
    return linear_flow.Flow("row").add(first, *tasks)


def _side_by_side(count: int) -> Any:
    first = Hand(0, "v0", "value")
    tasks = [Hand(number, "value", "value") for number in range(1, count)]
    return linear_flow.Flow("f").add(first, unordered_flow.Flow("wide").add(*tasks))


def _given(count: int) -> Any:
    """All take what was injected, and provide it."""
    tasks = [Hand(number, "v0", "v0") for number in range(count)]
    return unordered_flow.Flow("f").add(*tasks)


@pytest.mark.parametrize("make", [_row, _loop, _side_by_side, _given])
def test_calls_for_each_task_stay_the_same_in_larger_flows(make: Any) -> None:
    def calls(count: int) -> tuple[int, ...]:
        engine = taskflow.engines.load(make(count), engine="lazy", store={"v0": 1})
        steps = (engine.compile, engine.prepare, engine.validate, engine.run)
        return tuple(count_calls(step) for step in steps)

    calls(2)  # what is imported and made once
    few, many = calls(50), calls(200)
    assert [more / less < 4.2 for less, more in zip(few, many, strict=True)] == [True] * 4, (
        few,
        many,
    )
