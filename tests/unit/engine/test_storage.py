# SPDX-License-Identifier: Apache-2.0
"""The engine's storage: what is buffered for the next commit."""

from __future__ import annotations

import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow

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
