# SPDX-License-Identifier: Apache-2.0
"""Deadlines, heartbeats, sleeps and probes, in every store, each step in an engine loaded anew."""

from __future__ import annotations

import datetime
import threading
from typing import Any

import pytest
import taskflow.engines
from taskflow import retry, states
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine import DELAYED, Delay, Disposition, StillWaiting, errors, pattern
from lazy_engine import client as client_module
from lazy_engine.watchdog import Watchdog
from tests.integration.timed import Ask, Break, Compensate, Say, Timed
from tests.waiting import wait_until

HOUR = 3600.0


# -- deadlines -------------------------------------------------------------


def test_passed_deadline_fails_the_task(timed: Timed) -> None:
    def make() -> Any:
        return linear_flow.Flow("f").add(
            Say("first", timed.log), Ask("ask", timed.log, timeout_seconds=HOUR)
        )

    assert timed.start(make) == DELAYED
    token = timed.token("ask")
    assert timed.pass_seconds(HOUR - 60) == []
    assert timed.pass_and_resume(61) == states.REVERTED
    assert timed.log[-2:] == ["undo ask after DelayTimeout", "undo first after first"]
    assert timed.client.complete(token).disposition is Disposition.LATE
    with pytest.raises(Exception, match="deadline"):
        engine_of(timed).run()


def engine_of(timed: Timed) -> Any:
    detail = timed.ledger.detail(timed.flow_uuid)
    return taskflow.engines.load(
        timed.make(), flow_detail=detail, engine="lazy", backend=timed.client.backend
    )


def test_default_stands_in_for_an_answer(timed: Timed) -> None:
    def make() -> Any:
        asked = {"timeout_seconds": HOUR, "on_timeout": "default", "default": {"vote": "no"}}
        return linear_flow.Flow("f").add(Ask("ask", timed.log, **asked), Say("next", timed.log))

    timed.start(make)
    assert timed.pass_and_resume(HOUR + 1) == states.SUCCESS
    assert timed.client.flow(timed.flow_uuid).results["ask"] == {"vote": "no"}
    assert timed.log == ["ask ask 1", "do next"]


def test_alert_shows_and_waits_on(timed: Timed) -> None:
    timed.start(
        lambda: linear_flow.Flow("f").add(
            Ask("ask", timed.log, timeout_seconds=HOUR, on_timeout="alert")
        )
    )
    assert timed.delays()[0].alerted_at is None
    assert timed.pass_seconds(HOUR + 1) == []
    assert timed.delays()[0].alerted_at is not None
    timed.client.complete(timed.token("ask"), 1)
    assert timed.resume() == states.SUCCESS


