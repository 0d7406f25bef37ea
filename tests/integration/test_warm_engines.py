# SPDX-License-Identifier: Apache-2.0
"""A conductor keeps the engines of parked flows, and uses one again only if nobody else ran its flow since.

Jobs are handed to the conductor directly: which job it claims, and when, is tried elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa
from taskflow import states, task
from taskflow.conductors import backends as conductors
from taskflow.jobs import base as jobs_base
from taskflow.listeners import base as listeners_base
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.persistence import backends

from lazy_engine import Client, Delay, errors, factory, garbage, ledger
from lazy_engine.claim import CONSUME, COOL, KEEP
from lazy_engine.conductor import LazyConductor
from lazy_engine.engine.storage import LazyStorage
from tests.counting import count_calls
from tests.integration.parked import opened


class Ask(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=3600)


class Sum(task.Task):
    def execute(self, **answers: Any) -> Any:
        return sum(answers.values())


class Fails(task.Task):
    def execute(self) -> None:
        raise OSError("it failed")


def asks(count: int) -> Any:
    flow = linear_flow.Flow("asks")
    names = [f"ask {number}" for number in range(count)]
    for name in names:
        flow.add(Ask(name, provides=name))
    return flow.add(Sum("sum", requires=names, provides="total"))


def fails_in_the_end() -> Any:
    return linear_flow.Flow("fails").add(Ask("ask 0"), Fails("fails"))


def many(count: int) -> Any:
    wide = unordered_flow.Flow("wide").add(*[Sum(f"sum {number}") for number in range(count)])
    return linear_flow.Flow("many").add(wide, asks(3))


HOOKS: list[Any] = []


class Beats(task.Task):
    def execute(self) -> None:
        HOOKS.pop()()


def beats() -> Any:
    after = linear_flow.Flow("row").add(Sum("first"), Beats("beats"))
    return unordered_flow.Flow("beats").add(Ask("ask 0"), after)


class Collects(task.Task):
    def execute(self) -> bool:
        return gc.isenabled()


def collects() -> Any:
    return linear_flow.Flow("collects").add(Sum("sum"), Ask("ask 0"), Collects("collects"))


@dataclasses.dataclass(eq=False)
class Job:
    details: dict[str, Any]
    name: str = "job"
    uuid: str = "job"
    priority: Any = jobs_base.JobPriority.NORMAL


class Site:
    def __init__(self, backend: Any, **options: Any) -> None:
        self.backend = backend
        self.client = Client(backend)
        self.conductor = self.conduct(**options)

    def conduct(self, **options: Any) -> LazyConductor:
        board = mock.Mock(spec=jobs_base.NotifyingJobBoard)
        made: LazyConductor = conductors.fetch(
            "lazy", "tests", board, persistence=self.backend, **options
        )
        return made

    def run(self, flow_uuid: str, conductor: LazyConductor | None = None, **details: Any) -> str:
        fate = (conductor or self.conductor)._dispatch_job(Job({"flow_uuid": flow_uuid, **details}))
        assert fate == CONSUME
        return self.client.flow(flow_uuid).state

    def answer(self, flow_uuid: str, number: int) -> None:
        self.client.complete(self.client.token(flow_uuid, f"ask {number}"), 10**number)


@pytest.fixture(params=["sqlite", "zookeeper", "memory"])
def any_store(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "memory":
        with contextlib.closing(backends.fetch({"connection": "memory://"})) as made:
            yield made
        return
    with opened(request.getfixturevalue(f"{request.param}_url")) as made:
        yield made


@pytest.fixture
def site(any_store: Any) -> Site:
    return Site(any_store)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Uuids of the flows that are made by their factories: each is an engine loaded anew."""
    made: list[str] = []
    make = factory.make

    def note(detail: Any) -> Any:
        made.append(detail.uuid)
        return make(detail)

    monkeypatch.setattr(factory, "make", note)
    return made


def test_kept_engine_goes_on_and_the_flow_is_not_made_again(site: Site, made: list[str]) -> None:
    flow_uuid = site.client.submit(asks, [3])
    assert site.run(flow_uuid) == "DELAYED"
    for number in range(3):
        site.answer(flow_uuid, number)
        assert site.run(flow_uuid) == ("DELAYED" if number < 2 else "SUCCESS")
    assert made == [flow_uuid]
    assert site.client.flow(flow_uuid).results["sum"] == 111
    assert len(site.conductor._shelf) == 0, "what has ended is not kept"


