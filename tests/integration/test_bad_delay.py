# SPDX-License-Identifier: Apache-2.0
"""A ``Delay`` where it cannot be one: its task fails with an error that says so, and it is never a result."""

from __future__ import annotations

import copy
import datetime
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import taskflow.engines
from taskflow import retry, states
from taskflow.patterns import linear_flow

import lazy_engine
from lazy_engine import DELAYED, Client, Delay, Disposition
from tests.integration.parked import Plain, World, raise_it, refused


def run_one(do: Callable[[Any], Any], *, undo: Any = None, engine: str = "lazy") -> Any:
    """Run one task that fails; return the engine after it, and what it failed with."""
    flow = linear_flow.Flow("flow").add(Plain("one", do, undo))
    made = taskflow.engines.load(flow, engine=engine)
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the caller looks at it
        made.run()
    return made, caught.value


def test_delay_made_outside_a_task_is_refused() -> None:
    with pytest.raises(lazy_engine.DelayMisuse, match='engine="lazy"'):
        Delay()


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_delay_in_a_stock_engine_fails_the_task_and_is_never_stored(engine: str) -> None:
    for do in (lambda _task: Delay(), lambda _task: raise_it(Delay())):
        made, error = run_one(do, engine=engine)
        assert isinstance(error, lazy_engine.DelayMisuse)
        assert 'engine="lazy"' in str(error)
        assert made.storage.get_flow_state() == states.REVERTED
        for atom in made.storage._flowdetail:
            assert not isinstance(atom.results, Delay)


