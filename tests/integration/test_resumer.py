# SPDX-License-Identifier: Apache-2.0
"""Flows that are woken in this process, without a job board."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from taskflow import states, task
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine import DELAYED, Client, Delay, Disposition
from lazy_engine.resumer import Resumer
from lazy_engine.watchdog import Watchdog
from tests.integration.parked import Echo, Waits, World, opened, park
from tests.waiting import wait_until

#: What ``Held`` waits for, by the name of its flow.
GATES: dict[str, tuple[threading.Event, threading.Event]] = {}


class Held(task.Task):
    def execute(self, gate: str) -> None:
        begun, go = GATES[gate]
        begun.set()
        assert go.wait(20)


def make_two_waits(gate: str) -> Any:
    held = linear_flow.Flow("held").add(
        Waits("waits", provides="first"), Held("held", inject={"gate": gate})
    )
    return unordered_flow.Flow("two").add(held, Waits("other", provides="second"))


class Twice(task.Task):
    def execute(self) -> Delay:
        return Delay()


def make_chain() -> Any:
    return linear_flow.Flow("chain").add(Twice("waits"), Twice("then"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(f"sqlite:///{tmp_path_factory.mktemp('resumer') / 'lazy.sqlite'}") as made:
        yield made


@pytest.fixture
def resumer(store: Any) -> Iterator[Resumer]:
    with Resumer(store, workers=2) as made:
        yield made


def test_outcome_wakes_its_flow(resumer: Resumer, store: Any) -> None:
    world = park(store)
    receipt = resumer.client.complete(world.token, "good")
    assert (receipt.disposition, receipt.woken) == (Disposition.ACCEPTED, True)
    assert resumer.client.wait(world.flow_uuid, timeout_seconds=10) == states.SUCCESS


def test_flow_that_parks_again_is_woken_again(resumer: Resumer, store: Any) -> None:
    world = park(store, make_chain)
    resumer.client.complete(world.token)
    then = wait_until(lambda: _token(resumer.client, world.flow_uuid, "then"))
    resumer.client.complete(then)
    assert resumer.client.wait(world.flow_uuid, timeout_seconds=10) == states.SUCCESS


def _token(client: Client, flow_uuid: str, task_name: str) -> str | None:
    waiting = [delay.task_name for delay in client.delays(flow_uuid=flow_uuid)]
    return client.token(flow_uuid, task_name) if task_name in waiting else None


def test_outcome_that_comes_while_the_flow_runs_is_not_lost(resumer: Resumer, store: Any) -> None:
    gate = "while it runs"
    begun, go = GATES[gate] = (threading.Event(), threading.Event())
    client = Client(store)
    flow_uuid = client.submit(make_two_waits, [gate])
    assert client.resume(flow_uuid) == DELAYED
    resumer.client.complete(client.token(flow_uuid, "waits"))
    assert begun.wait(10)
    receipt = resumer.client.complete(client.token(flow_uuid, "other"))
    assert (receipt.disposition, receipt.woken) == (Disposition.ACCEPTED, True)
    go.set()
    assert client.wait(flow_uuid, timeout_seconds=10) == states.SUCCESS


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_code_that_ends_its_thread_ends_none_of_the_resumers(
    store: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def end(_task: Echo, answer: Any) -> None:
        raise error

    worlds = [park(store) for _ in range(2)]
    with Resumer(store, workers=1) as resumer:
        with monkeypatch.context() as patched:
            patched.setattr(Echo, "execute", end)
            resumer.client.complete(worlds[0].token, 1)
            told = wait_until(lambda: resumer.client.flow(worlds[0].flow_uuid).incident)
            assert told.kind == "code broken"
        resumer.client.complete(worlds[1].token, 1)
        assert resumer.client.wait(worlds[1].flow_uuid, timeout_seconds=10) == states.SUCCESS
    assert worlds[0].client.resume(worlds[0].flow_uuid) == states.SUCCESS


def test_signal_handler_that_ends_the_main_thread_ends_it(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_task: Echo, answer: Any) -> None:
        raise SystemExit  # from a handler, which comes anywhere

    world = park(store)
    world.client.complete(world.token, 1)
    with monkeypatch.context() as patched:
        patched.setattr(Echo, "execute", end)
        with pytest.raises(SystemExit):
            world.client.run_on(world.flow_uuid)
    assert world.client.flow(world.flow_uuid).incident is None
    assert world.client.run_on(world.flow_uuid) == states.SUCCESS


def test_suspended_flow_rests_until_it_is_woken_by_hand(resumer: Resumer, store: Any) -> None:
    world = park(store)
    world.client.suspend(world.flow_uuid, "audit")
    assert resumer.client.complete(world.token, 1).woken is False
    # Even if it is rung for, say by a doorbell from before.
    assert resumer.client.run_on(world.flow_uuid) == states.SUSPENDED
    assert world.client.flow(world.flow_uuid).state == states.SUSPENDED
    assert resumer.client.wake(world.flow_uuid) is True
    assert resumer.client.wait(world.flow_uuid, timeout_seconds=10) == states.SUCCESS
    assert resumer.client.wake(world.flow_uuid) is False


def test_cancelled_flow_is_reverted(resumer: Resumer, store: Any) -> None:
    world = park(store)
    assert resumer.client.cancel(world.flow_uuid, "off")
    assert resumer.client.wait(world.flow_uuid, timeout_seconds=10) == states.REVERTED


class _Runs:
    """Stands in for running a flow; holds the first run until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.seen: list[str] = []

    def __call__(self, flow_uuid: str) -> str:
        self.seen.append(flow_uuid)
        self.begun.set()
        assert self.go.wait(20)
        return "DELAYED"