def test_details_are_not_read_for_a_kept_engine(sqlite_url: str) -> None:
    with opened(sqlite_url) as backend:
        site = Site(backend)
        flow_uuid = site.client.submit(asks, [3])
        site.run(flow_uuid)
        read: list[str] = []
        engine = ledger.beside(backend)._transactor.engine  # type: ignore[attr-defined]

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("SELECT") and "atomdetails" in statement:
                read.append(statement)

        for number, conductor in enumerate((site.conductor, site.conduct())):
            site.answer(flow_uuid, number)
            sa.event.listen(engine, "after_cursor_execute", note)
            assert conductor._dispatch_job(Job({"flow_uuid": flow_uuid})) == CONSUME
            sa.event.remove(engine, "after_cursor_execute", note)
            assert bool(read) == (number == 1), "only who has no engine has to read"
            read.clear()


def test_engine_is_loaded_anew_if_somebody_else_ran_the_flow(site: Site, made: list[str]) -> None:
    flow_uuid = site.client.submit(asks, [3])
    other = site.conduct()
    for number, conductor in enumerate((site.conductor, other, site.conductor)):
        assert site.run(flow_uuid, conductor) == "DELAYED"
        site.answer(flow_uuid, number)
    # Each of the two has an engine now, and only the first one's is as the flow is.
    assert len(made) == 3
    assert site.run(flow_uuid, other) == "SUCCESS"
    assert len(made) == 4
    assert site.client.flow(flow_uuid).results["sum"] == 111


def test_engine_is_loaded_anew_after_a_heartbeat_with_progress(site: Site, made: list[str]) -> None:
    flow_uuid = site.client.submit(asks, [2])
    site.run(flow_uuid)
    token = site.client.token(flow_uuid, "ask 0")
    site.client.heartbeat(token, progress=0.5, details={"at": "half"})
    site.answer(flow_uuid, 0)
    assert site.run(flow_uuid) == "DELAYED"
    assert len(made) == 2
    detail = site.client._readable_detail(flow_uuid)
    assert detail is not None
    (atom,) = [atom for atom in detail if atom.name == "ask 0"]
    assert atom.meta["progress_details"]["details"] == {"at": "half"}


def test_progress_told_while_the_flow_is_at_work_is_kept(site: Site) -> None:
    """It raises no epoch, since that would fence the owner."""
    flow_uuid = site.client.submit(beats)

    def beat() -> None:
        token = site.client.token(flow_uuid, "ask 0")
        site.client.heartbeat(token, progress=0.5, details={"at": "half"})

    HOOKS.append(beat)
    assert site.run(flow_uuid) == "DELAYED"
    assert not HOOKS
    site.answer(flow_uuid, 0)
    assert site.run(flow_uuid) == "SUCCESS"
    detail = site.client._readable_detail(flow_uuid)
    assert detail is not None
    (atom,) = [atom for atom in detail if atom.name == "ask 0"]
    assert atom.meta["progress_details"]["details"] == {"at": "half"}
    assert atom.meta["progress"] == 1.0


def test_purged_flow_of_a_kept_engine_is_not_run(site: Site) -> None:
    flow_uuid = site.client.submit(asks, [1])
    site.run(flow_uuid)
    kept = site.conductor._shelf.take(flow_uuid)
    site.client.cancel(flow_uuid, "not wanted")
    assert site.client.resume(flow_uuid) == "REVERTED"
    tomorrow_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    assert site.client.purge(finished_before_at=tomorrow_at) == 1
    site.conductor._shelf.put(flow_uuid, kept, 1)
    assert site.conductor._dispatch_job(Job({"flow_uuid": flow_uuid})) == KEEP


def test_engine_whose_run_failed_in_any_way_is_not_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_uuid = site.client.submit(asks, [2])
    site.run(flow_uuid)
    site.answer(flow_uuid, 0)
    with monkeypatch.context() as patched:
        failing = mock.Mock(side_effect=errors.StoreUnavailable("gone"))
        patched.setattr(type(ledger.beside(site.backend)), "commit", failing)
        assert site.conductor._dispatch_job(Job({"flow_uuid": flow_uuid})) == COOL
    assert len(site.conductor._shelf) == 0
    assert site.run(flow_uuid) == "DELAYED"
    assert len(site.conductor._shelf) == 1


def test_flow_that_fails_ends_alike_warm_and_cold(any_store: Any) -> None:
    ends = []
    for kept in (256, 0):
        site = Site(any_store, keep_engines=kept)
        flow_uuid = site.client.submit(fails_in_the_end)
        site.run(flow_uuid)
        site.answer(flow_uuid, 0)
        state = site.run(flow_uuid)
        view = site.client.flow(flow_uuid)
        ends.append((state, {atom.name: atom.state for atom in view.atoms}))
        assert len(site.conductor._shelf) == 0
    assert ends[0] == ends[1]
    assert ends[0][0] == states.REVERTED


