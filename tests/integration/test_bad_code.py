# SPDX-License-Identifier: Apache-2.0
"""What a flow's own code does wrong: its task fails or the flow has an incident, and nothing is lost."""

from __future__ import annotations

import contextlib
import importlib
import math
import pathlib
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import taskflow.engines
from taskflow import exceptions as taskflow_exceptions
from taskflow import retry, states
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.types import failure
from taskflow.utils import persistence_utils

import lazy_engine
from lazy_engine import DELAYED, Client, Delay, Disposition
from tests.integration.parked import Plain, Waits, World, make_flow, park, raise_it, refused
from tests.servers import ZooKeeper

# -- factories and code ----------------------------------------------------

not_a_function = 5


def makes_no_flow() -> int:
    return 5


NO_FACTORIES: dict[str, tuple[Any, str]] = {
    "no such module": ("no.such.module.make", "'no.such.module.make': No module named 'no'"),
    "no path": ("nonsense", "'nonsense': that is no import path"),
    "no such function": ("math.no_such", "module 'math' has no function 'no_such'"),
    "no function": (f"{__name__}.not_a_function", "has no function 'not_a_function'"),
    "no flow": (makes_no_flow, "makes_no_flow' returned a int, not a flow"),
    "lambda": (lambda: make_flow(), "lambda.* at the top of a module"),
    "number": (5, "not 5"),
    "nothing": (None, "not None"),
}


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_what_is_no_factory_is_not_submitted(world: World) -> None:
    for factory, why in NO_FACTORIES.values():
        with refused(world, ImportError, ValueError, match=why) as caught:
            world.client.submit(factory)
        assert "Traceback" not in str(caught.value)
    with contextlib.closing(world.backend.get_connection()) as connection:
        assert len(list(connection.get_logbooks(lazy=True))) == 1


def park_without_factory(backend: Any) -> World:
    engine = taskflow.engines.load(make_flow(), engine="lazy", backend=backend)
    assert engine.run() == DELAYED
    client = Client(backend)
    flow_uuid = engine.storage.flow_uuid
    return World(backend, client, flow_uuid, client.token(flow_uuid, "waits"))


def test_flow_without_a_factory_is_an_incident_until_it_is_given(backend: Any) -> None:
    world = park_without_factory(backend)
    before = world.snapshot(with_incident=False)
    for count in (1, 2):
        with pytest.raises(
            lazy_engine.FlowIncident, match=rf"{world.flow_uuid}.* no factory .*flow="
        ):
            world.client.resume(world.flow_uuid)
        incident = world.client.flow(world.flow_uuid).incident
        assert incident is not None
        assert (incident.kind, incident.count) == ("no factory", count)
    assert world.snapshot(with_incident=False) == before
    world.assert_open()
    world.client.complete(world.token, "good")
    assert world.client.resume(world.flow_uuid, flow=make_flow()) == states.SUCCESS
    assert world.client.flow(world.flow_uuid).incident is None


_CODE = """
from taskflow.patterns import linear_flow
from tests.integration.parked import Echo, Waits

def make():
    return linear_flow.Flow("flow").add(Waits("{name}"), Echo("echo"))
"""