@pytest.mark.parametrize("way", ["sweep", "resume"])
def test_alert_is_logged_once_by_whoever_sees_it_first(
    timed: Timed, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    timed.start(
        lambda: linear_flow.Flow("f").add(
            Ask("ask", timed.log, timeout_seconds=HOUR, on_timeout="alert")
        )
    )
    timed.ledger.clock_offset_seconds = HOUR + 1
    for _ in range(2):
        if way == "sweep":
            timed.client.sweep()
        else:
            assert timed.resume() == DELAYED
    told = [record.getMessage() for record in caplog.records if "overdue" in record.message]
    assert told == [f"task 'ask' of flow {timed.flow_uuid} is overdue and waits on"]


def test_retry_controller_gets_a_fresh_token_and_a_fresh_deadline(timed: Timed) -> None:
    def make() -> Any:
        return linear_flow.Flow("f", retry=retry.Times(2, "again")).add(
            Ask("ask", timed.log, timeout_seconds=HOUR)
        )

    timed.start(make)
    first, first_deadline = timed.token("ask"), timed.delays()[0].timeout_at
    assert timed.pass_and_resume(HOUR + 1) == DELAYED
    assert timed.token("ask") != first
    assert timed.delays()[0].timeout_at > first_deadline + datetime.timedelta(seconds=HOUR / 2)
    assert timed.client.complete(first, "late").disposition is Disposition.LATE
    assert timed.client.complete(timed.token("ask"), "in time").disposition is Disposition.ACCEPTED
    assert timed.resume() == states.SUCCESS
    assert timed.client.flow(timed.flow_uuid).results["ask"] == "in time"


def _left_seconds(timed: Timed) -> float | None:
    (delay,) = timed.delays()
    if delay.timeout_at is None:
        return None
    return float(round((delay.timeout_at - delay.opened_at).total_seconds()))


def test_deadline_by_default_is_a_week_or_the_engines_or_the_tasks(timed: Timed) -> None:
    def make(**asked: Any) -> Any:
        return linear_flow.Flow("f").add(Ask("ask", timed.log, **asked))

    def of_task() -> Any:
        ask = Ask("ask", timed.log)
        ask.delay_timeout_seconds = 7  # type: ignore[attr-defined]
        return linear_flow.Flow("f").add(ask)

    timed.start(make)
    assert _left_seconds(timed) == 7 * 86400
    timed.start(make, default_timeout_seconds=5)
    assert _left_seconds(timed) == 5
    timed.start(of_task, default_timeout_seconds=5)
    assert _left_seconds(timed) == 7
    timed.start(make, default_timeout_seconds=None)
    assert _left_seconds(timed) is None
    timed.start(lambda: make(timeout_seconds=None))
    assert _left_seconds(timed) is None


def test_deadline_runs_while_the_flow_is_suspended(timed: Timed) -> None:
    def make() -> Any:
        asks = [Ask(name, timed.log, timeout_seconds=HOUR, on_timeout="default") for name in "ab"]
        return linear_flow.Flow("f").add(unordered_flow.Flow("u").add(*asks), Say("c", timed.log))

    timed.start(make)
    timed.client.suspend(timed.flow_uuid)
    timed.client.complete(timed.token("a"), "answer")
    assert timed.pass_seconds(HOUR + 1) == [], "a suspended flow is not woken"
    assert timed.client.flow(timed.flow_uuid).state == states.SUSPENDED
    with pytest.raises(errors.FlowSuspended):
        engine_of(timed).run()
    assert timed.resume() == states.SUCCESS
    assert timed.client.flow(timed.flow_uuid).results == {"a": "answer", "b": None, "c": "c"}


# -- heartbeats ------------------------------------------------------------


def test_silence_fails_with_its_own_error(timed: Timed) -> None:
    timed.start(lambda: linear_flow.Flow("f").add(Ask("ask", timed.log, heartbeat_seconds=60)))
    token = timed.token("ask")
    for _ in range(3):
        assert timed.pass_seconds(50) == []
        assert not timed.client.heartbeat(token, progress=0.5).cancelled
    (atom,) = timed.client.flow(timed.flow_uuid).atoms
    assert atom.progress == 0.5
    assert timed.pass_and_resume(61) == states.REVERTED
    assert timed.log[-1] == "undo ask after HeartbeatTimeout"
    assert timed.client.heartbeat(token).cancelled


def test_retry_controller_can_tell_silence_from_a_deadline(timed: Timed) -> None:
    seen = []

    class IfSilent(retry.Times):  # type: ignore[misc]
        def on_failure(self, history: Any, *args: Any, **kwargs: Any) -> Any:
            failure = list(history)[-1][1]["ask"]
            seen.append(
                (
                    bool(failure.check(errors.HeartbeatTimeout)),
                    bool(failure.check(errors.DelayTimeout)),
                )
            )
            return super().on_failure(history, *args, **kwargs)

    def make() -> Any:
        asked = {"heartbeat_seconds": 60, "timeout_seconds": 90}
        return linear_flow.Flow("f", retry=IfSilent(2, "again")).add(Ask("ask", timed.log, **asked))

    timed.start(make)
    assert timed.pass_and_resume(61) == DELAYED
    timed.pass_seconds(50)
    timed.client.heartbeat(timed.token("ask"))
    assert timed.pass_and_resume(45) == states.REVERTED
    assert seen == [(True, True), (False, True)]


# -- sleeps ----------------------------------------------------------------


class Rest(Say):
    def __init__(self, name: str, log: list[str], make: Any) -> None:
        super().__init__(name, log)
        self.make = make

    def execute(self) -> Any:
        return self.make()


def test_sleep_ends_by_itself_and_has_its_result(timed: Timed) -> None:
    timed.start(
        lambda: linear_flow.Flow("f").add(
            Rest("rest", timed.log, lambda: Delay.sleep(HOUR, result=[1])), Say("next", timed.log)
        )
    )
    assert timed.pass_seconds(HOUR - 60) == []
    assert timed.pass_and_resume(61) == states.SUCCESS
    assert timed.client.flow(timed.flow_uuid).results == {"rest": [1], "next": "next"}


def test_sleep_is_cut_short_by_an_answer(timed: Timed) -> None:
    timed.start(
        lambda: linear_flow.Flow("f").add(Rest("rest", timed.log, lambda: Delay.sleep(HOUR)))
    )
    assert timed.client.complete(timed.token("rest"), "up").disposition is Disposition.ACCEPTED
    assert timed.resume() == states.SUCCESS
    assert timed.client.flow(timed.flow_uuid).results == {"rest": "up"}
    assert timed.pass_seconds(HOUR + 1) == []


@pytest.mark.parametrize("year", [1970, 2000])
def test_sleep_until_an_instant_that_has_passed_is_over(timed: Timed, year: int) -> None:
    when = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)
    timed.start(
        lambda: linear_flow.Flow("f").add(Rest("rest", timed.log, lambda: Delay.until(when)))
    )
    assert timed.pass_and_resume(0) == states.SUCCESS


