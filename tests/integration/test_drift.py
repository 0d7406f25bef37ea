# SPDX-License-Identifier: Apache-2.0
"""Code that changed while its flow was parked."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow
from taskflow.persistence import backends

from lazy_engine import Client, Delay, errors, ledger, shape


class Step(task.Task):
    def execute(self) -> str:
        return f"{self.name} ran"


class Ask(task.Task):
    def execute(self) -> Delay:
        return Delay()


def flow(*names: str) -> Any:
    made = linear_flow.Flow("letter")
    for name in names:
        made.add(Ask(name) if name.startswith("ask") else Step(name))
    return made


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    if request.param == "memory":
        backend = backends.fetch({"connection": "memory://"})
    else:
        backend = backends.fetch({"connection": request.getfixturevalue(f"{request.param}_url")})
        ledger.upgrade(backend)
    with contextlib.closing(backend):
        yield Client(backend)
        ledger.beside(backend).close()


def park(client: Client, *names: str) -> str:
    engine = taskflow.engines.load(flow(*names), backend=client.backend, engine="lazy")
    assert engine.run() == "DELAYED"
    return str(engine.storage.flow_uuid)


def test_shape_is_stored_when_the_flow_first_runs(client: Client) -> None:
    flow_uuid = park(client, "a", "ask", "b")
    detail = ledger.beside(client.backend).detail(flow_uuid)
    assert detail is not None
    found = shape.read(_graph(flow("a", "ask", "b")))
    assert detail.meta[shape.META_SHAPE] == found.to_meta()
    assert {atom.name: atom.meta[shape.META_SHAPE]["names"] for atom in detail} == {
        "a": [],
        "ask": ["a"],
        "b": ["ask"],
    }


def _graph(made: Any) -> Any:
    engine = taskflow.engines.load(made)
    engine.compile()
    return engine.compilation.execution_graph


def test_change_of_what_has_not_begun_is_gone_on_with_and_noted(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    flow_uuid = park(client, "a", "ask", "b", "c")
    changed = flow("a", "ask", "c", "ask2", "new")
    drift = client.drift(flow_uuid, changed)
    assert (len(drift.changes), list(drift.harmful)) == (4, [])
    assert client.flow(flow_uuid).drift is None, "a preview writes nothing"
    client.complete(client.token(flow_uuid, "ask"), 1)
    with caplog.at_level(logging.WARNING):
        assert client.resume(flow_uuid, flow=changed) == "DELAYED"
    assert f"the code of flow {flow_uuid} has changed: " in caplog.text
    noted = client.flow(flow_uuid).drift
    assert noted is not None and noted.count == 4
    assert "'b' (PENDING) is gone" in noted.changes
    # Once gone on with, the changed code is the flow's code: what it then did
    # must stay, and what was gone is no news.
    assert not client.drift(flow_uuid, flow("a", "ask", "c", "ask2", "new"))
    client.complete(client.token(flow_uuid, "ask2"), 2)
    caplog.clear()
    assert client.resume(flow_uuid, flow=flow("a", "ask", "c", "ask2", "new")) == "SUCCESS"
    assert "has changed" not in caplog.text
    assert client.flow(flow_uuid).tasks["b"] == "PENDING"
    assert client.flow(flow_uuid).results["new"] == "new ran"


def test_what_was_noted_once_is_no_news_when_the_code_changes_again(client: Client) -> None:
    flow_uuid = park(client, "ask", "b", "c", "d")
    for names, changes in (
        (("ask", "c", "b"), {"'d' (PENDING) is gone", "'b' (PENDING) is moved", "'c' (PENDING)"}),
        (("ask", "c", "b", "e"), {"'e' is added"}),
    ):
        assert client.resume(flow_uuid, flow=flow(*names)) == "DELAYED"
        noted = client.flow(flow_uuid).drift
        assert noted is not None
        assert noted.count == len(changes)
        assert all(any(text.startswith(c) for c in changes) for text in noted.changes)


def test_what_was_moved_before_it_began_must_then_stay_where_it_is(client: Client) -> None:
    flow_uuid = park(client, "ask", "b", "ask2")
    client.complete(client.token(flow_uuid, "ask"), 1)
    assert client.resume(flow_uuid, flow=flow("ask", "ask2", "b")) == "DELAYED"
    with pytest.raises(errors.FlowIncident, match=r"'ask2' .DELAYED. is moved"):
        client.resume(flow_uuid, flow=flow("ask", "b", "ask2"))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a", "b"), "'ask' (DELAYED) is gone"),
        (("ask", "b"), "'a' (SUCCESS) is gone"),
        (("a", "new", "ask", "b"), "'new' is added, before tasks that have begun"),
        (("ask", "a", "b"), "'a' (SUCCESS) is moved: it came after nothing and comes after 'ask'"),
    ],
)
def test_change_of_what_has_begun_is_an_incident_until_it_is_undone(
    client: Client, names: tuple[str, ...], said: str
) -> None:
    flow_uuid = park(client, "a", "ask", "b")
    token = client.token(flow_uuid, "ask")
    assert said in str(client.drift(flow_uuid, flow(*names)))
    client.complete(token, 1)
    with pytest.raises(errors.FlowIncident) as caught:
        client.resume(flow_uuid, flow=flow(*names))
    assert said in str(caught.value)
    seen = client.flow(flow_uuid)
    assert seen.incident is not None
    assert (seen.incident.kind, seen.incident.count) == ("code changed", 1)
    assert said in seen.incident.message
    assert (seen.state, seen.owner) == ("DELAYED", None)
    assert client.resume(flow_uuid, flow=flow("a", "ask", "b")) == "SUCCESS"
    assert client.flow(flow_uuid).incident is None


def test_flow_that_begins_anew_may_have_any_shape(client: Client) -> None:
    engine = taskflow.engines.load(flow("a", "b"), backend=client.backend, engine="lazy")
    assert engine.run() == "SUCCESS"
    detail = ledger.beside(client.backend).detail(engine.storage.flow_uuid)
    other = taskflow.engines.load(
        flow("b", "c"), flow_detail=detail, backend=client.backend, engine="lazy"
    )
    other.compile()
    other.prepare()
    other.reset()
    assert other.run() == "SUCCESS"
    assert client.flow(engine.storage.flow_uuid).results["c"] == "c ran"
