# SPDX-License-Identifier: Apache-2.0
"""Scenarios that are killed at each of their writes; each is told from its beginning after a crash.

They are callers like any other: what they know of the outside (tokens that tasks handed out) lies in files, and what
they do they do again when they are told again.
"""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import taskflow.engines
from taskflow import retry, task
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.persistence import backends

from lazy_engine import Client, Delay, Result, address
from lazy_engine.testing import Site
from tests.waiting import wait_until

# -- the outside -------------------------------------------------------------


class Outside:
    """Who asks for work to be done: keeps every token it was given, in a file."""

    def __init__(self, directory: str | pathlib.Path) -> None:
        self._directory = pathlib.Path(directory)

    def keep(self, task_name: str, delay: Delay) -> None:
        path = self._path(task_name, delay.attempt)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(delay.token)
        unfinished.rename(path)

    def token(self, task_name: str, attempt: int = 1) -> str:
        return self._path(task_name, attempt).read_text()

    def _path(self, task_name: str, attempt: int) -> pathlib.Path:
        return self._directory / f"{task_name}-{attempt}.token"


# -- tasks -------------------------------------------------------------------


class Ask(task.Task):
    """Hand the token out, and wait."""

    def __init__(self, name: str, outside: str) -> None:
        super().__init__(name, provides=name)
        self._outside = Outside(outside)

    def execute(self) -> Delay:
        delay = Delay(timeout_seconds=None)
        self._outside.keep(self.name, delay)
        return delay


class AskAndBeAnswered(Ask):
    """The outside answers before the task has ended."""

    def __init__(self, name: str, outside: str, persistence: str) -> None:
        super().__init__(name, outside)
        self._persistence = persistence

    def execute(self) -> Delay:
        delay = super().execute()
        with _client(self._persistence) as client:
            client.complete(delay.token, "early")
        return delay


class AskOnceMarked(AskAndBeAnswered):
    """As before, and the store says by then that this task runs."""

    def __init__(self, name: str, outside: str, persistence: str, flow_uuid: str) -> None:
        super().__init__(name, outside, persistence)
        self._flow_uuid = flow_uuid

    def execute(self) -> Delay:
        with _client(self._persistence) as client:
            wait_until(
                lambda: client.flow(self._flow_uuid).tasks[self.name] == "RUNNING",
                timeout_seconds=60,
            )
        return super().execute()


class Suspend(task.Task):
    """Somebody suspends the flow while this task runs."""

    def __init__(self, name: str, flow_uuid: str, persistence: str) -> None:
        super().__init__(name)
        self._flow_uuid = flow_uuid
        self._persistence = persistence

    def execute(self) -> str:
        with _client(self._persistence) as client:
            client.suspend(self._flow_uuid)
        return "suspended"


class Make(task.Task):
    """Make something, and take it back."""

    def execute(self) -> str:
        return f"{self.name} made"

    def revert(self, result: Any, **_: Any) -> str:
        return f"{self.name} unmade"


class UnmakeOutside(Make):
    """Make something that only the outside can take back."""

    def __init__(self, name: str, outside: str) -> None:
        super().__init__(name)
        self._outside = Outside(outside)

    def revert(self, result: Any, **_: Any) -> Delay:
        delay = Delay(timeout_seconds=None)
        self._outside.keep("unmake", delay)
        return delay


class Use(task.Task):
    """Use an answer."""

    def __init__(self, asked: str) -> None:
        super().__init__(f"use {asked}", rebind={"answer": asked})

    def execute(self, answer: Any) -> Any:
        return [answer]


@contextlib.contextmanager
def _client(persistence: str) -> Iterator[Client]:
    with contextlib.closing(backends.fetch(address.configuration(persistence))) as backend:
        yield Client(backend)


# -- flows -------------------------------------------------------------------


def make_ask_use(outside: str) -> Any:
    return linear_flow.Flow("flow").add(Make("before"), Ask("ask", outside), Use("ask"))


def make_early(outside: str, persistence: str) -> Any:
    asks = AskAndBeAnswered("ask", outside, persistence)
    return linear_flow.Flow("flow").add(Make("before"), asks, Use("ask"))


def make_two(outside: str) -> Any:
    return unordered_flow.Flow("flow").add(
        *(
            linear_flow.Flow(f"{name} flow").add(Ask(name, outside), Use(name))
            for name in ("left", "right")
        )
    )