@pytest.mark.parametrize("seconds", [-1, None, "1", float("nan"), float("inf"), True])
def test_sleep_takes_a_number_of_seconds(timed: Timed, seconds: Any) -> None:
    with pytest.raises(ValueError, match="seconds"):
        timed.start(
            lambda: linear_flow.Flow("f").add(Rest("rest", timed.log, lambda: Delay.sleep(seconds)))
        )


def test_retried_waits_longer_each_time_and_gives_up(timed: Timed) -> None:
    def make() -> Any:
        return pattern.retried(
            Ask("ask", timed.log), 3, timeout_seconds=60, first_seconds=100, factor=3
        )

    assert timed.start(make) == DELAYED
    assert timed.pass_and_resume(61) == DELAYED
    assert timed.pass_seconds(90) == []
    assert timed.pass_and_resume(11) == DELAYED
    assert timed.pass_and_resume(61) == DELAYED
    assert timed.pass_seconds(290) == []
    assert timed.pass_and_resume(11) == DELAYED
    assert timed.pass_and_resume(61) == states.REVERTED
    assert [line for line in timed.log if line.startswith("ask")] == [
        f"ask ask {n}" for n in (1, 2, 3)
    ]


# -- probes ----------------------------------------------------------------


class Poll(Ask):
    default_provides = "server"

    def __init__(self, name: str, log: list[str], answers: list[Any], **asked: Any) -> None:
        super().__init__(name, log, probe_every_seconds=60, **asked)
        self.answers = answers

    def execute(self, image: str = "debian") -> Any:
        return super().execute()

    def probe(self, image: str, probe_state: Any) -> Any:
        self._log.append(f"probe {image} {probe_state}")
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def polling(timed: Timed, answers: list[Any], **asked: Any) -> str:
    return timed.start(
        lambda: linear_flow.Flow("f").add(Poll("poll", timed.log, answers, **asked)),
        store={"image": "debian"},
    )


def test_probe_gets_the_tasks_arguments_and_what_the_last_one_left(timed: Timed) -> None:
    polling(timed, [None, StillWaiting({"seen": 1}), StillWaiting({"seen": 2}), "ready"])
    for _ in range(3):
        assert timed.pass_seconds(50) == []
        assert timed.pass_and_resume(11) == DELAYED
    assert timed.pass_and_resume(61) == states.SUCCESS
    assert timed.log[1:] == [
        "probe debian None",
        "probe debian None",
        "probe debian {'seen': 1}",
        "probe debian {'seen': 2}",
    ]
    assert timed.client.flow(timed.flow_uuid).results == {"poll": "ready"}


def test_engine_that_parked_the_flow_probes_when_it_runs_again(timed: Timed) -> None:
    flow = linear_flow.Flow("f").add(Poll("poll", timed.log, [None, "ready"]))
    engine = taskflow.engines.load(
        flow, engine="lazy", backend=timed.client.backend, store={"image": "debian"}
    )
    timed.flow_uuid = engine.storage.flow_uuid
    assert engine.run() == DELAYED
    assert timed.pass_seconds(61) == [timed.flow_uuid]
    assert engine.run() == DELAYED
    assert timed.pass_seconds(61) == [timed.flow_uuid]
    assert engine.run() == states.SUCCESS


def test_answer_that_is_there_saves_its_task_a_look(timed: Timed) -> None:
    polling(timed, [])
    timed.pass_seconds(61)
    timed.client.complete(timed.token("poll"), "called")
    assert timed.resume() == states.SUCCESS
    assert timed.log == ["ask poll 1"]


def test_probe_that_raises_fails_the_task(timed: Timed) -> None:
    polling(timed, [LookupError("it is gone")])
    assert timed.pass_and_resume(61) == states.REVERTED
    with pytest.raises(Exception, match="it is gone"):
        engine_of(timed).run()