def ring(resumer: Resumer, flow_uuid: str) -> None:
    resumer.post("name", book=None, details={"flow_uuid": flow_uuid}, priority="NORMAL")


def test_ring_at_the_end_of_a_run_makes_one_more(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = _Runs()
    with Resumer(store, workers=2) as resumer:
        monkeypatch.setattr(resumer.client, "run_on", runs)
        ring(resumer, "a")
        assert runs.begun.wait(10)
        for _ in range(5):
            ring(resumer, "a")  # never twice at the same time
        ring(resumer, "b")
        wait_until(lambda: "b" in runs.seen)
        runs.go.set()
        wait_until(lambda: sorted(runs.seen) == ["a", "a", "b"])
    assert sorted(runs.seen) == ["a", "a", "b"]


def test_what_is_left_in_the_queue_is_left_to_the_watchdog(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, runs = park(store), _Runs()
    resumer = Resumer(store, workers=1)
    with resumer:
        monkeypatch.setattr(resumer.client, "run_on", runs)
        ring(resumer, "another")
        assert runs.begun.wait(10)
        assert resumer.client.complete(world.token, 1).woken
        assert world.ledger.flow(world.flow_uuid).rung_at is not None
        ender = threading.Timer(0.05, runs.go.set)
        ender.start()
    ender.join()
    assert runs.seen == ["another"]
    assert world.ledger.flow(world.flow_uuid).rung_at is None
    _later(world)


def test_what_was_rung_for_where_nobody_answers_any_more_is_rung_for_again(store: Any) -> None:
    world = park(store)
    assert Resumer(store).client.complete(world.token, 1).woken is False
    _later(world)


def _later(world: World) -> None:
    """A minute later the next process runs the flow on."""
    world.ledger.clock_offset_seconds = 70.0
    try:
        with Resumer(world.backend) as resumer, Watchdog(resumer.client):
            assert world.client.wait(world.flow_uuid, timeout_seconds=10) == states.SUCCESS
    finally:
        world.ledger.clock_offset_seconds = 0.0


def test_defect_in_one_flow_stops_no_other(
    store: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = park(store)
    with Resumer(store, workers=1) as resumer:
        ring(resumer, "no such flow")
        resumer.client.complete(world.token, 1)
        assert resumer.client.wait(world.flow_uuid, timeout_seconds=10) == states.SUCCESS
    assert "flow no such flow was woken and could not be run" in caplog.text
    assert caplog.records[-1].levelno <= logging.ERROR


def test_resumer_needs_a_worker(store: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Resumer(store, workers=0)
