# SPDX-License-Identifier: Apache-2.0
"""The engine's storage: what is buffered for the next commit."""

from __future__ import annotations

from typing import Any

import pytest
import taskflow.engines
from taskflow import states, task
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine import DELAYED, Client, Delay
from lazy_engine.engine import ownership
from lazy_engine.ledger import record as r
from lazy_engine.token import EXECUTE


class Nothing(task.Task):
    def execute(self) -> None:
        pass


def test_absorbing_an_early_outcome_still_closes_earlier_attempts() -> None:
    """An attempt that is begun anew after a crash, and is answered already, is begun and absorbed in one turn."""
    flow = linear_flow.Flow("flow").add(Nothing("task"))
    engine = taskflow.engines.load(flow, engine="lazy")
    engine.compile()
    engine.prepare()
    storage = engine.storage
    first = storage.begin_attempt("task", EXECUTE)
    second = storage.begin_attempt("task", EXECUTE)
    assert (first.attempt, second.attempt) == (1, 2)
    storage.absorb(second)
    changes = storage.changes()
    assert list(changes.absorbed) == [second]
    assert [(c.up_to_attempt, c.reason) for c in changes.closed] == [(1, r.CLOSED_RETRIED)]
    storage.absorb(first)
    assert storage.changes().closed == []


class Ask(task.Task):
    default_provides = "answer"

    def execute(self) -> Delay:
        return Delay(timeout_seconds=60)


class Look(task.Task):
    """Has the keeper write what it may while this task is at work, or not."""

    def execute(self, answer: int) -> None:
        if FLUSHES:
            FLUSHES.pop()._flush_marks()
        SEEN.append(stored_states())


FLUSHES: list[Any] = []
SEEN: list[dict[str, str]] = []
ENGINES: list[Any] = []


def stored_states() -> dict[str, str]:
    storage = ENGINES[0].storage
    detail = storage.ledger.detail(storage.flow_uuid)
    return {atom.name: atom.state for atom in detail}


@pytest.mark.parametrize("flushes", [False, True])
def test_result_is_stored_as_absorbed_before_what_saw_it_is_stored_as_begun(
    flushes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise whoever came after a crash would run the second task again without its argument."""
    begin = ownership.Ownership.begin

    def remember(owned: Any) -> None:
        FLUSHES.append(owned)
        begin(owned)

    flow = linear_flow.Flow("flow").add(Ask("ask"), Look("look"), Look("again"))
    engine = taskflow.engines.load(flow, engine="lazy")
    assert engine.run() == DELAYED
    ENGINES[:] = [engine]
    SEEN.clear()
    client = Client(engine.storage.backend)
    client.complete(client.token(engine.storage.flow_uuid, "ask"), 1)
    assert stored_states()["ask"] == DELAYED
    if flushes:
        monkeypatch.setattr(ownership.Ownership, "begin", remember)
    assert engine.run() == states.SUCCESS
    first, second = SEEN
    if flushes:
        assert (first["ask"], first["look"]) == (states.SUCCESS, states.RUNNING)
    else:
        assert (first["ask"], first["look"]) == (DELAYED, states.PENDING)
    assert (second["ask"], second["look"]) == (states.SUCCESS, states.SUCCESS)
    assert set(stored_states().values()) == {states.SUCCESS}


def test_marks_are_written_with_the_delays_that_are_open_in_the_store() -> None:
    """Not with those that are open in memory: what was opened or called off since is written later."""
    flow = unordered_flow.Flow("flow").add(Ask("ask", provides="a"), Nothing("task"))
    engine = taskflow.engines.load(flow, engine="lazy")
    assert engine.run() == DELAYED
    storage = engine.storage

    def marks() -> r.Changes:
        storage.set_task_progress("task", 0.5 + len(storage.delayed_tasks()) / 10)
        storage.set_atom_state("task", states.RUNNING)
        found = storage.begun_marks()
        assert found is not None
        return found

    assert marks().open_delays == 1
    storage.call_off("ask")
    assert storage.delayed_tasks() == []
    assert marks().open_delays == 1