def test_probe_that_leaves_what_cannot_be_kept_fails_the_task(timed: Timed) -> None:
    polling(timed, [StillWaiting({1, 2})])
    assert timed.pass_and_resume(61) == states.REVERTED


def test_answer_ends_the_wait_between_two_probes(timed: Timed) -> None:
    polling(timed, [None])
    assert timed.pass_and_resume(61) == DELAYED
    assert timed.client.complete(timed.token("poll"), "called").disposition is Disposition.ACCEPTED
    assert timed.resume() == states.SUCCESS
    assert timed.pass_seconds(HOUR) == []
    assert timed.client.flow(timed.flow_uuid).results == {"poll": "called"}


def test_deadline_ends_the_probing(timed: Timed) -> None:
    polling(timed, [None], timeout_seconds=100)
    assert timed.pass_and_resume(61) == DELAYED
    assert timed.pass_and_resume(40) == states.REVERTED
    assert timed.log[-1] == "undo poll after DelayTimeout"


def test_what_a_probe_found_is_late_if_an_answer_came_meanwhile(timed: Timed) -> None:
    class Found(Poll):
        def probe(self, image: str) -> Any:
            told = timed.client.complete(timed.token("poll"), "called")
            timed.log.append(told.disposition.name)
            return "looked up"

    timed.start(
        lambda: linear_flow.Flow("f").add(Found("poll", timed.log, [])), store={"image": "x"}
    )
    assert timed.pass_and_resume(61) == states.SUCCESS
    assert timed.log[-1] == "ACCEPTED"
    assert timed.client.flow(timed.flow_uuid).results == {"poll": "called"}


def test_probe_needs_a_method_and_works_in_execute_only(timed: Timed) -> None:
    with pytest.raises(errors.DelayMisuse, match="probe"):
        timed.start(lambda: linear_flow.Flow("f").add(Ask("ask", timed.log, probe_every_seconds=5)))

    class Wrong(Compensate):
        def probe(self) -> None:
            raise AssertionError

    with pytest.raises(errors.DelayMisuse, match="execute"):
        timed.start(
            lambda: linear_flow.Flow("f").add(
                Wrong("wrong", timed.log, probe_every_seconds=5), Break("break", timed.log)
            )
        )


def test_other_tasks_run_while_a_probe_does(timed: Timed) -> None:
    """A probe is not waited for before an answer of another task is absorbed."""
    gate = threading.Event()

    class Slow(Poll):
        def probe(self, image: str) -> Any:
            assert gate.wait(30)
            return "looked up"

    class Open(Say):
        def execute(self) -> Any:
            gate.set()

    def make() -> Any:
        other = linear_flow.Flow("g").add(Ask("ask", timed.log), Open("open", timed.log))
        return unordered_flow.Flow("f").add(Slow("poll", timed.log, []), other)

    options = {"executor": "threads", "store": {"image": "x"}}
    assert timed.start(make, **options) == DELAYED
    timed.pass_seconds(61)
    timed.client.complete(timed.token("ask"), 1)
    engine = taskflow.engines.load(
        make(),
        flow_detail=timed.ledger.detail(timed.flow_uuid),
        engine="lazy",
        backend=timed.client.backend,
        **options,
    )
    assert engine.run() == states.SUCCESS
    assert timed.client.flow(timed.flow_uuid).results["poll"] == "looked up"


def test_answer_that_is_not_committed_yet_is_used_once_though_a_probe_finds_something(
    timed: Timed,
) -> None:
    """Whoever reads what a probe found reads that answer again; it is not one of the retry's next attempt."""

    class BreakOnce(Say):
        def execute(self) -> Any:
            if "broke" not in self._log:
                self._log.append("broke")
                raise ValueError("broken")

    def make() -> Any:
        tried = linear_flow.Flow("tried", retry=retry.Times(2))
        tried.add(Ask("ask", timed.log), BreakOnce("break", timed.log))
        return unordered_flow.Flow("f").add(tried, Poll("poll", timed.log, ["ready"]))

    timed.start(make, store={"image": "debian"})
    timed.pass_seconds(61)
    timed.client.complete(timed.token("ask"), "for the first attempt")
    engine = taskflow.engines.load(
        make(),
        flow_detail=timed.ledger.detail(timed.flow_uuid),
        engine="lazy",
        backend=timed.client.backend,
        store={"image": "debian"},
    )
    assert engine.run() == DELAYED
    assert timed.log[-1] == "ask ask 2"
    assert timed.client.flow(timed.flow_uuid).results == {"poll": "ready"}
    timed.client.complete(timed.token("ask"), "for the second one")
    assert timed.resume() == states.SUCCESS
    assert timed.client.flow(timed.flow_uuid).results["ask"] == "for the second one"


