# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told: of what happens here, and of what waits in the store."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from taskflow import engines, states, task
from taskflow.patterns import unordered_flow

from lazy_engine import DELAYED, Client, Delay, Result, errors, ledger
from lazy_engine.http import make_app
from lazy_engine.http.server import Server
from lazy_engine.ledger import record as r
from lazy_engine.metrics import KEPT_SECONDS, MOST_TASKS, SHARE, Metrics
from lazy_engine.observer import Absorbed
from lazy_engine.token import DelayKey
from tests.integration.parked import opened, park
from tests.integration.web import Web

LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
DOC = pathlib.Path(__file__).resolve().parents[2] / "doc"
KEY = "operators-key-0123456789"


@pytest.fixture
def client(sqlite_url: str) -> Iterator[Client]:
    with opened(sqlite_url) as backend:
        yield Client(backend)


def told(metrics: Metrics) -> dict[str, float]:
    """Return the samples: ``{"name{labels}": value}``, without the labels' prefix."""
    text = metrics.render()[1].decode()
    found = [
        (
            f"{name.removeprefix('lazy_engine_')}{{{labels}}}"
            if labels
            else name.removeprefix("lazy_engine_"),
            float(value),
        )
        for name, labels, value in LINE.findall(text)
        if not name.endswith("_created")
    ]
    assert len(dict(found)) == len(found), "Prometheus refuses what is told twice"
    return dict(found)


def waits(*names: str, **asked: Any) -> Any:
    class Waits(task.Task):
        def execute(self) -> Delay:
            return Delay(**asked)

    return unordered_flow.Flow("waits").add(*[Waits(name) for name in names])


def run(client: Client, flow: Any) -> Any:
    engine = engines.load(flow, engine="lazy", backend=client.backend)
    assert engine.run() == DELAYED
    return engine


def move_clock(client: Client, seconds: float) -> None:
    ledger.beside(client.backend).clock_offset_seconds = seconds  # type: ignore[attr-defined]


def test_deliveries_are_counted_by_what_became_of_them(client: Client) -> None:
    metrics = Metrics(client)
    world = park(client.backend)
    client.complete(world.token, 1)
    client.complete(world.token, 1)
    client.fail(world.token, "no")
    client.resume(world.flow_uuid)
    client.deliver_many([(world.token, Result(2)), ("lz1.forged", Result(1))])
    with pytest.raises(errors.OutcomeNotStorable):
        client.complete(world.token, {1, 2})
    found = told(metrics)
    assert {name: value for name, value in found.items() if name.startswith("deliveries")} == {
        'deliveries_total{disposition="accepted"}': 1,
        'deliveries_total{disposition="duplicate"}': 1,
        'deliveries_total{disposition="conflict"}': 1,
        'deliveries_total{disposition="late"}': 1,
        'deliveries_refused_total{error="InvalidToken"}': 1,
        'deliveries_refused_total{error="OutcomeNotStorable"}': 1,
    }


def test_parks_and_wakes_are_timed_by_the_stores_clock(client: Client) -> None:
    metrics = Metrics(client)
    world = park(client.backend)
    move_clock(client, 100)
    client.complete(world.token, 1)
    move_clock(client, 107)
    assert client.resume(world.flow_uuid) == states.SUCCESS
    found = told(metrics)
    assert 100 <= found['park_seconds_sum{task="waits"}'] < 105
    assert 7 <= found["wake_to_resume_seconds_sum"] < 12
    assert found["wake_to_resume_seconds_count"] == 1
    assert found['delays_opened_total{task="waits"}'] == 1
    assert found['run_seconds_count{state="DELAYED"}'] == 1
    assert found['run_seconds_count{state="SUCCESS"}'] == 1


