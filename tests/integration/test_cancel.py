# SPDX-License-Identifier: Apache-2.0
"""Cancelling, and waits inside reverts, in every store, each step in an engine loaded anew."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import taskflow.engines
from taskflow import retry, states
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine import DELAYED, Client, Delay, Disposition, errors
from lazy_engine.engine import ownership
from lazy_engine.ledger import record as r
from tests import child
from tests.integration import wake_flows
from tests.integration.timed import Ask, Break, Compensate, Say, Timed
from tests.waiting import wait_until

HOUR = 3600.0


def cancel(timed: Timed) -> bool:
    return timed.client.cancel(timed.flow_uuid, "enough")


class Never(retry.Times):  # type: ignore[misc]
    """Must not be asked."""

    def on_failure(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a retry controller was asked")


@contextlib.contextmanager
def dying(timed: Timed, is_time: Any) -> Iterator[None]:
    """Have the engine's process die, as far as the store can tell: nothing more is written.

    :param is_time: told the changes and the ending of every commit.
    """
    book = timed.ledger
    commit, release = book.commit, book.release
    dead: list[bool] = []

    def refuse(lease: Any, changes: Any, ending: Any = None) -> Any:
        if dead or is_time(changes, ending):
            dead.append(True)
            raise errors.StoreUnavailable("the process is dead")
        return commit(lease, changes, ending)

    book.commit = refuse
    book.release = lambda lease: None if dead else release(lease)
    try:
        with pytest.raises(errors.StoreUnavailable):
            yield
        assert dead
    finally:
        del book.commit, book.release


@contextlib.contextmanager
def marks_first() -> Iterator[None]:
    """Write the marks of tasks at work at once, and not only after a second."""
    begin = ownership.Ownership.begin
    current: list[Any] = []

    def begun(self: Any) -> None:
        current[:] = [self]
        begin(self)

    ownership.Ownership.begin = begun  # type: ignore[method-assign]
    Marked.flush = lambda self: current[0]._flush_marks()  # type: ignore[method-assign]
    try:
        yield
    finally:
        ownership.Ownership.begin = begin  # type: ignore[method-assign]


class Marked(Say):
    """Is durably marked as begun before it does anything."""

    def flush(self) -> None:
        raise NotImplementedError

    def execute(self) -> str:
        self.flush()
        return str(super().execute())


# -- cancelling what is parked ---------------------------------------------


def test_cancel_reverts_what_was_done_past_every_retry_controller(timed: Timed) -> None:
    def make() -> Any:
        asks = unordered_flow.Flow("u").add(Ask("a", timed.log), Ask("b", timed.log))
        return linear_flow.Flow("f", retry=Never(5, "never")).add(Say("first", timed.log), asks)

    assert timed.start(make) == DELAYED
    answered, waiting = timed.token("a"), timed.token("b")
    timed.client.complete(answered, "done")
    assert cancel(timed)
    assert not cancel(timed)
    assert timed.client.complete(waiting, 1).disposition is Disposition.LATE
    assert timed.client.heartbeat(waiting).cancelled
    timed.log.clear()
    assert timed.resume() == states.REVERTED
    assert sorted(timed.log[:2]) == ["undo a after done", "undo b after DelayCancelled"]
    assert timed.log[2:] == ["undo first after first"]
    shown = timed.client.flow(timed.flow_uuid)
    assert (shown.state, shown.is_cancelled, shown.wish_reason) == (states.REVERTED, True, "enough")
    assert set(shown.tasks.values()) == {states.REVERTED}
    assert timed.resume() == states.REVERTED, "and once more changes nothing"


def test_engine_of_a_cancelled_flow_raises_what_happened(timed: Timed) -> None:
    timed.start(lambda: linear_flow.Flow("f").add(Ask("ask", timed.log)))
    cancel(timed)
    for _ in range(2):
        detail = timed.ledger.detail(timed.flow_uuid)
        engine = taskflow.engines.load(
            timed.make(), flow_detail=detail, engine="lazy", backend=timed.client.backend
        )
        with pytest.raises(errors.FlowCancelled, match="enough"):
            engine.run()


def test_cancel_of_a_flow_that_nobody_has_begun(timed: Timed) -> None:
    timed.flow_uuid = timed.client.submit(wake_flows.one_wait)
    assert cancel(timed)
    assert timed.client.resume(timed.flow_uuid) == states.REVERTED
    assert timed.tasks() == {"ask": states.PENDING, "note": states.PENDING}


def test_cancel_of_a_suspended_flow(timed: Timed) -> None:
    timed.start(lambda: linear_flow.Flow("f").add(Say("first", timed.log), Ask("ask", timed.log)))
    assert timed.client.suspend(timed.flow_uuid)
    assert cancel(timed)
    assert not timed.client.suspend(timed.flow_uuid)  # too late
    assert timed.pass_and_resume(61) == states.REVERTED


def test_cancel_of_a_flow_that_is_over(timed: Timed) -> None:
    timed.start(lambda: linear_flow.Flow("f").add(Say("first", timed.log)))
    assert not timed.client.suspend(timed.flow_uuid)
    assert not cancel(timed)
    assert timed.client.flow(timed.flow_uuid).state == states.SUCCESS


def test_cancel_of_an_unknown_flow(timed: Timed) -> None:
    timed.flow_uuid = "nobody"
    with pytest.raises(errors.UnknownFlow):
        cancel(timed)


@pytest.mark.parametrize("stop", range(1, 9))
def test_cancel_after_a_crash_at_any_commit_reverts_all(timed: Timed, stop: int) -> None:
    """Wherever the process dies on its way, a cancelled flow ends reverted, and nothing stays done."""

    def make() -> Any:
        inner = linear_flow.Flow("g", retry=retry.Times(2, "again")).add(
            Say("one", timed.log), Ask("two", timed.log, timeout_seconds=HOUR)
        )
        return linear_flow.Flow("f").add(Say("first", timed.log), inner, Say("last", timed.log))

    timed.start(make)
    timed.client.fail(timed.token("two"), "no")
    commits: list[Any] = []

    def is_time(changes: Any, ending: Any) -> bool:
        commits.append(changes)
        return len(commits) == stop

    try:
        with dying(timed, is_time):
            timed.resume()
    except (AssertionError, pytest.fail.Exception):
        assert len(commits) < stop, "it parked before"
    # ZooKeeper has no clock: how long the dead owner's lease has run is known from the first look at it.
    timed.client.flow(timed.flow_uuid)
    timed.ledger.clock_offset_seconds = 60
    # What ran in the very turn that was lost has left no trace.
    begun = {name for name, state in timed.tasks().items() if state != states.PENDING}
    cancel(timed)
    asked = len([line for line in timed.log if line.startswith(("do", "ask"))])
    assert timed.resume() == states.REVERTED
    assert set(timed.tasks().values()) <= {states.REVERTED, states.PENDING}
    assert len([line for line in timed.log if line.startswith(("do", "ask"))]) == asked
    for name in begun & {"first", "one"}:
        assert [line for line in timed.log if line.split()[1] == name][-1].startswith("undo")


def test_crash_while_a_task_ran_and_then_cancel_reverts_that_task(timed: Timed) -> None:
    def make() -> Any:
        return linear_flow.Flow("f").add(Say("first", timed.log), Marked("second", timed.log))

    with marks_first(), dying(timed, lambda _c, _e: "do second" in timed.log):
        timed.start(make)
    assert timed.tasks()["second"] == states.RUNNING
    timed.ledger.clock_offset_seconds = HOUR
    cancel(timed)
    timed.log.clear()
    assert timed.resume() == states.REVERTED
    assert timed.log == ["undo second after None", "undo first after first"]


# -- cancelling what runs --------------------------------------------------


def test_cancel_of_a_flow_that_runs_here(timed: Timed) -> None:
    inside, gate = threading.Event(), threading.Event()

    class Slow(Say):
        def execute(self) -> str:
            inside.set()
            assert gate.wait(30)
            return str(super().execute())

    def make() -> Any:
        both = unordered_flow.Flow("u").add(Slow("slow", timed.log), Ask("ask", timed.log))
        return linear_flow.Flow("f").add(both, Say("last", timed.log))

    def act() -> None:
        assert inside.wait(30)
        wait_until(lambda: timed.delays())
        cancel(timed)
        gate.set()

    acting = threading.Thread(target=act)
    engine = taskflow.engines.load(
        make(), engine="lazy", backend=timed.client.backend, executor="threads"
    )
    timed.flow_uuid = engine.storage.flow_uuid
    acting.start()
    with pytest.raises(errors.FlowCancelled):
        engine.run()
    acting.join()
    assert sorted(timed.log) == [
        "ask ask 1",
        "do slow",
        "undo ask after DelayCancelled",
        "undo slow after slow",
    ]


class CancelsItself(Say):
    def __init__(self, name: str, log: list[str], timed: Timed) -> None:
        super().__init__(name, log)
        self.timed = timed

    def execute(self) -> str:
        cancel(self.timed)
        return str(super().execute())


def test_cancel_just_before_the_end_is_heeded(timed: Timed) -> None:
    def make() -> Any:
        return linear_flow.Flow("f", retry=Never(3, "never")).add(
            Say("first", timed.log), CancelsItself("last", timed.log, timed)
        )

    with pytest.raises(errors.FlowCancelled):
        timed.start(make)
    assert timed.log == ["do first", "do last", "undo last after last", "undo first after first"]


def test_task_that_fails_while_its_flow_is_cancelled_asks_no_controller(timed: Timed) -> None:
    class Fails(CancelsItself):
        def execute(self) -> str:
            super().execute()
            raise ValueError("that too")

    def make() -> Any:
        flow = linear_flow.Flow("f", retry=retry.Times(1, "once"))
        return flow.add(Say("first", timed.log), Fails("fails", timed.log, timed))

    with pytest.raises(Exception) as caught:  # noqa: PT011  # which of the two is open
        timed.start(make)
    assert isinstance(caught.value, (errors.FlowCancelled, ValueError))
    assert timed.client.flow(timed.flow_uuid).state == states.REVERTED
    assert timed.log.count("undo first after first") == 1


RUN_ELSEWHERE = """
import sys
from lazy_engine import Client
client = Client({"connection": sys.argv[1]})
print(client.resume(sys.argv[2]))
client.backend.close()
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_cancel_of_a_flow_that_runs_in_another_process(
    kind: str, request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    client = Client({"connection": url})
    with contextlib.closing(client.backend):
        store = {"directory": str(tmp_path)}
        flow_uuid = client.submit(wake_flows.goes_step_by_step, store=store)
        with subprocess.Popen(
            [sys.executable, "-c", RUN_ELSEWHERE, url, flow_uuid],
            env=child.environment(PYTHONWARNINGS="ignore"),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            wait_until((tmp_path / "begun").exists, timeout_seconds=30)
            assert client.cancel(flow_uuid, "enough")
            assert client.flow(flow_uuid).state == states.RUNNING
            (tmp_path / "go").touch()
            output, _ = process.communicate(timeout=60)
        assert output.split() == [states.REVERTED]
        assert not (tmp_path / "went on").exists()
        assert (tmp_path / "undone").exists()


# -- waits inside reverts --------------------------------------------------


def compensating(timed: Timed, **asked: Any) -> Any:
    return linear_flow.Flow("f").add(
        Say("first", timed.log),
        Compensate("one", timed.log, **asked),
        Compensate("two", timed.log, **asked),
        Break("break", timed.log),
    )


def test_compensations_wait_and_go_on_in_order(timed: Timed) -> None:
    assert timed.start(lambda: compensating(timed)) == DELAYED
    assert timed.log[-1] == "undo two 1"
    (delay,) = timed.delays()
    assert (delay.task_name, delay.kind) == ("two", "revert")
    assert timed.client.complete(timed.token("two"), "gone").disposition is Disposition.ACCEPTED
    assert timed.resume() == DELAYED
    assert timed.log[-1] == "undo one 1"
    timed.client.complete(timed.token("one"))
    assert timed.resume() == states.REVERTED
    assert timed.log[-1] == "undo first after first"
    assert set(timed.tasks().values()) == {states.REVERTED}


@pytest.mark.parametrize("how", ["fails", "times out"])
def test_failed_compensation_is_a_revert_failure(timed: Timed, how: str) -> None:
    timed.start(lambda: compensating(timed, timeout_seconds=HOUR))
    if how == "fails":
        timed.client.fail(timed.token("two"), "cannot")
        assert timed.resume() == states.FAILURE
    else:
        assert timed.pass_and_resume(HOUR + 1) == states.FAILURE
    assert timed.tasks()["two"] == states.REVERT_FAILURE
    assert timed.tasks()["one"] == states.SUCCESS
    assert timed.delays() == []


def test_sleep_in_a_revert(timed: Timed) -> None:
    class Settle(Say):
        def revert(self, result: Any, **_: Any) -> Any:
            return Delay.sleep(HOUR)

    timed.start(
        lambda: linear_flow.Flow("f").add(
            Say("first", timed.log), Settle("settle", timed.log), Break("break", timed.log)
        )
    )
    assert timed.pass_and_resume(HOUR + 1) == states.REVERTED
    assert timed.log[-1] == "undo first after first"


def test_compensation_after_a_crash_has_the_same_token(timed: Timed) -> None:
    tokens: list[tuple[str, str]] = []

    class Noting(Compensate):
        def revert(self, result: Any, **_: Any) -> Any:
            delay = super().revert(result)
            tokens.append((delay.token, delay.id))
            return delay

    def make() -> Any:
        return linear_flow.Flow("f").add(Noting("noting", timed.log), Break("break", timed.log))

    with dying(timed, lambda changes, _e: bool(changes.opened)):
        timed.start(make)
    assert timed.client.complete(tokens[0][0], "early").disposition is Disposition.EARLY
    timed.ledger.clock_offset_seconds = HOUR
    assert timed.resume() == states.REVERTED
    assert len(set(tokens)) == 1
    assert timed.tasks()["noting"] == states.REVERTED


def test_compensation_of_a_cancelled_flow_waits_and_is_answered(timed: Timed) -> None:
    def make() -> Any:
        return linear_flow.Flow("f", retry=Never(3, "never")).add(
            Say("first", timed.log), Compensate("one", timed.log), Ask("ask", timed.log)
        )

    timed.start(make)
    cancel(timed)
    assert timed.resume() == DELAYED
    token = timed.token("one")
    assert not timed.client.heartbeat(token).cancelled
    assert timed.pass_seconds(HOUR) == [], "nothing is to be done until the answer comes"
    assert not cancel(timed)
    assert timed.client.complete(token, "gone").disposition is Disposition.ACCEPTED
    assert timed.resume() == states.REVERTED
    assert timed.log[-1] == "undo first after first"


def test_cancel_while_a_compensation_waits_goes_on_to_the_end(timed: Timed) -> None:
    """A retry controller wanted another try; the cancel lets its compensation finish first."""

    def make() -> Any:
        inner = linear_flow.Flow("g", retry=retry.Times(5, "again")).add(
            Compensate("one", timed.log), Ask("ask", timed.log)
        )
        return linear_flow.Flow("f").add(Say("first", timed.log), inner)

    timed.start(make)
    timed.client.fail(timed.token("ask"), "no")
    assert timed.resume() == DELAYED
    assert timed.log[-1] == "undo one 1"
    cancel(timed)
    assert timed.resume() == DELAYED
    assert timed.client.complete(timed.token("one"), "gone").disposition is Disposition.ACCEPTED
    timed.log.clear()
    assert timed.resume() == states.REVERTED
    assert timed.log == ["undo first after first"], "and no further try"


def test_answer_to_a_compensation_while_suspended_is_kept(timed: Timed) -> None:
    timed.start(lambda: compensating(timed))
    timed.client.suspend(timed.flow_uuid)
    assert timed.client.complete(timed.token("two")).disposition is Disposition.ACCEPTED
    assert timed.pass_seconds(HOUR) == []
    assert timed.resume() == DELAYED
    assert timed.log[-1] == "undo one 1"


def test_second_try_waits_in_its_own_revert(timed: Timed) -> None:
    def make() -> Any:
        return linear_flow.Flow("f", retry=retry.Times(2, "again")).add(
            Compensate("one", timed.log), Ask("ask", timed.log)
        )

    timed.start(make)
    timed.client.fail(timed.token("ask"), "no")
    timed.resume()
    first = timed.token("one")
    timed.client.complete(first, "gone")
    assert timed.resume() == DELAYED
    timed.client.fail(timed.token("ask"), "no")
    timed.resume()
    second = timed.token("one")
    assert first != second
    assert timed.client.complete(first, "other").disposition in (
        Disposition.LATE,
        Disposition.CONFLICT,
    )
    timed.client.complete(second)
    assert timed.resume() == states.REVERTED


def test_no_wish_is_left_on_a_flow_that_runs_again(timed: Timed) -> None:
    timed.start(lambda: linear_flow.Flow("f").add(Ask("ask", timed.log)))
    cancel(timed)
    timed.resume()
    assert timed.ledger.flow(timed.flow_uuid).wish == r.WISH_CANCEL
    detail = timed.ledger.detail(timed.flow_uuid)
    engine = taskflow.engines.load(
        timed.make(), flow_detail=detail, engine="lazy", backend=timed.client.backend
    )
    engine.compile()
    engine.prepare()
    engine.reset()
    assert engine.run() == DELAYED
    assert timed.client.complete(timed.token("ask"), 1).disposition is Disposition.ACCEPTED
    assert engine.run() == states.SUCCESS