def test_values_that_come_with_a_job_are_never_those_of_a_kept_engine(
    site: Site, made: list[str]
) -> None:
    flow_uuid = site.client.submit(asks, [2])
    assert site.run(flow_uuid, store={"a": 1}) == "DELAYED"
    assert len(site.conductor._shelf) == 0
    site.answer(flow_uuid, 0)
    assert site.run(flow_uuid) == "DELAYED"
    assert len(site.conductor._shelf) == 1
    site.answer(flow_uuid, 1)
    assert site.run(flow_uuid, store={"a": 2}) == "SUCCESS"
    assert len(made) == 3


def test_listeners_hear_once_however_often_the_engine_is_used(site: Site) -> None:
    heard: list[tuple[str, str]] = []

    class Listener(listeners_base.Listener):
        def _task_receiver(self, state: str, details: Any) -> None:
            heard.append((details["task_name"], state))

    class Conductor(LazyConductor):
        def _listeners_from_job(self, job: Any, engine: Any) -> list[Any]:
            return [Listener(engine)]

    board = mock.Mock(spec=jobs_base.NotifyingJobBoard)
    conductor = Conductor("tests", board, persistence=site.backend)

    def listen_for_good(_event: str, details: Any) -> None:
        details["engine"].atom_notifier.register(
            states.SUCCESS,
            lambda _state, details: heard.append((details["task_name"], "registered")),
        )

    conductor.notifier.register("running_start", listen_for_good)
    flow_uuid = site.client.submit(asks, [3])
    site.run(flow_uuid, conductor)
    for number in range(3):
        site.answer(flow_uuid, number)
        heard.clear()
        site.run(flow_uuid, conductor)
        assert heard.count((f"ask {number}", "SUCCESS")) == 1
        assert heard.count((f"ask {number}", "registered")) == 1


def test_no_engine_is_kept_if_none_is_to_be(any_store: Any, made: list[str]) -> None:
    site = Site(any_store, keep_engines=0)
    flow_uuid = site.client.submit(asks, [2])
    site.run(flow_uuid)
    site.answer(flow_uuid, 0)
    site.run(flow_uuid)
    assert len(made) == 2


