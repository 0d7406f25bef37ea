# SPDX-License-Identifier: Apache-2.0
"""lazy_engine in short tests, to be read from top to bottom.

Everything here runs in this process and in memory; on a database it is the same.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import taskflow.engines
from taskflow import retry, states, task
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.types import failure

import lazy_engine
from lazy_engine import DELAYED, Client, Delay, Disposition
from tests.waiting import wait_until


class Order(task.Task):
    """Asks a shop for something, and lets the shop answer when it can."""

    default_provides = "goods"

    def __init__(self, letters: list[Any], **settings: Any) -> None:
        super().__init__(**settings)
        self.letters = letters

    def execute(self) -> Delay:
        delay = Delay(details={"shop": "around the corner"})
        self.letters.append(delay)  # the token would go out with the order
        return delay


class Write(task.Task):
    """Writes down that it ran, and what it was given."""

    def __init__(self, diary: list[Any], **settings: Any) -> None:
        super().__init__(**settings)
        self.diary = diary

    def execute(self, **arguments: Any) -> None:
        self.diary.append((self.name, arguments))

    def revert(self, **arguments: Any) -> None:
        self.diary.append(("undo " + self.name, None))


def load(*tasks: Any, flow: Any = None, **options: Any) -> tuple[Any, Client]:
    """Load a flow of these tasks, one after the other; return its engine and a client for it."""
    flow = linear_flow.Flow("shopping").add(*tasks) if flow is None else flow
    engine = taskflow.engines.load(flow, engine="lazy", **options)
    return engine, Client(engine.storage.backend)


# -- four steps: park, deliver, (wake,) resume -----------------------------


def test_a_task_that_answers_delay_parks_its_flow() -> None:
    letters: list[Delay] = []
    engine, client = load(Order(letters))
    assert engine.run() == DELAYED
    # run() has returned: nothing runs, nothing is held. What waits can be listed.
    (waiting,) = client.delays()
    assert (waiting.task_name, waiting.id, waiting.attempt) == (
        f"{__name__}.Order",
        letters[0].id,
        1,
    )
    assert waiting.details == {"shop": "around the corner"}


def test_whoever_has_the_token_answers_and_the_flow_is_resumed() -> None:
    letters: list[Delay] = []
    diary: list[Any] = []
    engine, client = load(Order(letters), Write(diary, name="eat", requires=["goods"]))
    engine.run()
    receipt = client.complete(letters[0].token, ["bread", "milk"])
    assert receipt.disposition is Disposition.ACCEPTED  # and it is durable by now
    assert diary == [], "an answer is only recorded; it wakes, and does not run, the flow"
    assert engine.run() == states.SUCCESS
    assert diary == [("eat", {"goods": ["bread", "milk"]})]


def test_a_delay_may_be_raised_as_well() -> None:
    class Raises(task.Task):
        def execute(self) -> None:
            raise Delay

    engine, client = load(Raises("raises"))
    assert engine.run() == DELAYED
    client.complete(client.token(engine.storage.flow_uuid, "raises"), 42)
    assert engine.run() == states.SUCCESS
    assert engine.storage.get("raises") == 42


def test_other_branches_run_on_before_the_flow_parks() -> None:
    letters: list[Delay] = []
    diary: list[Any] = []
    flow = unordered_flow.Flow("party").add(
        linear_flow.Flow("food").add(Order(letters), Write(diary, name="eat", requires=["goods"])),
        linear_flow.Flow("fun").add(Write(diary, name="dance"), Write(diary, name="sleep")),
    )
    engine, client = load(flow=flow)
    assert engine.run() == DELAYED
    assert [name for name, _ in diary] == ["dance", "sleep"]
    client.complete(letters[0].token, "soup")
    assert engine.run() == states.SUCCESS
    assert [name for name, _ in diary] == ["dance", "sleep", "eat"]


def test_a_failure_can_be_answered_too_and_reverts_the_flow() -> None:
    letters: list[Delay] = []
    diary: list[Any] = []
    engine, client = load(Write(diary, name="walk"), Order(letters))
    engine.run()
    client.fail(letters[0].token, "closed on Mondays", kind="shop.Closed")
    with pytest.raises(lazy_engine.DelayFailed, match="closed on Mondays") as caught:
        engine.run()
    assert caught.value.kind == "shop.Closed"
    assert [name for name, _ in diary] == ["walk", "undo walk"]
    assert client.flow(engine.storage.flow_uuid).state == states.REVERTED


# -- answers that come early, twice, or too late ---------------------------


def test_an_answer_may_come_before_its_delay() -> None:
    receipts = []

    class Quick(task.Task):
        def execute(self) -> Delay:
            delay = Delay()
            receipts.append(client.complete(delay.token, "at once"))  # the shop is quick
            return delay

    engine, client = load(Quick("quick"))
    assert engine.run() == states.SUCCESS, "there was nothing left to wait for"
    assert receipts[0].disposition is Disposition.EARLY
    assert engine.storage.get("quick") == "at once"


def test_the_first_answer_wins_and_repeating_it_does_no_harm() -> None:
    letters: list[Delay] = []
    engine, client = load(Order(letters, name="order"))
    engine.run()
    said = [client.complete(letters[0].token, word).disposition for word in ("a", "a", "b")]
    assert said == [Disposition.ACCEPTED, Disposition.DUPLICATE, Disposition.CONFLICT]
    engine.run()
    assert engine.storage.get("order") == "a"
    assert client.complete(letters[0].token, "c").disposition is Disposition.LATE


# -- retries and siblings --------------------------------------------------


def test_a_retried_task_gets_a_fresh_token() -> None:
    letters: list[Delay] = []
    flow = linear_flow.Flow("again", retry=retry.Times(2)).add(Order(letters, name="order"))
    engine, client = load(flow=flow)
    assert engine.run() == DELAYED
    client.fail(letters[0].token, "try again")
    assert engine.run() == DELAYED
    first, second = letters
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.id != second.id
    assert client.complete(first.token, "old").disposition is Disposition.LATE
    assert client.complete(second.token, "new").disposition is Disposition.ACCEPTED
    assert engine.run() == states.SUCCESS
    assert engine.storage.get("order") == "new"


def test_a_retry_controller_can_ask_for_the_kind_of_a_failure() -> None:
    class OnlyIfClosed(retry.Retry):
        def on_failure(self, history: Any, *_args: Any, **_kwargs: Any) -> str:
            (found,) = history[-1][1].values()
            return retry.RETRY if found.check("shop.Closed") else retry.REVERT

        def execute(self, history: Any, *_args: Any, **_kwargs: Any) -> int:
            return len(history)

    letters: list[Delay] = []
    flow = linear_flow.Flow("f", retry=OnlyIfClosed("only")).add(Order(letters, name="order"))
    engine, client = load(flow=flow)
    engine.run()
    client.fail(letters[0].token, "later", kind="shop.Closed")
    assert engine.run() == DELAYED
    client.fail(letters[1].token, "never", kind="shop.Gone")
    with pytest.raises(lazy_engine.DelayFailed, match="never"):
        engine.run()


def test_a_failing_sibling_calls_off_waits_that_have_become_pointless() -> None:
    letters: dict[str, Delay] = {}
    seen: list[Any] = []

    class Waits(task.Task):
        def execute(self) -> Delay:
            letters[self.name] = Delay()
            return letters[self.name]

        def revert(self, result: Any, **_kwargs: Any) -> None:
            seen.append((self.name, result))

    engine, client = load(flow=unordered_flow.Flow("two").add(Waits("one"), Waits("other")))
    assert engine.run() == DELAYED
    client.fail(letters["one"].token, "no")
    with pytest.raises(lazy_engine.DelayFailed, match="no"):
        engine.run()
    # The other one's revert sees that its wait was called off, and can call the outside off.
    results = dict(seen)
    assert isinstance(results["other"], failure.Failure)
    assert results["other"].check(lazy_engine.DelayCancelled)
    assert client.complete(letters["other"].token, "x").disposition is Disposition.LATE
    assert client.delays() == []


# -- waiting, suspending, resuming -----------------------------------------


def test_an_engine_may_linger_for_quick_answers() -> None:
    letters: list[Delay] = []
    engine, client = load(Order(letters, name="order"), linger_seconds=30)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(engine.run()))
    thread.start()
    (waiting,) = wait_until(lambda: client.delays(), what="the delay")
    receipt = client.complete(client.token(waiting.flow_uuid, "order"), "quick")
    thread.join(timeout=20)
    assert answers == [states.SUCCESS], "it never parked"
    assert receipt.woken, "somebody was awake to see it"


def test_a_suspended_flow_rests_until_it_is_resumed() -> None:
    letters: list[Delay] = []
    engine, client = load(Order(letters, name="order"))
    engine.run()
    flow_uuid = engine.storage.flow_uuid
    client.suspend(flow_uuid, "holidays")
    assert client.complete(letters[0].token, "kept").disposition is Disposition.ACCEPTED
    with pytest.raises(lazy_engine.FlowSuspended, match="holidays"):
        engine.run()
    assert client.flow(flow_uuid).state == states.SUSPENDED
    flow = linear_flow.Flow("shopping").add(Order(letters, name="order"))
    assert client.resume(flow_uuid, flow=flow) == states.SUCCESS
    assert client.flow(flow_uuid).results == {"order": "kept"}


def test_tasks_may_run_in_threads() -> None:
    letters: list[Delay] = []
    flow = unordered_flow.Flow("three").add(
        *(Order(letters, name=f"order-{n}", provides=f"goods-{n}") for n in range(3))
    )
    engine, client = load(flow=flow, executor="threads", max_workers=3)
    assert engine.run() == DELAYED
    assert len({delay.token for delay in letters}) == 3
    for delay in letters:
        client.complete(delay.token, delay.id)
    assert engine.run() == states.SUCCESS
    assert {engine.storage.get(f"order-{n}") for n in range(3)} == {d.id for d in letters}


def test_wait_returns_when_the_flow_has_ended() -> None:
    letters: list[Delay] = []
    engine, client = load(Order(letters))
    engine.run()
    flow_uuid = engine.storage.flow_uuid
    assert client.wait(flow_uuid, timeout_seconds=0) == DELAYED
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(client.wait(flow_uuid)))
    thread.start()
    client.complete(letters[0].token)
    engine.run()
    thread.join(timeout=20)
    assert answers == [states.SUCCESS]


# -- the end ---------------------------------------------------------------


def test_another_engine_for_an_ended_flow_reports_its_end_and_runs_nothing() -> None:
    diary: list[Any] = []
    engine, client = load(Write(diary, name="once"))
    assert engine.run() == states.SUCCESS
    (detail,) = [client._ledger.detail(engine.storage.flow_uuid)]
    flow = linear_flow.Flow("shopping").add(Write(diary, name="once"))
    again = taskflow.engines.load(
        flow, engine="lazy", flow_detail=detail, backend=engine.storage.backend
    )
    assert again.run() == states.SUCCESS
    assert [name for name, _ in diary] == ["once"]


def test_reset_runs_an_ended_flow_once_more_with_new_tokens() -> None:
    letters: list[Delay] = []
    engine, client = load(Order(letters, name="order"))
    for expected in (1, 2):
        assert engine.run() == DELAYED
        assert letters[-1].attempt == expected
        client.complete(letters[-1].token, expected)
        assert engine.run() == states.SUCCESS
        assert engine.storage.get("order") == expected
        engine.reset()
    assert client.complete(letters[0].token, "stale").disposition is Disposition.LATE


def test_run_iter_shows_the_states_and_may_end_delayed() -> None:
    engine, _client = load(Order([]))
    assert list(engine.run_iter()) == [
        states.RESUMING,
        states.SCHEDULING,
        states.WAITING,
        states.ANALYZING,
        DELAYED,
    ]


def test_closing_the_generator_gives_the_flow_up_for_somebody_else() -> None:
    diary: list[Any] = []
    engine, client = load(Write(diary, name="first"), Write(diary, name="second"))
    flow_uuid = engine.storage.flow_uuid
    steps = engine.run_iter()
    for state in steps:
        if state == states.ANALYZING:
            break
    assert client.flow(flow_uuid).owner is not None
    steps.close()
    assert client.flow(flow_uuid).owner is None
    assert engine.run() == states.SUCCESS
    assert [name for name, _ in diary] == ["first", "second"], "nothing ran twice"


def test_delay_is_an_error_anywhere_but_in_a_task_of_a_lazy_engine() -> None:
    with pytest.raises(lazy_engine.DelayMisuse, match='engine="lazy"'):
        Delay()
    stock = taskflow.engines.load(linear_flow.Flow("stock").add(Order([])))
    with pytest.raises(lazy_engine.DelayMisuse, match='engine="lazy"'):
        stock.run()