def test_what_waits_is_counted_by_task_and_age(client: Client) -> None:
    run(client, waits("boots", "asks"))
    move_clock(client, 700)
    run(client, waits("asks"))
    move_clock(client, 710)
    found = told(Metrics(client))
    assert found['open_delays{age="<1h",task="asks"}'] == 1
    assert found['open_delays{age="<1m",task="asks"}'] == 1
    assert found['open_delays{age="<1h",task="boots"}'] == 1
    assert sum(value for name, value in found.items() if name.startswith("open_delays")) == 3
    assert 710 <= found['oldest_delay_seconds{task="asks"}'] < 720
    assert found["store_up"] == 1


def test_incidents_timers_and_lag_are_told(client: Client) -> None:
    metrics = Metrics(client)
    run(client, waits("fails", timeout_seconds=60))
    run(client, waits("goes on", timeout_seconds=60, on_timeout="alert"))
    run(client, waits("sleeps", timeout_seconds=60, on_timeout="default"))
    no_factory = run(client, waits("has none")).storage.flow_uuid
    with pytest.raises(errors.FlowIncident):
        client.resume(no_factory)
    move_clock(client, 160)
    before = told(Metrics(client))
    assert before["incidents"] == 1
    assert 95 < before["watchdog_lag_seconds"] < 110
    client.sweep()
    found = told(metrics)
    assert found['incidents_noted_total{kind="no factory"}'] == 1
    for effect in ("timeout", "alert", "default"):
        assert found[f'timers_fired_total{{effect="{effect}"}}'] == 1
    assert told(Metrics(client))["watchdog_lag_seconds"] == 0


def test_answers_that_nobody_takes_are_told(client: Client) -> None:
    world = park(client.backend)
    found = told(Metrics(client))
    assert (found["answered_flows"], found["oldest_answer_seconds"]) == (0, 0)
    client.complete(world.token, 1)
    move_clock(client, 400)
    found = told(Metrics(client))
    assert found["answered_flows"] == 1
    assert 400 <= found["oldest_answer_seconds"] < 410
    assert client.resume(world.flow_uuid) == states.SUCCESS
    assert told(Metrics(client))["answered_flows"] == 0


def test_names_of_tasks_are_bounded_and_can_be_written(client: Client) -> None:
    metrics = Metrics(client, most_tasks=2)
    world = park(client.backend)
    run(client, waits("other", "b", "b2", 'quo"te\n', f"x{world.token}"))
    found = told(metrics)
    opened_ = [name for name in found if name.startswith("delays_opened")]
    assert len(opened_) in (2, 3), "two of them, and the others; a task may be called so itself"
    assert sum(found[name] for name in opened_) == 6
    assert sum(value for name, value in found.items() if name.startswith("open_delays")) == 6
    text = Metrics(client).render()[1].decode()
    assert world.token not in text
    assert MOST_TASKS > 6


class Counting:
    """A client whose store counts how often it is asked, and takes its time."""

    def __init__(self, client: Client) -> None:
        self.asked = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None
        self._ledger = ledger.beside(client.backend)
        self._census = self._ledger.census
        self._ledger.census = self.census  # type: ignore[method-assign]

    def census(self, *arguments: Any) -> r.Census:
        self.asked += 1
        self.entered.set()
        assert self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        return self._census(*arguments)