def test_engines_that_are_not_kept_any_more_are_freed(
    any_store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory is bounded however many flows pass through."""
    caplog.set_level(logging.WARNING)  # what is captured holds the engines that it tells of
    site = Site(any_store, keep_engines=3)
    seen: list[weakref.ref[Any]] = []
    site.conductor.notifier.register(
        "flow_parked", lambda _event, details: seen.append(weakref.ref(details["engine"]))
    )
    for _ in range(8):
        site.run(site.client.submit(asks, [1]))
    gc.collect()
    assert [engine() is not None for engine in seen] == [False] * 5 + [True] * 3
    assert (len(site.conductor._shelf), site.conductor._shelf.atoms) == (3, 6)


def test_calls_of_a_warm_wake_do_not_grow_with_the_flow(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def calls(count: int) -> int:
        flow_uuid = site.client.submit(many, [count])
        site.run(flow_uuid)
        site.answer(flow_uuid, 0)
        site.run(flow_uuid)  # which prepares once what all later wakes use
        site.answer(flow_uuid, 1)
        job = Job({"flow_uuid": flow_uuid})
        return count_calls(lambda: site.conductor._dispatch_job(job))

    with opened(sqlite_url) as backend:
        site = Site(backend)
        calls(1)
        few, more = calls(2), calls(402)
    assert more < 1.05 * few


def test_tasks_of_a_large_flow_run_with_pythons_garbage_collected(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task may run for hours."""
    monkeypatch.setattr(garbage, "LARGE", 3)
    with opened(sqlite_url) as backend:
        site = Site(backend, keep_engines=0)
        seen: list[bool] = []
        make = factory.make

        def note(detail: Any) -> Any:
            seen.append(gc.isenabled())
            return make(detail)

        monkeypatch.setattr(factory, "make", note)
        flow_uuid = site.client.submit(collects)
        site.run(flow_uuid)
        site.answer(flow_uuid, 0)
        assert site.run(flow_uuid) == "SUCCESS"
        assert seen == [True, False], "only the second time is it known to be large"
        assert site.client.flow(flow_uuid).results["collects"] is True
        assert gc.isenabled()


def test_clients_run_tasks_of_a_large_flow_with_pythons_garbage_collected(
    any_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "LARGE", 3)
    seen: list[bool] = []
    changes = LazyStorage.changes

    def note(self: LazyStorage, *args: Any) -> Any:
        seen.append(gc.isenabled())
        return changes(self, *args)

    monkeypatch.setattr(LazyStorage, "changes", note)
    client = Client(any_store)
    flow_uuid = client.submit(collects)
    assert client.resume(flow_uuid) == "DELAYED"
    client.complete(client.token(flow_uuid, "ask 0"), 1)
    assert client.resume(flow_uuid) == "SUCCESS"
    assert client.flow(flow_uuid).results["collects"] is True
    assert gc.isenabled()
    assert False in seen


# -- clients ------------------------------------------------------------------


def test_client_keeps_engines_if_it_is_told_to_and_reads_no_details_then(any_store: Any) -> None:
    client = Client(any_store, keep_engines=1)
    flow_uuid = client.submit(asks, [2])
    with mock.patch.object(factory, "make_stored", side_effect=AssertionError("made anew")):
        assert client.resume(flow_uuid) == "DELAYED"
        client.complete(client.token(flow_uuid, "ask 0"), 1)
        assert client.resume(flow_uuid) == "DELAYED"
        client.complete(client.token(flow_uuid, "ask 1"), 10)
        assert client.run_on(flow_uuid) == "SUCCESS"
    assert client.flow(flow_uuid).results["sum"] == 11
    assert client.resume(flow_uuid) == "SUCCESS"


def test_client_loads_a_flow_anew_that_somebody_else_ran(any_store: Any) -> None:
    client, other = Client(any_store, keep_engines=8), Client(any_store)
    flow_uuid = client.submit(asks, [3])
    assert client.resume(flow_uuid) == "DELAYED"
    for number in range(3):
        other.complete(other.token(flow_uuid, f"ask {number}"), 10**number)
        runner = other if number == 0 else client
        assert runner.resume(flow_uuid) == ("SUCCESS" if number == 2 else "DELAYED")
    assert client.flow(flow_uuid).results["sum"] == 111


def test_client_loads_a_flow_anew_that_was_purged_and_submitted_again_by_its_uuid(
    any_store: Any,
) -> None:
    """The new flow is as far as the old one was: the same epoch, the same commit number."""
    client, other = Client(any_store, keep_engines=8), Client(any_store)
    flow_uuid = client.submit(asks, [1])
    assert client.resume(flow_uuid) == "DELAYED"
    other.complete(other.token(flow_uuid, "ask 0"), 1)
    assert other.resume(flow_uuid) == "SUCCESS"
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    assert other.purge(finished_before_at=tomorrow) == 1
    other.submit(asks, [1], flow_uuid=flow_uuid)
    assert other.resume(flow_uuid) == "DELAYED"
    other.complete(other.token(flow_uuid, "ask 0"), 2)
    assert client.resume(flow_uuid) == "SUCCESS"
    assert client.flow(flow_uuid).results["sum"] == 2


def test_client_makes_a_flow_anew_that_was_purged_and_submitted_again_with_other_arguments(
    any_store: Any,
) -> None:
    client, other = Client(any_store, keep_engines=8), Client(any_store)
    flow_uuid = client.submit(asks, [0])
    assert other.resume(flow_uuid) == "SUCCESS"
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    assert other.purge(finished_before_at=tomorrow) == 1
    other.submit(asks, [1], flow_uuid=flow_uuid)
    assert client.resume(flow_uuid) == "DELAYED"


def test_client_keeps_no_more_than_what_it_submitted_last_unless_told_to(any_store: Any) -> None:
    client = Client(any_store)
    client.submit(asks, [1])
    flow_uuid = client.submit(asks, [1])
    assert len(client._made) == 1
    assert client.resume(flow_uuid) == "DELAYED"
    assert len(client._made) == len(client._shelf) == 0


def test_client_ends_a_suspension_with_a_kept_engine(any_store: Any) -> None:
    client = Client(any_store, keep_engines=8)
    flow_uuid = client.submit(asks, [1])
    assert client.resume(flow_uuid) == "DELAYED"
    client.suspend(flow_uuid)
    client.complete(client.token(flow_uuid, "ask 0"), 1)
    assert client.run_on(flow_uuid) == "SUSPENDED"
    assert client.resume(flow_uuid) == "SUCCESS"


def test_client_reads_a_flow_anew_that_somebody_ran_after_it_was_submitted(any_store: Any) -> None:
    client, other = Client(any_store, keep_engines=8), Client(any_store)
    flow_uuid = client.submit(asks, [1])
    assert other.resume(flow_uuid) == "DELAYED"
    other.complete(other.token(flow_uuid, "ask 0"), 11)
    assert client.resume(flow_uuid) == "SUCCESS"
    assert client.flow(flow_uuid).results["sum"] == 11


def test_client_says_that_a_flow_is_gone_that_it_submitted(any_store: Any) -> None:
    client, other = Client(any_store, keep_engines=8), Client(any_store)
    flow_uuid = client.submit(collects)
    other.cancel(flow_uuid, "enough")
    other.resume(flow_uuid)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    assert other.purge(finished_before_at=later) == 1
    with pytest.raises(errors.UnknownFlow):
        client.resume(flow_uuid)
