# SPDX-License-Identifier: Apache-2.0
"""A ``Delay`` where it cannot be one: its task fails with an error that says so, and it is never a result."""

from __future__ import annotations

import copy
import datetime
import math
import pickle
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


WRONG_TERMS: dict[str, tuple[Callable[[], Any], str]] = {
    "no time": (lambda: Delay(timeout_seconds=0), "timeout_seconds must be above 0"),
    "before now": (lambda: Delay(timeout_seconds=-1), "timeout_seconds"),
    "text": (lambda: Delay(timeout_seconds="5"), "timeout_seconds takes a number"),  # type: ignore[arg-type]
    "truth": (lambda: Delay(heartbeat_seconds=True), "heartbeat_seconds takes a number"),
    "no number": (lambda: Delay(heartbeat_seconds=math.nan), "heartbeat_seconds"),
    "for ever": (lambda: Delay(timeout_seconds=math.inf), "timeout_seconds"),
    "too long": (lambda: Delay(timeout_seconds=1e12), "at most"),
    "what then": (lambda: Delay(on_timeout="explode"), "on_timeout takes fail, default, alert"),
    "unused": (lambda: Delay(default=0), "default= is used with"),
    "naive": (lambda: Delay.until(datetime.datetime(2030, 1, 1)), "timezone-aware"),
    "no sleep": (lambda: Delay.sleep(-1), "seconds must be at least 0"),
}


@pytest.mark.parametrize(("make", "why"), WRONG_TERMS.values(), ids=WRONG_TERMS)
def test_what_cannot_be_asked_of_the_clock_fails_the_task(
    make: Callable[[], Any], why: str
) -> None:
    made, error = run_one(lambda _task: make())
    assert isinstance(error, ValueError)
    assert why in str(error)
    assert Client(made.storage.backend).delays() == []


@pytest.mark.parametrize(
    "make",
    [
        lambda value: Delay(on_timeout="default", default=value),
        lambda value: Delay.sleep(5, result=value),
    ],
)
@pytest.mark.parametrize("value", [{1, 2}, math.nan, "x" * 66_000], ids=["set", "nan", "large"])
def test_result_that_a_timer_could_not_store_fails_the_task(make: Any, value: Any) -> None:
    _made, error = run_one(lambda _task: make(value))
    assert isinstance(error, lazy_engine.OutcomeNotStorable)


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_call_that_makes_no_sense_changes_nothing(world: World) -> None:
    for call in (
        lambda: world.client.heartbeat(world.token, progress=1.5),
        lambda: world.client.heartbeat(world.token, progress=math.nan),
        lambda: world.client.heartbeat(world.token, details={1, 2}),
        lambda: world.client.heartbeat("lz1.nonsense"),
        lambda: world.client.cancel("nobody", "why"),
        lambda: world.client.delays(due_before_at=datetime.datetime(2030, 1, 1)),
    ):
        with refused(world, ValueError, lazy_engine.InvalidToken, lazy_engine.UnknownFlow):
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