def test_store_is_asked_no_more_often_than_it_can_bear(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("lazy_engine.metrics.time.monotonic", lambda: now[0])
    counting = Counting(client)
    metrics = Metrics(client)
    assert counting.asked == 0, "whoever makes it asks nothing yet"
    for _ in range(5):
        told(metrics)
    assert counting.asked == 1
    now[0] += KEPT_SECONDS + 0.1
    took_seconds = 2.0
    plain = counting._census

    def slow(*arguments: Any) -> r.Census:
        now[0] += took_seconds
        return plain(*arguments)

    counting._census = slow  # type: ignore[method-assign]
    assert told(metrics)["census_seconds"] == took_seconds
    assert counting.asked == 2
    now[0] += took_seconds / SHARE - 1
    assert told(metrics)["census_age_seconds"] == pytest.approx(took_seconds / SHARE - 1)
    assert counting.asked == 2
    now[0] += 2
    told(metrics)
    assert counting.asked == 3


def test_whoever_comes_while_the_store_is_asked_gets_what_was_known(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(client, waits("asks"))
    counting = Counting(client)
    metrics = Metrics(client)
    told(metrics)
    counting.entered.clear()
    counting.go_on.clear()
    monkeypatch.setattr("lazy_engine.metrics.KEPT_SECONDS", 0.0)
    monkeypatch.setattr("lazy_engine.metrics.SHARE", 1e9)
    for collector in metrics._registry._collector_to_names:
        if hasattr(collector, "_next_seconds"):
            collector._next_seconds = 0.0
    waiting = threading.Thread(target=told, args=[metrics])
    waiting.start()
    assert counting.entered.wait(20)
    assert told(metrics)['open_delays{age="<1m",task="asks"}'] == 1
    counting.go_on.set()
    waiting.join(20)
    assert counting.asked == 2


def test_store_that_is_away_is_told_and_ends_nothing(client: Client) -> None:
    counting = Counting(client)
    counting.error = errors.StoreUnavailable("gone")
    found = told(Metrics(client))
    assert found["store_up"] == 0
    assert not [name for name in found if name.startswith(("open_delays", "incidents{"))]


def test_metrics_are_served_to_whoever_may_look(client: Client) -> None:
    app = make_app(client, read_keys=[KEY], metrics=Metrics(client))
    with Server(app) as server:
        web = Web(server.url, Authorization=f"Bearer {KEY}")
        plain = web.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain")
        assert plain.headers["cache-control"] == "no-store"
        assert "lazy_engine_store_up 1.0" in plain.text
        accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
        other = web.get("/metrics", Accept=accept)
        assert other.headers["content-type"].startswith("application/openmetrics-text")
        assert other.text.endswith("# EOF\n")


def test_metrics_have_a_listener_of_their_own(client: Client) -> None:
    metrics = Metrics(client)
    with metrics.served("127.0.0.1", 0) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            assert b"lazy_engine_store_up 1.0" in answer.read()
        with pytest.raises(OSError, match="in use"), metrics.served("127.0.0.1", port):
            pass


def test_times_that_clocks_turn_round_are_not_negative() -> None:
    key = DelayKey(flow_uuid="f", atom_uuid="a", kind="execute", attempt=1)
    record = r.DelayRecord(key=key, task_name="t", opened_at=2_000_000, arrived_at=1_000_000)
    absorbed = Absorbed(record=record, now=500_000)
    assert (absorbed.parked_seconds, absorbed.wake_seconds) == (None, 0.0)
    early = dataclasses.replace(record, opened_at=None)
    assert Absorbed(record=early, now=1_500_000).parked_seconds is None
    assert Absorbed(record=early, now=1_500_000).wake_seconds == 0.5


def test_without_metrics_nothing_is_told(client: Client) -> None:
    assert client.observer.all == ()  # type: ignore[attr-defined]
    engine = run(client, waits("asks"))
    assert engine._runtime_parts.task_action.watched is None


def test_reference_and_alerts_name_what_there_is(client: Client) -> None:
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", Metrics(client).render()[1].decode(), re.M))
    run(client, waits("asks"))  # without anything that waits there are no families for it
    kinds |= dict(re.findall(r"^# TYPE (\w+) (\w+)$", Metrics(client).render()[1].decode(), re.M))
    there = {name for name in kinds if not name.endswith("_created")}
    reference = (DOC / "reference" / "metrics.rst").read_text("utf-8")
    described = re.findall(r"^``(lazy_engine_\w+)`` +(\w+)", reference, re.M)
    assert {name: kinds.get(name) for name, _ in described} == dict(described)
    assert {name for name, _ in described} == there
    rules = (DOC / "howto" / "lazy_engine.rules.yml").read_text("utf-8")
    used = set(re.findall(r"\blazy_engine_\w+", rules))
    assert used
    assert {name.removesuffix("_bucket") for name in used} <= there