def make_retried(outside: str) -> Any:
    return linear_flow.Flow("flow", retry=retry.Times(3, "retry")).add(
        Make("before"), Ask("ask", outside), Use("ask")
    )


def make_unmade_outside(outside: str) -> Any:
    return linear_flow.Flow("flow").add(
        Make("first"), UnmakeOutside("made", outside), Ask("ask", outside)
    )


def make_threaded(outside: str, persistence: str, flow_uuid: str) -> Any:
    return unordered_flow.Flow("flow").add(
        Make("sibling"),
        linear_flow.Flow("ask flow").add(
            AskOnceMarked("ask", outside, persistence, flow_uuid), Use("ask")
        ),
    )


def make_suspended(flow_uuid: str, persistence: str, outside: str) -> Any:
    return linear_flow.Flow("flow").add(
        Suspend("suspend", flow_uuid, persistence), Ask("ask", outside), Use("ask")
    )


# -- scenarios ---------------------------------------------------------------


def submit_park_answer(site: Site) -> None:
    """The story of every flow: submitted, parked, answered, resumed."""
    _submit(site, make_ask_use)
    site.client.resume(site.flow_uuid)
    site.client.complete(Outside(site.directory).token("ask"), 42)
    assert site.client.resume(site.flow_uuid) == "SUCCESS"


def early_answer(site: Site) -> None:
    """The answer is there before the task's Delay is."""
    _submit(site, make_early, persistence=site.persistence)
    assert site.client.resume(site.flow_uuid) == "SUCCESS"


def early_answer_in_threads(site: Site) -> None:
    """The task that is answered early is at work while a sibling's result is stored."""
    _submit(site, make_threaded, persistence=site.persistence, flow_uuid=site.flow_uuid)
    backend = site.client.backend
    with contextlib.closing(backend.get_connection()) as connection:
        detail = connection.get_flow_details(site.flow_uuid)
    options = {"engine": "lazy", "executor": "threads", "max_workers": 2}
    engine = taskflow.engines.load_from_detail(detail, backend=backend, **options)
    assert engine.run() == "SUCCESS"


def late_answer(site: Site) -> None:
    """A second, different answer: refused while the flow runs, kept as late when it is over."""
    _submit(site, make_ask_use)
    site.client.resume(site.flow_uuid)
    token = Outside(site.directory).token("ask")
    site.client.complete(token, "in time")
    site.client.complete(token, "something else")
    assert site.client.resume(site.flow_uuid) == "SUCCESS"
    site.client.complete(token, "something else")


def two_answers_in_one_call(site: Site) -> None:
    _submit(site, make_two)
    site.client.resume(site.flow_uuid)
    outside = Outside(site.directory)
    site.client.deliver_many(
        [(outside.token("left"), Result("l")), (outside.token("right"), Result("r"))]
    )
    assert site.client.resume(site.flow_uuid) == "SUCCESS"


def two_answers_at_once(site: Site) -> None:
    """Two deliverers and a resumer, all at the same moment."""
    _submit(site, make_two)
    site.client.resume(site.flow_uuid)
    outside = Outside(site.directory)
    together = threading.Barrier(3)

    def answer(name: str) -> None:
        together.wait()
        site.client.complete(outside.token(name), name)

    def resume() -> None:
        together.wait()
        site.client.resume(site.flow_uuid)

    _in_threads(lambda: answer("left"), lambda: answer("right"), resume)
    assert site.client.resume(site.flow_uuid) == "SUCCESS"


def failed_and_retried(site: Site) -> None:
    """The first attempt's answer is a failure; its token is late from then on."""
    _submit(site, make_retried)
    site.client.resume(site.flow_uuid)
    outside = Outside(site.directory)
    site.client.fail(outside.token("ask", 1), "no luck", kind="NoLuck")
    site.client.resume(site.flow_uuid)
    site.client.complete(outside.token("ask", 1), "much too late")
    site.client.complete(outside.token("ask", 2), "luck")
    assert site.client.resume(site.flow_uuid) == "SUCCESS"


def failed_and_reverted(site: Site) -> None:
    _submit(site, make_ask_use)
    site.client.resume(site.flow_uuid)
    site.client.fail(Outside(site.directory).token("ask"), "no")
    assert site.client.resume(site.flow_uuid) == "REVERTED"