WRAPPINGS: dict[str, Callable[[Delay], Any]] = {
    "tuple": lambda delay: (1, delay),
    "list": lambda delay: [delay],
    "dict": lambda delay: {"a": delay},
    "set": lambda delay: {delay},
    "deep": lambda delay: [{"a": (1, [delay])}],
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_delay_inside_another_value_fails_the_task(wrap: Callable[[Delay], Any]) -> None:
    made, error = run_one(lambda _task: wrap(Delay()))
    assert isinstance(error, lazy_engine.DelayMisuse)
    assert isinstance(error, TypeError)
    assert "task 'one' answered with a Delay inside another value" in str(error)
    assert Client(made.storage.backend).delays() == []
    assert made.storage.get_flow_state() == states.REVERTED


def test_result_that_holds_itself_is_stored_in_memory() -> None:
    ring: list[Any] = []
    ring.append(ring)
    flow = linear_flow.Flow("flow").add(Plain("one", lambda _task: ring))
    assert taskflow.engines.load(flow, engine="lazy").run() == states.SUCCESS


def test_delay_of_another_attempt_fails_the_task() -> None:
    kept: list[Delay] = []

    def keep(_task: Any) -> Delay:
        kept.append(Delay())
        return kept[0]

    flow = linear_flow.Flow("flow", retry=retry.Times(2)).add(Plain("keeps", keep))
    engine = taskflow.engines.load(flow, engine="lazy")
    client = Client(engine.storage.backend)
    assert engine.run() == DELAYED
    client.fail(kept[0].token, "again")
    with pytest.raises(lazy_engine.DelayMisuse, match=r"'keeps'.*another attempt"):
        engine.run()
    assert client.delays() == []


@pytest.mark.parametrize("wrap", [lambda delay: delay, lambda delay: {"a": delay}])
def test_delay_of_another_task_fails_the_task(wrap: Callable[[Delay], Any]) -> None:
    shared: list[Delay] = []

    def lend(_task: Any) -> str:
        shared.append(Delay())
        return "done"

    flow = linear_flow.Flow("flow").add(
        Plain("lends", lend), Plain("borrows", lambda _task: wrap(shared[0]))
    )
    engine = taskflow.engines.load(flow, engine="lazy")
    with pytest.raises(lazy_engine.DelayMisuse, match="'borrows'"):
        engine.run()
    receipt = Client(engine.storage.backend).complete(shared[0].token, 1)
    assert receipt.disposition is Disposition.LATE


class Answers(retry.Retry):
    """A retry controller that does what it is told, and never retries."""

    def __init__(self, do: Callable[[], Any]) -> None:
        super().__init__("answers")
        self._do = do

    def execute(self, history: Any, **_kwargs: Any) -> Any:
        return self._do()

    def on_failure(self, history: Any, **_kwargs: Any) -> str:
        return str(retry.REVERT)


RETRY_ANSWERS: dict[str, tuple[Callable[[Delay], Any], str]] = {
    "made": (lambda delay: Delay(), "inside execute"),
    "raised": (lambda delay: raise_it(Delay()), "inside execute"),
    "of a task": (lambda delay: delay, "'answers'.*only tasks can wait"),
    "in a tuple": (lambda delay: (1, delay), "'answers'.*only tasks can wait"),
    "in a dict": (lambda delay: {"a": [delay]}, "'answers'.*only tasks can wait"),
}


@pytest.mark.parametrize(("answer", "why"), RETRY_ANSWERS.values(), ids=RETRY_ANSWERS)
def test_delay_from_a_retry_controller_fails_it(answer: Callable[[Delay], Any], why: str) -> None:
    made: list[Delay] = []

    def lend(_task: Any) -> str:
        made.append(Delay())
        return "done"

    inner = linear_flow.Flow("inner", retry=Answers(lambda: answer(made[0])))
    inner.add(Plain("never", lambda _task: raise_it(AssertionError("it was run"))))
    flow = linear_flow.Flow("flow").add(Plain("lends", lend), inner)
    engine = taskflow.engines.load(flow, engine="lazy")
    with pytest.raises(lazy_engine.DelayMisuse, match=why):
        engine.run()
    assert engine.storage.get_flow_state() == states.REVERTED
    assert Client(engine.storage.backend).delays() == []


@pytest.mark.parametrize(
    ("make", "error", "what"),
    [
        (lambda: Delay(timeout_seconds=0), ValueError, "timeout_seconds"),
        (lambda: Delay(timeout_seconds=-1), ValueError, "timeout_seconds"),
        (lambda: Delay(timeout_seconds=math.inf), ValueError, "timeout_seconds"),
        (lambda: Delay(timeout_seconds=True), ValueError, "timeout_seconds"),
        (lambda: Delay(timeout_seconds="5"), ValueError, "timeout_seconds"),
        (lambda: Delay(timeout_seconds=1e300), ValueError, "timeout_seconds"),
        (lambda: Delay(heartbeat_seconds=0), ValueError, "heartbeat_seconds"),
        (lambda: Delay(probe_every_seconds=5), lazy_engine.DelayMisuse, r"no probe\(\)"),
        (lambda: Delay(on_timeout="ignore"), ValueError, "fail, default, alert"),
        (lambda: Delay(default=0), ValueError, 'on_timeout="default"'),
        (
            lambda: Delay(on_timeout="default", default={1}),
            lazy_engine.OutcomeNotStorable,
            "default",
        ),
        (lambda: Delay.sleep(-1), ValueError, "seconds"),
        (lambda: Delay.sleep(math.nan), ValueError, "seconds"),
        (lambda: Delay.until(datetime.datetime(2030, 1, 1)), ValueError, "timezone"),
    ],
)
def test_terms_that_cannot_be_kept_fail_the_task_and_say_which(
    make: Callable[[], Any], error: type[Exception], what: str
) -> None:
    made, seen = run_one(lambda _task: make())
    assert isinstance(seen, error)
    assert re.search(what, str(seen)), seen
    assert Client(made.storage.backend).delays() == []


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_refused_call_about_time_changes_nothing(world: World) -> None:
    naive = datetime.datetime(2030, 1, 1)
    for call, error in (
        (lambda: world.client.cancel("no such flow", "why"), lazy_engine.UnknownFlow),
        (lambda: world.client.heartbeat(world.token, progress=2), ValueError),
        (lambda: world.client.heartbeat(world.token, details={1}), lazy_engine.OutcomeNotStorable),
        (lambda: world.client.heartbeat("no token"), lazy_engine.InvalidToken),
        (lambda: world.client.delays(due_before_at=naive), ValueError),
    ):
        with refused(world, error):
            call()


def test_bad_details_of_a_delay_fail_its_task() -> None:
    for details in ({1, 2}, math.nan, {1: 2}, "x" * 17_000):
        _made, error = run_one(lambda _task, details=details: Delay(details=details))
        assert isinstance(error, lazy_engine.OutcomeNotStorable)
        assert "details" in str(error)


def test_delay_is_not_pickled_with_its_token() -> None:
    seen: list[str] = []

    def do(_task: Any) -> Delay:
        delay = Delay()
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled"):
                way(delay)
            seen.append(way.__name__)
        return delay

    flow = linear_flow.Flow("flow").add(Plain("one", do))
    assert taskflow.engines.load(flow, engine="lazy").run() == DELAYED
    assert len(seen) == 3