@pytest.fixture
def release(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str | None], str]]:
    """Writes a module with a factory, as a new release of somebody's program would."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"released_{uuid.uuid4().hex}"
    path = tmp_path / f"{name}.py"

    def write(text: str | None) -> str:
        sys.modules.pop(name, None)
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        importlib.invalidate_caches()
        return f"{name}.make"

    yield write
    sys.modules.pop(name, None)


BROKEN_RELEASES: dict[str | None, str] = {
    None: "No module named",
    "raise RuntimeError('broken release')": "RuntimeError: broken release",
    "this is no Python": "SyntaxError",
    "make = 5": "has no function 'make'",
    "def make(): return 5": "returned a int, not a flow",
    "def make(number): pass": "missing 1 required positional argument",
}


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_factory_that_broke_is_an_incident_until_it_is_mended(
    backend: Any, release: Callable[[str | None], str]
) -> None:
    factory = release(_CODE.format(name="waits"))
    world = park(backend, factory)
    before = world.snapshot(with_incident=False)
    for text, why in BROKEN_RELEASES.items():
        release(text)
        with pytest.raises(lazy_engine.FlowIncident, match=why) as caught:
            world.client.resume(world.flow_uuid)
        for part in (world.flow_uuid, factory, "mend the code", "lazy-engine resume"):
            assert part in str(caught.value)
        assert world.snapshot(with_incident=False) == before
        world.assert_open()
        release("")
    incident = world.client.flow(world.flow_uuid).incident
    assert incident is not None
    assert (incident.kind, incident.count) == ("factory failed", len(BROKEN_RELEASES))
    release(_CODE.format(name="waits"))
    world.assert_goes_on()
    assert world.client.flow(world.flow_uuid).incident is None


def test_delayed_task_that_is_gone_from_the_code_is_an_incident_until_it_is_back(
    backend: Any, release: Callable[[str | None], str]
) -> None:
    world = park(backend, release(_CODE.format(name="waits")))
    before = world.snapshot(with_incident=False)
    release(_CODE.format(name="renamed"))
    for _ in range(2):
        with pytest.raises(lazy_engine.FlowIncident, match=r"'waits'.* put them back") as caught:
            world.client.resume(world.flow_uuid)
        assert caught.value.flow_uuid == world.flow_uuid
        assert world.flow_uuid in str(caught.value)
        assert world.snapshot(with_incident=False) == before
    incident = world.client.flow(world.flow_uuid).incident
    assert incident is not None
    assert (incident.kind, incident.count) == ("task gone", 2)
    assert world.client.complete(world.token, "kept").disposition is Disposition.ACCEPTED
    with pytest.raises(lazy_engine.FlowIncident):
        world.client.resume(world.flow_uuid)
    release(_CODE.format(name="waits"))
    assert world.client.resume(world.flow_uuid) == states.SUCCESS
    assert world.client.flow(world.flow_uuid).results["echo"] == "kept"
    assert world.client.flow(world.flow_uuid).incident is None


@pytest.mark.parametrize("kind", ["no factory", "factory failed", "task gone"])
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_conductor_keeps_a_flow_that_it_cannot_run(
    backend: Any,
    kind: str,
    release: Callable[[str | None], str],
    zookeeper: ZooKeeper,
    jobboard_path: str,
) -> None:
    if kind == "no factory":
        world = park_without_factory(backend)
    else:
        world = park(backend, release(_CODE.format(name="waits")))
        release(None if kind == "factory failed" else _CODE.format(name="renamed"))
    before = world.snapshot(with_incident=False)
    conf = {"board": "zookeeper", "hosts": zookeeper.hosts, "path": jobboard_path}
    board = jobboards.fetch("tests", {**conf, "check_compatible": False}, persistence=backend)
    board.connect()
    with contextlib.closing(board):
        board.post("by hand", details={"flow_uuid": world.flow_uuid})
        conductors.fetch("lazy", "tests", board, persistence=backend).run(max_dispatches=1)
        assert board.job_count == 0
    incident = world.client.flow(world.flow_uuid).incident
    assert incident is not None
    assert (incident.kind, incident.count) == (kind, 1)
    assert world.flow_uuid in incident.message
    assert world.snapshot(with_incident=False) == before
    world.assert_open()
    if kind == "no factory":
        world.client.complete(world.token, "good")
        assert world.client.resume(world.flow_uuid, flow=make_flow()) == states.SUCCESS
    else:
        release(_CODE.format(name="waits"))
        world.assert_goes_on()


def test_two_engines_that_share_one_detail_do_not_double_its_tasks(backend: Any) -> None:
    """Both were loaded, and had values injected, before either of them ran."""
    book, detail = persistence_utils.temporary_flow_detail(backend=backend)
    shared = {"backend": backend, "flow_detail": detail, "book": book, "store": {"unused": 1}}
    first, second = (taskflow.engines.load(make_flow(), engine="lazy", **shared) for _ in range(2))
    assert first.run() == DELAYED
    client = Client(backend)
    client.complete(client.token(detail.uuid, "waits"), "answer")
    assert second.run() == states.SUCCESS
    stored = lazy_engine.ledger.beside(backend).detail(detail.uuid)
    assert stored is not None
    names = sorted(atom.name for atom in stored)
    assert names == sorted(set(names))
    assert client.flow(detail.uuid).results == {"waits": "answer", "echo": "answer"}


# -- values that a store cannot keep ---------------------------------------


class Unstorable(Exception):
    """An error whose arguments cannot be written as JSON."""


ODD_ARGUMENTS: tuple[Any, ...] = (
    object(),
    math.nan,
    {1, 2},
    b"\xff",
    {("a",): 1},
    "\x00",
    "\ud800",
    Exception("inner"),
)


def raise_from(argument: Any) -> Any:
    raise ValueError("after it") from Unstorable(argument)


def test_error_that_cannot_be_stored_fails_its_own_task_only(backend: Any) -> None:
    """The flow ends as any failed flow, and is not stuck for ever on an error that cannot be written."""
    for argument in ODD_ARGUMENTS:
        for do in (
            lambda a: raise_it(Unstorable(a)),
            lambda a: raise_it(ValueError(a)),
            raise_from,
        ):
            undone: list[str] = []
            flow = linear_flow.Flow("flow").add(
                Plain("fine", lambda _task: "fine", lambda undone=undone: undone.append("fine")),
                Plain("fails", lambda _task, do=do, argument=argument: do(argument)),
            )
            engine = taskflow.engines.load(flow, engine="lazy", backend=backend)
            with pytest.raises((Unstorable, ValueError)):
                engine.run()
            assert undone == ["fine"]
            view = Client(backend).flow(engine.storage.flow_uuid)
            assert view.state == states.REVERTED
            assert view.tasks == {"fine": states.REVERTED, "fails": states.REVERTED}
            assert view.incident is None


def test_error_that_cannot_be_stored_goes_into_a_retry_history(backend: Any) -> None:
    tried: list[int] = []

    def do(_task: Any) -> Any:
        tried.append(len(tried))
        if len(tried) == 1:
            raise Unstorable(object())
        return Delay()

    flow = linear_flow.Flow("flow", retry=retry.Times(2, "times")).add(Plain("fails", do))
    engine = taskflow.engines.load(flow, engine="lazy", backend=backend)
    assert engine.run() == DELAYED
    stored = lazy_engine.ledger.beside(backend).detail(engine.storage.flow_uuid)
    assert stored is not None
    (controller,) = (atom for atom in stored if atom.name == "times")
    (kept,) = (found["fails"] for _result, found in controller.results if found)
    assert isinstance(kept, failure.Failure)
    assert kept.check(Unstorable) is Unstorable
    client = Client(backend)
    client.complete(client.token(engine.storage.flow_uuid, "fails"), 1)
    assert client.resume(engine.storage.flow_uuid, flow=flow) == states.SUCCESS
    assert len(tried) == 2


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_result_of_a_task_that_cannot_be_stored_fails_that_task(backend: Any) -> None:
    def bad(name: str, value: Any) -> Any:
        return unordered_flow.Flow("flow").add(
            Plain("bad", lambda _task: value), Waits("waits", provides=name)
        )

    for value in (object(), {("a",): 1}):
        engine = taskflow.engines.load(bad("a", value), engine="lazy", backend=backend)
        with pytest.raises(lazy_engine.ResultNotStorable, match=type(value).__name__):
            engine.run()
        assert engine.storage.get_flow_state() == states.REVERTED
        assert Client(backend).delays(flow_uuid=engine.storage.flow_uuid) == []


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_progress_that_cannot_be_stored_does_not_lose_the_flow(
    backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def work(one: Any) -> str:
        one.notifier.notify("update_progress", {"progress": 0.5, "extra": object()})
        return "done"

    flow = linear_flow.Flow("flow").add(Plain("works", work))
    engine = taskflow.engines.load(flow, engine="lazy", backend=backend)
    assert engine.run() == states.SUCCESS
    assert Client(backend).flow(engine.storage.flow_uuid).results == {"works": "done"}
    assert "Failed setting task progress" in caplog.text
    assert "the progress of task 'works' cannot be stored as JSON" in caplog.text


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_injected_value_that_cannot_be_stored_is_refused_at_once(backend: Any) -> None:
    with pytest.raises(lazy_engine.OutcomeNotStorable, match="injected as 'bad'"):
        taskflow.engines.load(
            make_flow(), engine="lazy", backend=backend, store={"good": 1, "bad": object()}
        )


def test_stock_engine_refuses_a_parked_flow(world: World) -> None:
    detail = world.ledger.detail(world.flow_uuid)
    with refused(world, taskflow_exceptions.InvalidState):
        taskflow.engines.load(
            make_flow(), engine="serial", backend=world.backend, flow_detail=detail
        ).run()
    world.assert_goes_on()