def reverted_by_the_outside(site: Site) -> None:
    """A revert waits for the outside, too."""
    _submit(site, make_unmade_outside)
    site.client.resume(site.flow_uuid)
    outside = Outside(site.directory)
    site.client.fail(outside.token("ask"), "no")
    site.client.resume(site.flow_uuid)
    site.client.complete(outside.token("unmake"), "unmade")
    assert site.client.resume(site.flow_uuid) == "REVERTED"


def cancelled(site: Site) -> None:
    """Called off while it waits; the answer comes in vain."""
    _submit(site, make_ask_use)
    site.client.resume(site.flow_uuid)
    site.client.cancel(site.flow_uuid, "not wanted any more")
    assert site.client.resume(site.flow_uuid) == "REVERTED"
    site.client.complete(Outside(site.directory).token("ask"), "in vain")


def sibling_failed(site: Site) -> None:
    """One branch fails while the other waits: that wait is called off, and its answer is late."""
    _submit(site, make_two)
    site.client.resume(site.flow_uuid)
    outside = Outside(site.directory)
    site.client.fail(outside.token("left"), "no")
    assert site.client.resume(site.flow_uuid) == "REVERTED"
    site.client.complete(outside.token("right"), "in vain")


def suspended(site: Site) -> None:
    """Suspended while a task runs, answered while it rests, resumed."""
    _submit(site, make_suspended, flow_uuid=site.flow_uuid, persistence=site.persistence)
    site.client.resume(site.flow_uuid)
    site.client.resume(site.flow_uuid)
    if site.client.flow(site.flow_uuid).state == "DELAYED":
        site.client.suspend(site.flow_uuid)
    site.client.complete(Outside(site.directory).token("ask"), "answer")
    assert site.client.resume(site.flow_uuid) == "SUCCESS"


def woken_through_the_job_board(site: Site) -> None:
    """A conductor runs the flow, each time a doorbell asks for it.

    Where a life ended between noting a ring and posting the job, nobody rings for a minute; then the watchdog does. A
    plain ``Client.resume`` stands for it here.
    """
    zookeeper = site.zookeeper(site.settings["hosts"], timeout=site.settings["session_seconds"])
    conf = {"board": "zookeeper", "path": site.settings["path"] + "/" + site.flow_uuid}
    board = jobboards.fetch(
        "board",
        {**conf, "check_compatible": False},
        client=zookeeper,
        persistence=site.client.backend,
    )
    board.connect()
    site.at_end(board.close)
    client = site.client_on(board)
    with _conductor(board, client.backend):
        client.submit(
            make_ask_use, kwargs={"outside": str(site.directory)}, flow_uuid=site.flow_uuid
        )
        _wait_or_resume(site, client, "DELAYED", "SUCCESS")
        client.complete(Outside(site.directory).token("ask"), 42)
        _wait_or_resume(site, client, "SUCCESS")
        # What a dead conductor had claimed is free again when its session has ended.
        wait_until(lambda: board.job_count == 0, timeout_seconds=60, what="an empty board")


# -- helpers -----------------------------------------------------------------


def _submit(site: Site, factory: Any, **kwargs: Any) -> None:
    given = {"outside": str(site.directory), **kwargs}
    assert site.client.submit(factory, kwargs=given, flow_uuid=site.flow_uuid) == site.flow_uuid


def _in_threads(*jobs: Callable[[], None]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def _conductor(board: Any, persistence: Any) -> Iterator[None]:
    conductor = conductors.fetch("lazy", "told", board, persistence=persistence, wait_timeout=0.2)
    thread = threading.Thread(target=conductor.run)
    thread.start()
    try:
        yield
    finally:
        conductor.stop()
        thread.join(60)


def _wait_or_resume(site: Site, client: Client, *wanted: str) -> None:
    last_try = time.monotonic()

    def has_come() -> bool:
        nonlocal last_try
        if client.flow(site.flow_uuid).state in wanted:
            return True
        if site.life > 1 and time.monotonic() - last_try > 0.2:
            client.resume(site.flow_uuid)  # the watchdog's part
            last_try = time.monotonic()
        return False

    wait_until(has_come, timeout_seconds=60, what=f"the flow to be {' or '.join(wanted)}")
