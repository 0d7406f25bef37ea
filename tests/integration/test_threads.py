# SPDX-License-Identifier: Apache-2.0
"""Flows whose tasks run in threads: what comes from outside while other tasks are at work, or soon after."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any
from unittest import mock

import pytest
import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.persistence import backends

from lazy_engine import Client, Delay, Disposition
from lazy_engine.engine.ownership import Ownership
from lazy_engine.errors import DelayFailed
from lazy_engine.outcome import Result
from tests.waiting import wait_until

_TIMEOUT_SECONDS = 20.0


@pytest.fixture(params=["memory", "sqlite"])
def client(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Client]:
    if request.param == "memory":
        yield Client(backends.fetch({"connection": "memory"}))
        return
    client = Client({"connection": f"sqlite:///{tmp_path / 'lazy.sqlite'}"})
    yield client
    client.backend.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """What slow tasks wait for; opened in the end, so that no thread stays behind."""
    gate = Gate()
    yield gate
    gate.open.set()


class Gate:
    def __init__(self) -> None:
        self.open = threading.Event()
        self.at_work = threading.Semaphore(0)

    def wait_for_tasks(self, count: int) -> None:
        for _ in range(count):
            assert self.at_work.acquire(timeout=_TIMEOUT_SECONDS)


class Ask(task.Task):
    def execute(self) -> Delay:
        return Delay()


class Slow(task.Task):
    def __init__(self, name: str, gate: Gate) -> None:
        super().__init__(name, provides=name)
        self._gate = gate
        self.reverted = False

    def execute(self) -> str:
        self._gate.at_work.release()
        assert self._gate.open.wait(_TIMEOUT_SECONDS)
        return "done at last"

    def revert(self, result: Any, flow_failures: dict[str, Any]) -> None:
        self.reverted = True


class Use(task.Task):
    """Hands what was answered to a function."""

    def __init__(self, name: str, asked: str, use: Callable[[Any], None]) -> None:
        super().__init__(name, rebind={"answer": asked})
        self._use = use

    def execute(self, answer: Any) -> Any:
        self._use(answer)
        return [answer]


class Run:
    """An engine at work in a thread of its own."""

    def __init__(self, flow: Any, client: Client, **options: Any) -> None:
        self.engine = taskflow.engines.load(
            flow, backend=client.backend, engine="lazy", executor="threads", **options
        )
        self.flow_uuid: str = self.engine.storage.flow_uuid
        self.states: list[str] = []
        self._future: futures.Future[str] = futures.Future()
        self._thread = threading.Thread(target=self._run, name="engine of the test")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.states.extend(self.engine.run_iter())
        except BaseException as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(self.states[-1])

    def is_running(self) -> bool:
        return not self._future.done()

    def end(self) -> str:
        """Return the state in which it ends, or raise what it raises."""
        try:
            return self._future.result(_TIMEOUT_SECONDS)
        finally:
            self._thread.join(_TIMEOUT_SECONDS)


def ask_and_use(name: str, use: Callable[[Any], None]) -> linear_flow.Flow:
    return linear_flow.Flow(f"{name} flow").add(
        Ask(name, provides=name), Use(f"use {name}", name, use)
    )


def open_delays(client: Client, run: Run) -> list[str]:
    return sorted(delay.task_name for delay in client.delays(flow_uuid=run.flow_uuid))


def test_outcomes_are_absorbed_while_slow_tasks_are_at_work(client: Client, gate: Gate) -> None:
    used: list[Any] = []
    flow = unordered_flow.Flow("flow").add(
        *(ask_and_use(name, used.append) for name in ("a", "b", "c")),
        Slow("slow 1", gate),
        Slow("slow 2", gate),
    )
    run = Run(flow, client, max_workers=4)
    gate.wait_for_tasks(2)
    wait_until(lambda: open_delays(client, run) == ["a", "b", "c"])

    for name in ("b", "a", "c"):
        receipt = client.complete(client.token(run.flow_uuid, name), name.upper())
        assert receipt.disposition is Disposition.ACCEPTED
        assert receipt.woken  # its owner sees to it
        expected = [name.upper()]
        wait_until(lambda expected=expected: used[-1:] == expected)

    wait_until(lambda: client.flow(run.flow_uuid).results.get("use c") == ["C"])
    assert open_delays(client, run) == []
    assert run.is_running()
    seen = client.flow(run.flow_uuid)
    assert (seen.state, set(seen.results)) == (
        "RUNNING",
        {"a", "b", "c", "use a", "use b", "use c"},
    )

    gate.open.set()
    assert run.end() == "SUCCESS"
    assert "DELAYED" not in run.states
    assert used == ["B", "A", "C"]


def test_outcome_is_absorbed_though_the_keeper_s_commit_came_before_the_next_look(
    client: Client, gate: Gate
) -> None:
    """What is written for a task at work tells of the outcome first; whoever looks next must still see it."""
    used: list[Any] = []
    flow = unordered_flow.Flow("flow").add(ask_and_use("a", used.append), Slow("slow", gate))
    run = Run(flow, client, max_workers=2)
    gate.wait_for_tasks(1)
    wait_until(lambda: open_delays(client, run) == ["a"])
    look, flushed = Ownership.look, []

    def deliver_flush_look(owned: Ownership) -> bool:
        if not flushed:
            flushed.append(True)
            client.complete(client.token(run.flow_uuid, "a"), "A")
            run.engine.storage.set_task_progress("slow", 0.5)
            owned._flush_marks()
        return look(owned)

    with mock.patch.object(Ownership, "look", deliver_flush_look):
        wait_until(lambda: used == ["A"])
    assert run.is_running()
    gate.open.set()
    assert run.end() == "SUCCESS"


def test_outcomes_delivered_together_are_used_in_parallel(client: Client, gate: Gate) -> None:
    names = ("a", "b", "c")
    meeting = threading.Barrier(len(names), timeout=_TIMEOUT_SECONDS)
    flow = unordered_flow.Flow("flow").add(
        *(ask_and_use(name, lambda _answer: meeting.wait()) for name in names), Slow("slow", gate)
    )
    run = Run(flow, client, max_workers=4)
    gate.wait_for_tasks(1)
    wait_until(lambda: open_delays(client, run) == ["a", "b", "c"])
    receipts = client.deliver_many(
        [(client.token(run.flow_uuid, name), Result(name)) for name in names]
    )
    assert [receipt.disposition for receipt in receipts] == [Disposition.ACCEPTED] * 3
    wait_until(lambda: len(client.flow(run.flow_uuid).results) == 6)
    assert run.is_running()
    gate.open.set()
    assert run.end() == "SUCCESS"


def test_failure_delivered_while_a_task_is_at_work_calls_the_others_off(
    client: Client, gate: Gate
) -> None:
    slow = Slow("slow", gate)
    flow = unordered_flow.Flow("flow").add(Ask("bad"), Ask("other"), slow)
    run = Run(flow, client, max_workers=3)
    gate.wait_for_tasks(1)
    wait_until(lambda: open_delays(client, run) == ["bad", "other"])
    other = client.token(run.flow_uuid, "other")

    client.fail(client.token(run.flow_uuid, "bad"), "no luck")

    wait_until(lambda: open_delays(client, run) == [])
    assert client.complete(other, "too late").disposition is Disposition.LATE
    wait_until(lambda: client.flow(run.flow_uuid).tasks["other"] == "REVERTED")
    assert run.is_running()
    assert not slow.reverted
    gate.open.set()
    with pytest.raises(DelayFailed, match="no luck"):
        run.end()
    assert slow.reverted
    assert dict(client.flow(run.flow_uuid).tasks) == dict.fromkeys(
        ("bad", "other", "slow"), "REVERTED"
    )


def test_tasks_that_answer_with_delays_at_the_same_time_all_wait(client: Client) -> None:
    names = [f"ask {number}" for number in range(8)]
    meeting = threading.Barrier(len(names), timeout=_TIMEOUT_SECONDS)

    class AskTogether(task.Task):
        def execute(self) -> Delay:
            delay = Delay()
            meeting.wait()
            return delay

    flow = unordered_flow.Flow("flow").add(*(AskTogether(name) for name in names))
    run = Run(flow, client, max_workers=len(names))
    assert run.end() == "DELAYED"
    assert open_delays(client, run) == names
    for name in names:
        client.complete(client.token(run.flow_uuid, name), name)
    assert client.resume(run.flow_uuid, flow=flow) == "SUCCESS"
    assert client.flow(run.flow_uuid).results == {name: name for name in names}


def test_lingering_engine_picks_a_quick_answer_up_without_parking(client: Client) -> None:
    used: list[Any] = []
    flow = linear_flow.Flow("flow").add(
        ask_and_use("first", used.append), ask_and_use("second", used.append)
    )
    run = Run(flow, client, linger_seconds=10 * _TIMEOUT_SECONDS)
    for name in ("first", "second"):
        wait_until(lambda expected=name: open_delays(client, run) == [expected])
        assert client.complete(client.token(run.flow_uuid, name), name).woken
    assert run.end() == "SUCCESS"
    assert "DELAYED" not in run.states
    assert used == ["first", "second"]


def test_lingering_engine_parks_when_no_answer_comes(client: Client) -> None:
    flow = linear_flow.Flow("flow").add(ask_and_use("ask", lambda _answer: None))
    run = Run(flow, client, linger_seconds=0.05)
    assert run.end() == "DELAYED"
    assert open_delays(client, run) == ["ask"]
    assert client.flow(run.flow_uuid).owner is None
