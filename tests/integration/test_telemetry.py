# SPDX-License-Identifier: Apache-2.0
"""One trace goes through park, outside work and resume, whoever does them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from taskflow import engines, states, task
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine import DELAYED, Client, Delay, errors
from lazy_engine.http import make_app
from lazy_engine.http.server import Server
from lazy_engine.metrics import Metrics
from lazy_engine.observer import Observer, WatchedAttempt, WatchedRun
from lazy_engine.telemetry import Telemetry
from tests.child import environment
from tests.integration.parked import make_flow as make_plain_flow
from tests.integration.parked import opened
from tests.integration.traced import Tracing, make_flow
from tests.integration.web import Web


@pytest.fixture
def client(sqlite_url: str) -> Iterator[Client]:
    with opened(sqlite_url) as backend:
        yield Client(backend)


@pytest.fixture
def tracing(client: Client) -> Tracing:
    return Tracing(client)


def park(client: Client) -> str:
    flow_uuid = client.submit(make_flow)
    assert client.resume(flow_uuid) == DELAYED
    return flow_uuid


def handed_on(client: Client, flow_uuid: str) -> str:
    (delay,) = client.delays(flow_uuid=flow_uuid)
    return str(delay.details["handed on"])


def test_one_trace_runs_through_two_processes(sqlite_url: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.integration.traced", sqlite_url],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    parked = json.loads(ran.stdout)
    executed, run = parked["spans"]
    assert (executed["name"], run["name"]) == ("execute", "run")
    assert executed["parent"] == run["id"]
    with opened(sqlite_url) as backend:
        client = Client(backend)
        tracing = Tracing(client)
        flow_uuid = parked["flow_uuid"]
        assert handed_on(client, flow_uuid)[:-3] == f"00-{executed['trace']}-{executed['id']}"
        client.complete(client.token(flow_uuid, "asks"), 1)
        assert client.resume(flow_uuid) == states.SUCCESS
        deliver, absorb = tracing.named("deliver"), tracing.named("absorb")
        resumed, used = tracing.named("run"), tracing.named("execute")
    assert {span["trace"] for span in (run, deliver, resumed, absorb, used)} == {executed["trace"]}
    assert deliver["parent"] == resumed["parent"] == executed["id"]
    assert absorb["parent"] == used["parent"] == resumed["id"]
    assert absorb["links"] == [executed["id"]]
    assert (run["flow.state"], resumed["flow.state"]) == (DELAYED, states.SUCCESS)
    assert absorb["wake.seconds"] > 0 < absorb["park.seconds"]


def test_task_runs_in_the_span_that_it_hands_on(client: Client, tracing: Tracing) -> None:
    flow_uuid = park(client)
    (delay,) = client.delays(flow_uuid=flow_uuid)
    assert delay.details["span"] == tracing.named("execute")["id"]
    assert delay.details["span"] in delay.details["handed on"]
    assert not trace.get_current_span().get_span_context().is_valid


def test_task_in_another_thread_runs_in_its_span_too(client: Client, tracing: Tracing) -> None:
    flow = unordered_flow.Flow("many")
    seen: dict[str, int] = {}

    class Looks(task.Task):
        def execute(self) -> None:
            seen[self.name] = trace.get_current_span().get_span_context().span_id

    flow.add(*[Looks(f"looks {number}") for number in range(4)])
    engines.load(flow, engine="lazy", executor="threads", backend=client.backend).run()
    found = {
        span["task.name"]: int(span["id"], 16)
        for span in tracing.spans()
        if span["name"] == "execute"
    }
    assert found == seen
    assert len(set(seen.values())) == 4


def test_delivery_over_http_joins_the_trace_of_its_sender(client: Client, tracing: Tracing) -> None:
    flow_uuid = park(client)
    sent = handed_on(client, flow_uuid)
    with Server(make_app(client)) as server:
        # As the outside's own span, in the trace that it was handed.
        inner = sent.replace(sent.split("-")[2], "12" * 8)
        path = f"/v1/tokens/{client.token(flow_uuid, 'asks')}/complete"
        assert Web(server.url).post(path, {"result": 1}, traceparent=inner).status == 200
    deliver, executed = tracing.named("deliver"), tracing.named("execute")
    assert (deliver["trace"], deliver["parent"]) == (executed["trace"], "12" * 8)
    assert deliver["links"] == [executed["id"]]


def test_delivery_from_another_trace_is_linked(client: Client, tracing: Tracing) -> None:
    flow_uuid = park(client)
    with tracing.outside() as other, Server(make_app(client)) as server:
        sent = [{"token": client.token(flow_uuid, "asks"), "result": 1}]
        Web(server.url).post("/v1/deliveries", {"deliveries": sent}, traceparent=other)
    deliver, executed = tracing.named("deliver"), tracing.named("execute")
    assert deliver["trace"] in other
    assert deliver["trace"] != executed["trace"]
    assert deliver["links"] == [executed["id"]]
    client.resume(flow_uuid)
    assert tracing.named("absorb")["trace"] == executed["trace"]


@pytest.mark.parametrize("odd", ["", "x", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-00"])
def test_odd_header_is_no_trace_and_no_error(client: Client, tracing: Tracing, odd: str) -> None:
    flow_uuid = park(client)
    with Server(make_app(client)) as server:
        path = f"/v1/tokens/{client.token(flow_uuid, 'asks')}/complete"
        assert Web(server.url).post(path, {"result": 1}, traceparent=odd).status == 200
    assert tracing.named("deliver")["trace"] == tracing.named("execute")["trace"]


def test_flow_runs_in_the_trace_that_it_was_submitted_in(client: Client, tracing: Tracing) -> None:
    with tracing.outside("submits") as submitting:
        flow_uuid = client.submit(make_flow)
    client.resume(flow_uuid)
    with tracing.outside("resumes") as resuming:
        client.complete(client.token(flow_uuid, "asks"), 1)
        client.resume(flow_uuid)
    runs = [span for span in tracing.spans() if span["name"] == "run"]
    assert all(run["trace"] in submitting for run in runs)
    assert runs[0]["parent"] in submitting
    assert any(link in resuming for link in runs[1]["links"])


def test_run_that_no_answer_called_for_goes_on_with_the_trace(
    client: Client, tracing: Tracing
) -> None:
    flow_uuid = park(client)
    client.cancel(flow_uuid, "enough")
    client.resume(flow_uuid)
    runs = [span for span in tracing.spans() if span["name"] == "run"]
    assert runs[0]["trace"] == runs[1]["trace"]
    assert [run["flow.state"] for run in runs] == [DELAYED, states.REVERTED]


def test_failed_task_and_lost_run_are_errors(client: Client, tracing: Tracing) -> None:
    class Fails(task.Task):
        def execute(self) -> None:
            raise ValueError("secret words")

    engine = engines.load(
        linear_flow.Flow("f").add(Fails("fails")), engine="lazy", backend=client.backend
    )
    with pytest.raises(ValueError, match="secret"):
        engine.run()
    executed = tracing.named("execute")
    assert (executed["is_error"], executed["attempt.end"]) == (True, "failed")
    assert tracing.named("run")["is_error"] is False, "the failure is the flow's own affair"
    assert "secret words" not in json.dumps(tracing.spans())

    class Loses(task.Task):
        def execute(self) -> None:
            raise KeyboardInterrupt

    tracing.exporter.clear()
    engine = engines.load(
        linear_flow.Flow("f").add(Loses("loses")), engine="lazy", backend=client.backend
    )
    iterator = engine.run_iter()
    next(iterator)
    iterator.close()
    assert tracing.spans()[-1]["name"] == "run", "a span that nobody ends is never seen"


def test_without_telemetry_nothing_is_handed_on_or_kept(client: Client) -> None:
    flow_uuid = park(client)
    assert handed_on(client, flow_uuid) == "None"
    detail = client._ledger.detail(flow_uuid)
    assert "traceparent" not in detail.meta
    assert [each.traceparent for each in client._ledger.delays_of(flow_uuid)] == [None]


def test_without_an_sdk_nothing_is_recorded_and_nothing_breaks(client: Client) -> None:
    Telemetry(client, tracer_provider=trace.NoOpTracerProvider())
    flow_uuid = park(client)
    assert handed_on(client, flow_uuid) == "None"
    client.complete(client.token(flow_uuid, "asks"), 1)
    assert client.resume(flow_uuid) == states.SUCCESS


def test_metrics_and_traces_at_once_are_both_told(client: Client, tracing: Tracing) -> None:
    metrics = Metrics(client)
    flow_uuid = park(client)
    client.complete(client.token(flow_uuid, "asks"), 1)
    client.resume(flow_uuid)
    assert tracing.named("absorb")["trace"] == tracing.named("deliver")["trace"]
    assert b'lazy_engine_deliveries_total{disposition="accepted"} 1.0' in metrics.render()[1]


def test_no_span_has_a_token_in_it(client: Client, tracing: Tracing) -> None:
    flow_uuid = client.submit(make_plain_flow)
    client.resume(flow_uuid)
    token = client.token(flow_uuid, "waits")
    client.complete(token, {"secret": token})
    client.complete(token, "other")
    client.resume(flow_uuid)
    with pytest.raises(errors.InvalidToken):
        client.complete(token + "x", 1)
    told = json.dumps(tracing.spans())
    assert token not in told
    assert "lz1." not in told


def test_no_span_of_the_web_framework_has_a_token_in_it(
    client: Client, tracing: Tracing, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the host program had set its tracing up for all.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracing.provider)
    flow_uuid = park(client)
    token = client.token(flow_uuid, "asks")
    with Server(make_app(client)) as server:
        assert Web(server.url).post(f"/v1/tokens/{token}/complete", {"result": 1}).status == 200
        assert Web(server.url).post(f"/v1/tokens/{token}x/complete", {"result": 1}).status == 404
    spans = tracing.exporter.get_finished_spans()
    assert token not in "".join(span.to_json() for span in spans)
    assert {span.name for span in spans} == {
        f"lazy_engine.{each}" for each in ("run", "execute", "deliver")
    }


def test_answer_that_came_first_keeps_the_trace(client: Client, tracing: Tracing) -> None:
    class Hasty(task.Task):
        def execute(self) -> Delay:
            delay = Delay()
            client.complete(delay.token, 1)
            return delay

    flow = linear_flow.Flow("hasty").add(Hasty("hasty"))
    assert engines.load(flow, engine="lazy", backend=client.backend).run() == states.SUCCESS
    assert {span["trace"] for span in tracing.spans()} == {tracing.named("run")["trace"]}
    deliver, executed = tracing.named("deliver"), tracing.named("execute")
    assert deliver["parent"] == executed["id"], "it was delivered inside the task"


def test_observer_that_fails_ends_nobodys_work(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(WatchedRun, WatchedAttempt, Observer):
        traceparent = "no trace"

        def fail(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("broken")

        delivered = refused = fired = had_incident = committed = end = fail
        __enter__ = __exit__ = fail

        def run(self, begun: Any) -> Any:
            return self

        def attempt(self, *_: Any) -> Any:
            return self

        joined = fail

    client.observe(Broken())
    flow_uuid = park(client)
    token = client.token(flow_uuid, "asks")
    with Server(make_app(client)) as server:
        assert Web(server.url).post(f"/v1/tokens/{token}/complete", {"result": 1}).status == 200
    assert client.resume(flow_uuid) == states.SUCCESS
    assert "an observer failed" in caplog.text