def test_answer_that_comes_while_a_probe_runs_is_taken(timed: Timed) -> None:
    inside, gate = threading.Event(), threading.Event()

    class Slow(Poll):
        def probe(self, image: str) -> Any:
            inside.set()
            assert gate.wait(30)
            return "looked up"

    class Open(Say):
        def execute(self, server: Any) -> Any:
            gate.set()

    def make() -> Any:
        return linear_flow.Flow("f").add(Slow("poll", timed.log, []), Open("open", timed.log))

    options = {"executor": "threads", "store": {"image": "x"}}
    timed.start(make, **options)
    timed.pass_seconds(61)
    token = timed.token("poll")
    told: list[Any] = []

    def answer() -> None:
        assert inside.wait(30)
        told.append(timed.client.complete(token, "called"))

    with_answer = threading.Thread(target=answer)
    with_answer.start()
    detail = timed.ledger.detail(timed.flow_uuid)
    engine = taskflow.engines.load(
        make(), flow_detail=detail, engine="lazy", backend=timed.client.backend, **options
    )
    assert engine.run() == states.SUCCESS
    with_answer.join()
    assert told[0].disposition is Disposition.ACCEPTED
    assert timed.client.flow(timed.flow_uuid).results["poll"] == "called"


# -- the watchdog ----------------------------------------------------------


def test_two_watchdogs_at_once_wake_a_flow_once(timed: Timed) -> None:
    timed.start(
        lambda: linear_flow.Flow("f").add(
            Rest("rest", timed.log, lambda: Delay.sleep(HOUR)), Say("next", timed.log)
        )
    )
    wanting: list[str] = []

    def note(flow_uuid: str) -> None:
        if flow_uuid == timed.flow_uuid:
            wanting.append(timed.client.resume(flow_uuid, flow=timed.make()))

    with (
        Watchdog(timed.client, period_seconds=0.01, on_wanting=note),
        Watchdog(timed.client, period_seconds=0.01, on_wanting=note),
    ):
        timed.ledger.clock_offset_seconds = HOUR + 1
        wait_until(lambda: timed.client.flow(timed.flow_uuid).state == states.SUCCESS)
    assert wanting == [states.SUCCESS]
    assert timed.log == ["do next"]


def test_watchdog_outlives_a_flow_that_cannot_be_seen_to(timed: Timed, monkeypatch: Any) -> None:
    timed.start(lambda: linear_flow.Flow("f").add(Ask("ask", timed.log, timeout_seconds=HOUR)))
    bad = timed.flow_uuid
    timed.start(lambda: linear_flow.Flow("f").add(Ask("ask", timed.log, timeout_seconds=HOUR)))
    real = timed.ledger.tend

    def tend(flow_uuid: str, *, rings: bool) -> Any:
        if flow_uuid == bad:
            raise ValueError("what is stored of it makes no sense")
        return real(flow_uuid, rings=rings)

    monkeypatch.setattr(timed.ledger, "tend", tend)
    # Even if it fills a whole page, which is what it stays at the head of.
    monkeypatch.setattr(client_module, "_SWEEP_PAGE", 1)
    assert timed.pass_seconds(HOUR + 1) == [timed.flow_uuid]


def test_sweep_after_a_long_time_does_all_that_is_due(timed: Timed) -> None:
    """One flow with more overdue delays than a sweep asks for at once hides no other flow."""

    def many() -> Any:
        asks = [
            Ask(f"ask-{n}", timed.log, timeout_seconds=60, on_timeout="default") for n in range(250)
        ]
        return unordered_flow.Flow("many").add(*asks)

    timed.start(many)
    big = timed.flow_uuid
    timed.start(lambda: linear_flow.Flow("f").add(Ask("ask", timed.log, timeout_seconds=70)))
    timed.ledger.clock_offset_seconds = HOUR
    assert {big, timed.flow_uuid} <= set(timed.client.sweep())
    assert timed.client.resume(big, flow=many()) == states.SUCCESS


def test_watchdog_period_is_above_zero(timed: Timed) -> None:
    with pytest.raises(ValueError, match="period_seconds"):
        Watchdog(timed.client, period_seconds=0)
