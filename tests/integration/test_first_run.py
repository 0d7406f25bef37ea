# SPDX-License-Identifier: Apache-2.0
"""A flow's first run, by whichever of several engines that were made for it."""

from __future__ import annotations

import contextlib
import gc
import uuid
from typing import Any

import pytest
import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow
from taskflow.persistence import models

from lazy_engine import Client, Delay, errors


class Give(task.Task):
    default_provides = "given"

    def execute(self, value: int) -> int:
        return value


class Ask(task.Task):
    default_provides = "answer"

    def execute(self) -> Delay:
        return Delay(timeout_seconds=3600)


class Sum(task.Task):
    default_provides = "total"

    def execute(self, given: int, answer: int) -> int:
        return given + answer


def sums() -> Any:
    return linear_flow.Flow("sums").add(Give("give"), Ask("ask"), Sum("sum"))


def saved(client: Client) -> models.FlowDetail:
    """Store a flow as users of TaskFlow do."""
    book = models.LogBook("book")
    detail = models.FlowDetail("sums", str(uuid.uuid4()))
    book.add(detail)
    return client.backend.get_connection().save_logbook(book).find(detail.uuid)


def submitted(client: Client) -> models.FlowDetail:
    flow_uuid = client.submit(sums)
    found = client._ledger.detail(flow_uuid)
    assert found is not None
    return found


@pytest.mark.parametrize("make", [saved, submitted])
def test_flow_is_stored_though_another_engine_was_made_ready(backend: Any, make: Any) -> None:
    client = Client(backend)
    detail = make(client)
    engines = [
        taskflow.engines.load(
            sums(), flow_detail=detail, backend=backend, store={"value": value}, engine="lazy"
        )
        for value in (1, 2)
    ]
    for engine in engines:
        engine.compile()
        engine.prepare()
    assert engines[1].run() == "DELAYED"
    client.complete(client.token(detail.uuid, "ask"), 10)
    assert client.resume(detail.uuid, sums()) == "SUCCESS"
    assert client.flow(detail.uuid).results == {"give": 2, "ask": 10, "sum": 12}


@pytest.mark.parametrize("make", [saved, submitted])
def test_another_engine_may_run_what_one_could_not(
    backend: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(backend)
    detail = make(client)

    def load(value: int) -> Any:
        return taskflow.engines.load(
            sums(), flow_detail=detail, backend=backend, store={"value": value}, engine="lazy"
        )

    def fail(*_: object) -> None:
        raise errors.StoreUnavailable("it is away")

    with monkeypatch.context() as patched:
        patched.setattr(client._ledger, "take", fail)
        with pytest.raises(errors.StoreUnavailable):
            load(1).run()
    assert load(2).run() == "DELAYED"
    client.complete(client.token(detail.uuid, "ask"), 10)
    assert client.resume(detail.uuid, sums()) == "SUCCESS"
    assert client.flow(detail.uuid).results == {"give": 2, "ask": 10, "sum": 12}


def test_lease_runs_out_if_its_owner_was_interrupted_before_it_gave_it_up(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(backend)
    detail = submitted(client)
    options = {"flow_detail": detail, "backend": backend, "engine": "lazy", "lease_seconds": 0.4}
    keeper = client._ledger.keeper
    interrupts = []

    def interrupt(*_: Any, **__: Any) -> None:
        interrupts.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(keeper, "let_go", interrupt)
    monkeypatch.setattr(Give, "execute", interrupt)
    engine = taskflow.engines.load(sums(), store={"value": 1}, **options)
    # Not by pytest.raises, which keeps what was raised and with it all that took part.
    with contextlib.suppress(KeyboardInterrupt):
        engine.run()
    assert len(interrupts) == 2
    monkeypatch.undo()
    gc.collect()  # the parts of a run know of each other
    options["flow_detail"] = client._ledger.detail(detail.uuid)
    other = taskflow.engines.load(sums(), store={"value": 1}, busy_wait_seconds=10, **options)
    assert other.run() == "DELAYED"
