# SPDX-License-Identifier: Apache-2.0
"""What can run next: the answers of the lazy engine's selector are TaskFlow's own, whatever the states are.

The states are set at random, also to what no run leads to, one after the other; the selector hears of each change and
of nothing else, while TaskFlow's looks through everything each time that it is asked.
"""

from __future__ import annotations

import os
from typing import Any

import taskflow.engines
from hypothesis import given, settings
from hypothesis import strategies as st
from taskflow import retry, states, task
from taskflow.patterns import graph_flow, linear_flow, unordered_flow

from lazy_engine.delay import DELAYED
from lazy_engine.engine.selector import LazySelector

_SCALE = int(os.environ.get("LAZY_ENGINE_PROPERTY_SCALE", "1"))
_TASK_STATES = (
    states.PENDING,
    states.RUNNING,
    states.SUCCESS,
    states.FAILURE,
    states.REVERTING,
    states.REVERTED,
    states.REVERT_FAILURE,
    states.IGNORE,
    DELAYED,
)
_INTENTIONS = (states.EXECUTE, states.REVERT, states.IGNORE)
_RETRY_INTENTIONS = (*_INTENTIONS, states.RETRY)


class Step(task.Task):
    def execute(self) -> None:
        raise AssertionError("nothing is run here")


_shapes = st.recursive(
    st.just("task"),
    lambda inner: st.tuples(
        st.sampled_from(("linear", "unordered", "graph")),
        st.booleans(),
        st.lists(inner, max_size=4),
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4),
    ),
    max_leaves=12,
)


def _build(shape: Any, name: str) -> Any:
    if shape == "task":
        return Step(name)
    kind, has_retry, children, links = shape
    patterns = {"linear": linear_flow, "unordered": unordered_flow, "graph": graph_flow}
    controller = retry.Times(2, name=f"{name}.retry") if has_retry else None
    flow = patterns[kind].Flow(name, retry=controller)
    parts = [_build(child, f"{name}.{index}") for index, child in enumerate(children)]
    flow.add(*parts)
    if kind == "graph":
        for start, end in links:
            if max(start, end) < len(parts) and start < end:
                flow.link(parts[start], parts[end])
    return flow


def _names(found: Any) -> list[str]:
    return [atom.name for atom, _decider in found]


@settings(max_examples=100 * _SCALE, deadline=None)
@given(shape=_shapes.filter(lambda shape: shape != "task"), data=st.data())
def test_selector_answers_as_taskflows_does(shape: Any, data: st.DataObject) -> None:
    engine = taskflow.engines.load(_build(shape, "f"), engine="lazy")
    engine.compile()
    engine.prepare()
    runtime = engine.host_runtime
    atoms = list(runtime.atoms())
    ours, theirs = runtime.selector, runtime.make_selector()
    assert isinstance(ours, LazySelector)
    for number in range(data.draw(st.integers(0, 25), label="changes") + 1):
        if number and atoms:
            atom = data.draw(st.sampled_from(atoms), label="atom")
            intentions = _RETRY_INTENTIONS if isinstance(atom, retry.Retry) else _INTENTIONS
            engine.storage.set_atom_state(atom.name, data.draw(st.sampled_from(_TASK_STATES)))
            engine.storage.set_atom_intention(atom.name, data.draw(st.sampled_from(intentions)))
        for start in (None, *atoms):
            assert _names(ours.iter_next_atoms(start)) == _names(theirs.iter_next_atoms(start))
