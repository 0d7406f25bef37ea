# SPDX-License-Identifier: Apache-2.0
"""Every part of TaskFlow that is not public and that lazy_engine uses: it is there, and behaves as used.

A failure here after an upgrade of TaskFlow says what changed; ``lazy_engine/host`` is the place to follow it.
"""

from __future__ import annotations

import ast
import contextlib
import contextvars
import inspect
import pathlib
import textwrap
import threading
from concurrent import futures
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa
import taskflow.engines
from sqlalchemy.dialects import mysql
from taskflow import exceptions as taskflow_exceptions
from taskflow import retry, states, storage, task
from taskflow.engines.action_engine import (
    builder,
    compiler,
    completer,
    engine,
    executor,
    runtime,
    scheduler,
    selector,
)
from taskflow.engines.action_engine.actions import retry as retry_action
from taskflow.engines.action_engine.actions import task as task_action
from taskflow.patterns import graph_flow, linear_flow
from taskflow.persistence import backends, models
from taskflow.persistence.backends.sqlalchemy import tables as host_tables
from taskflow.types import failure
from taskflow.utils import persistence_utils

from lazy_engine import Delay, host, rules
from lazy_engine.access import open_backend
from lazy_engine.compiler import compile_flow
from lazy_engine.delay import DELAYED
from lazy_engine.engine import transition
from lazy_engine.ledger import sql_schema
from tests.servers import ZooKeeper


class Noop(task.Task):
    default_provides = "noop"

    def execute(self) -> str:
        return "done"


class Fails(task.Task):
    def execute(self) -> None:
        raise ValueError("as planned")


@pytest.fixture
def stock() -> Any:
    """TaskFlow's own serial engine, compiled and prepared."""
    made = taskflow.engines.load(linear_flow.Flow("flow").add(Noop("a"), Noop("b", provides="b")))
    made.compile()
    made.prepare()
    return made


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


# -- the names -------------------------------------------------------------

#: Where each private that the package host reaches for is defined: class in it → TaskFlow's class.
HOSTS = {
    host.HostStorage: storage.Storage,
    host.HostTaskAction: task_action.TaskAction,
    host.HostCompleter: completer.Completer,
    host.HostRuntime: runtime.Runtime,
    host.HostTaskExecutor: executor.ParallelThreadTaskExecutor,
    host.HostEngine: engine.ActionEngine,
}
#: Attributes that lazy_engine adds itself.
OWN = {"_is_serial", "_inner"}


def privates_of(cls: type) -> set[str]:
    """Return the private attributes of ``self`` that a class of the package host touches."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and node.attr.startswith("_")
    } - OWN


def host_of(cls: type) -> str:
    sources = [inspect.getsource(one) for one in cls.__mro__ if one.__module__[:8] == "taskflow"]
    return "\n".join(sources)


@pytest.mark.parametrize("cls", HOSTS, ids=lambda cls: cls.__name__)
def test_every_private_touched_exists_in_taskflow(cls: type) -> None:
    assert issubclass(cls, HOSTS[cls])
    touched = privates_of(cls)
    written = host_of(HOSTS[cls])
    missing = {
        name for name in touched if f"self.{name}" not in written and f"def {name}" not in written
    }
    assert not missing


def test_the_search_for_privates_finds_some() -> None:
    assert "_flowdetail" in privates_of(host.HostStorage)
    assert "_ensure_storage" in privates_of(host.HostEngine)


def test_no_other_module_touches_taskflow_privates() -> None:
    """Subclasses elsewhere use the public names that the package host gives them."""
    known = set().union(*(privates_of(cls) for cls in HOSTS))
    package = pathlib.Path(host.__file__).parent.parent
    engine_modules = sorted((package / "engine").glob("*.py"))
    assert len(engine_modules) > 5
    found = {
        f"{path.name}: {node.attr}"
        for path in engine_modules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in known - {"_storage", "_runtime"}
    }
    assert not {entry for entry in found if not _is_its_own(package, entry)}


def _is_its_own(package: pathlib.Path, entry: str) -> bool:
    name, attribute = entry.split(": ")
    text = (package / "engine" / name).read_text()
    return f"self.{attribute} =" in text or f"def {attribute}" in text


# -- constants -------------------------------------------------------------


def test_compiler_and_executor_name_their_things() -> None:
    assert (compiler.TASK, compiler.RETRY) == ("task", "retry")
    assert tuple(host.ATOMS) == (compiler.TASK, compiler.RETRY)
    assert (host.EXECUTED, host.REVERTED) == (executor.EXECUTED, executor.REVERTED)
    assert executor.EXECUTED != executor.REVERTED


# -- storage ---------------------------------------------------------------


class Diverted(host.HostStorage):
    def __init__(self, flow_detail: Any) -> None:
        self.noted: list[tuple[str, Any, Any]] = []
        super().__init__(flow_detail)

    def note_flow(self, before: Any, after: Any) -> None:
        self.noted.append(("flow", before.to_dict(), after.to_dict()))

    def note_atom(self, before: Any, after: Any) -> None:
        self.noted.append((after.name, before.state, after.state))

    def note_columns(self, detail: Any, columns: set[str]) -> None:
        self.noted.append((detail.name, columns, detail.to_dict()))


@pytest.fixture
def diverted() -> Diverted:
    _book, detail = persistence_utils.temporary_flow_detail()
    return Diverted(detail)


def test_every_write_of_storage_is_told_and_none_reaches_a_backend(diverted: Diverted) -> None:
    with mock.patch.object(type(diverted._backend), "get_connection") as connect:
        atom = Noop("a")
        diverted.ensure_atoms([atom])
        diverted.set_atom_state("a", states.RUNNING)
        diverted.set_task_progress("a", 0.5)
        diverted.set_atom_intention("a", states.EXECUTE)
        diverted.save("a", "result")
        diverted.set_flow_state(states.RUNNING)
        diverted.inject({"x": 1})
        diverted.reset("a")
        diverted.update_atom_metadata("a", {"k": "v"})
        diverted.update_flow_metadata({"k": "v"})
        connect.assert_not_called()
    told = [name for name, _before, _after in diverted.noted]
    assert told.count("a") >= 5
    assert told.count("flow") >= 3
    assert diverted.flow_detail.state == states.RUNNING
    assert diverted.atom_detail("a").meta["k"] == "v"


def test_note_comes_before_the_change(diverted: Diverted) -> None:
    diverted.ensure_atoms([Noop("a")])
    diverted.noted.clear()
    diverted.reset("a", states.RUNNING)
    assert diverted.noted == [("a", states.PENDING, states.RUNNING)]


def _plain(detail: Any) -> dict[str, Any]:
    return {name: value for name, value in detail.to_dict().items() if name != "uuid"}


def test_what_a_task_writes_in_place_is_what_taskflow_writes(diverted: Diverted) -> None:
    _book, detail = persistence_utils.temporary_flow_detail()
    theirs = storage.Storage(detail)
    wrong = failure.Failure.from_exception(ValueError("x"))
    steps: list[tuple[str, tuple[Any, ...], set[str] | None]] = [
        ("update_atom_metadata", ("a", {"k": {"v": 1}}), {"meta"}),
        ("update_atom_metadata", ("a", {"k": {"v": 1}}), None),
        ("update_atom_metadata", ("a", {}), None),
        ("set_atom_state", ("a", states.RUNNING), {"state"}),
        ("set_atom_state", ("a", states.RUNNING), None),
        ("set_task_progress", ("a", 0.0), {"meta"}),
        ("set_task_progress", ("a", 0.5, {"at": "half"}), {"meta"}),
        ("set_task_progress", ("a", 0.5, {}), {"meta"}),
        ("save", ("a", "first"), {"state", "results"}),
        ("save", ("a", "second"), {"results"}),
        ("save", ("a", None), {"results"}),
        ("save", ("a", wrong, states.FAILURE), None),
        ("save", ("a", "third"), {"state", "results", "failure"}),
    ]
    for kept in (theirs, diverted):
        kept.ensure_atoms([Noop("a", provides=("x", "y"))])
    for name, arguments, columns in steps:
        diverted.noted.clear()
        getattr(theirs, name)(*arguments)
        if name == "save" and len(arguments) == 2:
            diverted.save_result(*arguments)
        else:
            getattr(diverted, name)(*arguments)
        (wanted,) = theirs._flowdetail
        found = diverted.atom_detail("a")
        assert _plain(found) == _plain(wanted), name
        assert diverted.get_atom_state("a") == theirs.get_atom_state("a") == found.state
        assert diverted.get_atom_intention("a") == theirs.get_atom_intention("a")
        if columns is not None:
            assert diverted.noted == [("a", columns, found.to_dict())]
        elif name != "save":
            assert diverted.noted == []
    for kept in (theirs, diverted):
        with pytest.raises(taskflow_exceptions.NotFound):
            kept.get_atom_state("b")
        kept.inject({"z": 1})
        assert kept.get_flow_state() == states.PENDING


def test_only_tasks_have_progress(diverted: Diverted) -> None:
    diverted.ensure_atoms([retry.Times(1, name="controller")])
    with pytest.raises(TypeError):
        diverted.set_task_progress("controller", 0.5)


def test_storage_calls_its_own_writers_through_with_connection() -> None:
    assert parameters(storage.Storage._with_connection) == ["self", "functor", "args", "kwargs"]
    assert parameters(storage.Storage._save_flow_detail)[1:] == [
        "conn",
        "original_flow_detail",
        "flow_detail",
    ]
    assert parameters(storage.Storage._save_atom_detail)[1:] == [
        "conn",
        "original_atom_detail",
        "atom_detail",
    ]


def test_atoms_are_found_by_name(diverted: Diverted) -> None:
    assert not diverted.knows("a")
    diverted.ensure_atoms([Noop("a")])
    assert diverted.knows("a")
    assert diverted.atom_detail("a").uuid == diverted.get_atom_uuid("a")
    detail, clone = diverted._atomdetail_by_name("a", clone=True)
    assert (clone.uuid, clone is detail) == (detail.uuid, False)


def test_failures_are_kept_by_atom_and_intention(diverted: Diverted) -> None:
    diverted.ensure_atoms([Fails("a")])
    wrong = failure.Failure.from_exception(ValueError("x"))
    diverted.save("a", wrong, state=states.FAILURE)
    assert diverted._failures["a"] == {states.EXECUTE: wrong}
    assert diverted.get_failures() == {"a": wrong}


def test_failure_put_aside_is_a_result_but_not_one_of_the_flows_failures(
    diverted: Diverted,
) -> None:
    diverted.ensure_atoms([Fails("a")])
    wrong = failure.Failure.from_exception(ValueError("x"))
    diverted.put_failure_aside("a", states.FAILURE, wrong)
    assert diverted.get_failures() == {}
    assert diverted.get("a") == wrong
    assert diverted.get_atom_state("a") == states.FAILURE


def test_replaced_details_rebuild_every_cache(diverted: Diverted) -> None:
    diverted.ensure_atoms([Noop("old")])
    fresh = models.FlowDetail(diverted.flow_detail.name, diverted.flow_detail.uuid)
    fresh.meta, fresh.state = {"m": 1}, DELAYED
    failed = models.TaskDetail("failed", "u1")
    failed.put(states.FAILURE, failure.Failure.from_exception(ValueError("seen")))
    aside = models.TaskDetail("aside", "u2")
    aside.put(states.FAILURE, failure.Failure.from_exception(KeyError("aside")))
    injector = models.TaskDetail(diverted.injector_name, "u3")
    injector.put(states.SUCCESS, {"x": 5})
    for atom in (failed, aside, injector):
        fresh.add(atom)
    diverted.replace_details(fresh, lambda found: bool(found.check(KeyError)))
    assert not diverted.knows("old")
    assert list(diverted.get_failures()) == ["failed"]
    assert diverted.get_flow_state() == DELAYED
    assert diverted.flow_meta == {"m": 1}
    assert diverted.fetch("x") == 5


def test_injector_has_a_name_and_a_result_mapping() -> None:
    assert storage.Storage.injector_name == "_TaskFlow_INJECTOR"
    assert parameters(storage.Storage._set_result_mapping) == ["self", "provider_name", "mapping"]


def test_storage_lock_is_a_reader_writer_lock_that_may_be_taken_again(diverted: Diverted) -> None:
    with diverted.lock.write_lock(), diverted.lock.write_lock(), diverted.lock.read_lock():
        pass


# -- actions, completer, runtime -------------------------------------------


def test_task_action_keeps_storage_and_notifier(stock: Any) -> None:
    action = stock._runtime.task_action
    assert action._storage is stock.storage
    assert action._notifier is stock.atom_notifier
    assert parameters(task_action.TaskAction)[:3] == ["storage", "notifier", "task_executor"]
    for method in (action.schedule_execution, action.schedule_reversion):
        assert parameters(method) == ["task"]
    assert parameters(action.change_state)[:2] == ["task", "state"]


def test_scheduled_task_is_marked_before_it_is_submitted(stock: Any) -> None:
    """A task's token is signed in the context of ``schedule_execution``."""
    seen = []

    class Recorder:
        def execute_task(self, *_args: Any, **_kwargs: Any) -> Any:
            seen.append(stock.storage.get_atom_state("a"))
            return futures.Future()

    action = task_action.TaskAction(stock.storage, stock.atom_notifier, Recorder())
    (atom,) = (found for found in stock._runtime.iterate_nodes(host.ATOMS) if found.name == "a")
    action.schedule_execution(atom)
    assert seen == [states.RUNNING]


def test_completer_resolves_and_asks_the_runtime(stock: Any) -> None:
    found = stock._runtime.completer
    assert found._resolve is True
    assert found._runtime.__repr__.__self__ is stock._runtime  # a weak proxy
    assert parameters(found._process_atom_failure) == ["atom", "failure"]
    assert parameters(found.complete) == ["node", "outcome", "result"]
    assert parameters(found.complete_failure) == ["node", "outcome", "failure"]
    assert parameters(found.resume) == []


def test_failure_without_a_retry_controller_turns_the_flow_to_revert(stock: Any) -> None:
    (atom,) = (found for found in stock._runtime.iterate_nodes(host.ATOMS) if found.name == "a")
    stock._runtime.completer._process_atom_failure(
        atom, failure.Failure.from_exception(ValueError("x"))
    )
    assert stock.storage.get_atom_intention("a") == states.REVERT


def test_runtime_keeps_its_parts(stock: Any) -> None:
    found = stock._runtime
    assert found._atom_notifier is stock.atom_notifier
    assert found._task_executor is stock._task_executor
    assert found._retry_executor is stock._retry_executor
    assert parameters(runtime.Runtime) == [
        "compilation",
        "storage",
        "atom_notifier",
        "task_executor",
        "retry_executor",
        "options",
    ]
    for name in ("task_action", "retry_action", "completer", "selector", "scheduler"):
        assert name in vars(runtime.Runtime), name
    assert isinstance(found.selector, selector.Selector)
    assert isinstance(found.scheduler, scheduler.Scheduler)
    assert parameters(retry_action.RetryAction) == ["storage", "notifier", "retry_executor"]


def test_runtime_compiles_with_a_subclass_of_each_part(stock: Any) -> None:
    class Part(host.HostRuntime):
        pass

    made = Part(
        stock._compilation,
        stock.storage,
        stock.atom_notifier,
        stock._task_executor,
        stock._retry_executor,
    )
    made.compile()
    assert {atom.name for atom in made.atoms()} == {"a", "b"}
    assert isinstance(made.make_retry_action(), retry_action.RetryAction)
    assert made.is_success() is False
    assert made.fetch_scopes_for("b") is not None


def test_selector_tells_what_is_next_and_its_decider(stock: Any) -> None:
    ((atom, decider),) = stock._runtime.selector.iter_next_atoms()
    assert atom.name == "a"
    assert decider.check_and_affect(stock._runtime) is True


def test_graph_tells_what_is_directly_before_and_after(stock: Any) -> None:
    graph = host.Graph(stock.compilation)
    execution_graph = stock.compilation.execution_graph
    assert set(graph.atoms) | set(graph.flow_nodes) == set(execution_graph.nodes)
    assert graph.atom_set == set(graph.atoms)
    for node in execution_graph.nodes:
        assert graph.before[node] == list(execution_graph.predecessors(node))
        assert graph.after[node] == list(execution_graph.successors(node))


def test_narrow_deciders_are_recognised() -> None:
    for depth, is_narrow in ((None, False), ("ALL", False), ("ATOM", True), ("FLOW", True)):
        first, second = Noop("a"), Noop("b")
        flow = graph_flow.Flow("flow").add(first, second)
        flow.link(first, second, decider=lambda history: True, decider_depth=depth)
        engine = taskflow.engines.load(flow, engine="lazy")
        engine.compile()
        assert engine.host_runtime.has_narrow_deciders is is_narrow


def test_reverting_all_asks_no_retry_controller() -> None:
    flow = linear_flow.Flow("flow", retry=retry.Times(3, "times")).add(Noop("a"), Noop("b"))
    engine = taskflow.engines.load(flow, engine="lazy")
    engine.compile()
    engine.prepare()
    engine.host_runtime.completer.revert_all()
    assert {engine.storage.get_atom_intention(name) for name in ("times", "a", "b")} == {
        states.REVERT
    }


def test_executor_runs_any_function_where_tasks_are_run() -> None:
    executor = host.HostTaskExecutor(is_serial=True)
    executor.start()
    try:
        assert executor.submit(lambda a, b: a + b, 1, 2).result() == 3
    finally:
        executor.stop()


def test_scheduler_answers_futures_and_failures(stock: Any) -> None:
    (atom,) = (found for found in stock._runtime.iterate_nodes(host.ATOMS) if found.name == "a")
    stock._task_executor.start()
    stock.storage.set_atom_intention("a", states.EXECUTE)
    scheduled, failures = stock._runtime.scheduler.schedule([atom])
    stock._task_executor.stop()
    assert [future.atom for future in scheduled] == [atom]
    assert failures == []
    (future,) = scheduled
    assert future.result() == (executor.EXECUTED, "done")


# -- the executor ----------------------------------------------------------

_mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="none")


@pytest.mark.parametrize("kind", ["serial", "threads", "given"])
def test_tasks_run_in_a_copy_of_their_submitters_context(kind: str) -> None:
    seen: list[tuple[str, bool]] = []

    class Looks(task.Task):
        def execute(self) -> None:
            seen.append((_mark.get(), threading.current_thread() is threading.main_thread()))
            _mark.set("changed by the task")

    with futures.ThreadPoolExecutor(1) as pool:
        options: dict[str, dict[str, Any]] = {
            "serial": {"is_serial": True},
            "threads": {"max_workers": 1},
            "given": {"given": pool},
        }
        made = host.HostTaskExecutor(**options[kind])
        made.start()
        try:
            token = _mark.set("the submitter's")
            made.execute_task(Looks("looks"), "uuid", {}).result(timeout=10)
            assert _mark.get() == "the submitter's"
            _mark.reset(token)
        finally:
            made.stop()
    assert seen == [("the submitter's", kind == "serial")]


def test_executor_makes_its_pool_at_start_and_only_if_none_was_given() -> None:
    assert parameters(executor.ParallelThreadTaskExecutor) == ["executor", "max_workers"]
    made = host.HostTaskExecutor(is_serial=True)
    assert made._executor is None
    made.start()
    assert isinstance(made._executor, host.InlineExecutor)
    made.stop()
    assert made._executor is None
    made = host.HostTaskExecutor(max_workers=1)
    made.start()
    assert isinstance(made._executor, host.ContextExecutor)
    made.stop()


def test_given_pool_is_not_shut_down() -> None:
    with futures.ThreadPoolExecutor(1) as pool:
        made = host.HostTaskExecutor(given=pool)
        made.start()
        made.stop()
        assert pool.submit(lambda: "alive").result(timeout=10) == "alive"


def test_inline_executor_answers_as_pythons_own() -> None:
    executor = host.InlineExecutor()
    with futures.ThreadPoolExecutor(1) as pool:
        for given in (executor, pool):
            done = given.submit(lambda a, b=0: a + b, 1, b=2)
            assert (done.result(), done.exception(), done.cancel()) == (3, None, False)
            assert (done.done(), done.running(), done.cancelled()) == (True, False, False)
            called: list[Any] = []
            done.add_done_callback(called.append)
            assert called == [done]
            failed = given.submit(lambda: [][0])
            assert isinstance(failed.exception(), IndexError)
            with pytest.raises(IndexError):
                failed.result(timeout=10)
    interrupted = executor.submit(_raise, KeyboardInterrupt())
    assert isinstance(interrupted.exception(), KeyboardInterrupt)
    with pytest.raises(SystemExit):
        executor.submit(_raise, SystemExit(1))


def _raise(error: BaseException) -> None:
    raise error


# -- the engine ------------------------------------------------------------


def test_flow_is_compiled_without_an_engine_as_with_one(stock: Any) -> None:
    by_engine = stock.compilation.execution_graph
    alone = compile_flow(linear_flow.Flow("alone").add(Noop("noop"))).execution_graph
    assert {alone.nodes[node]["kind"] for node in alone} == {"flow", "flow_end", "task"}
    assert set(host.ATOMS) == {"task", "retry"}
    assert all("kind" in by_engine.nodes[node] for node in by_engine)


def test_version_is_the_one_that_taskflow_stores() -> None:
    engine = taskflow.engines.load(linear_flow.Flow("versions").add(Noop("noop")))
    engine.compile()
    engine.prepare()
    (stored,) = engine.storage._flowdetail
    assert stored.version == host.version_of(Noop("noop")) == "1.0"


def test_engine_keeps_what_host_uses(stock: Any) -> None:
    assert stock._compiled is True
    assert stock._storage_ensured is True
    assert stock._gather_statistics is True
    assert stock._flow_detail is stock.storage._flowdetail
    assert stock._flow.name == stock.storage.flow_name
    assert stock._backend is None
    with stock._lock, stock._lock:
        pass
    for method, expected in (
        (stock._change_state, ["state"]),
        (stock._ensure_storage, []),
        (stock._check_compilation, ["compilation"]),
    ):
        assert parameters(method) == expected
    assert "DELAYED" not in engine.ActionEngine.NO_RERAISING_STATES
    assert {"SUSPENDED", "SUCCESS"} <= engine.ActionEngine.NO_RERAISING_STATES
    assert engine.ActionEngine.IGNORABLE_STATES


def test_engine_compiles_in_the_order_that_host_repeats() -> None:
    body = inspect.getsource(engine.ActionEngine.compile)
    steps = ["_compiler.compile()", "_runtime = ", "_runtime.compile()", "_compiled = True"]
    assert [body.index(step) for step in steps] == sorted(body.index(step) for step in steps)


def test_engine_prepares_in_the_order_that_host_repeats() -> None:
    body = inspect.getsource(engine.ActionEngine.prepare)
    steps = ["RESUMING", "_ensure_storage()", "SUSPENDED", "_storage_ensured = True"]
    assert [body.index(step) for step in steps] == sorted(body.index(step) for step in steps)


def test_changing_the_state_asks_the_storage_and_tells_the_listeners(stock: Any) -> None:
    told = []
    stock.notifier.register("*", lambda state, details: told.append((state, details["old_state"])))
    with mock.patch.object(
        stock.storage, "change_flow_state", return_value=(True, "BEFORE")
    ) as change:
        stock._change_state(states.RUNNING)
    change.assert_called_once_with(states.RUNNING)
    assert told == [(states.RUNNING, "BEFORE")]


def test_engine_looks_scopes_up_where_host_gives_them() -> None:
    assert "scope_fetcher" in parameters(storage.Storage)


# -- the machine -----------------------------------------------------------


def test_machine_has_every_state_and_transition_of_taskflows() -> None:
    made, _memory = builder.MachineBuilder(mock.MagicMock(), mock.MagicMock()).build({})
    theirs = {
        (start, event, end)
        for start, event, end in made
        if isinstance(start, str) and isinstance(end, str)
    }
    ours = set(transition.TRANSITIONS)
    assert len(theirs) == 11
    assert theirs <= ours
    assert ours - theirs == {
        ("GAME_OVER", "analyze_again", states.ANALYZING),
        ("GAME_OVER", "delayed", DELAYED),
    }


def test_ordinary_run_shows_the_same_states_as_taskflows() -> None:
    def shown(kind: str) -> list[str]:
        made = taskflow.engines.load(
            linear_flow.Flow("flow").add(Noop("a"), Noop("b", provides="b")), engine=kind
        )
        return list(made.run_iter())

    assert shown("lazy") == shown("serial")


def test_taskflow_knows_no_state_called_delayed() -> None:
    """A stock engine refuses a parked flow instead of running it."""
    assert DELAYED not in vars(states).values()
    for wanted in (states.RUNNING, states.RESUMING, states.SUSPENDED):
        with pytest.raises(taskflow.exceptions.InvalidState):
            states.check_flow_transition(DELAYED, wanted)


def test_own_transitions_change_none_of_taskflows() -> None:
    for old, new in rules.FLOW_TRANSITIONS:
        with pytest.raises(taskflow.exceptions.InvalidState):
            states.check_flow_transition(old, new)


# -- tables ----------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
@pytest.mark.parametrize("name", ["logbooks", "flowdetails", "atomdetails"])
def test_host_tables_have_taskflows_columns(name: str, dialect: str) -> None:
    theirs = getattr(host_tables.fetch(sa.MetaData()), name)
    ours = getattr(sql_schema.build(dialect), name)
    assert ours.name == theirs.name
    assert {c.name for c in ours.columns} == {c.name for c in theirs.columns}
    assert [c.name for c in ours.primary_key] == [c.name for c in theirs.primary_key]
    for column in theirs.columns:
        mine = ours.c[column.name].type
        if isinstance(column.type, sa.Enum):
            assert (mine.enums, mine.name) == (column.type.enums, column.type.name)
        elif isinstance(column.type, host_tables.JSONType):
            assert isinstance(mine, (sa.Text, mysql.LONGTEXT, sql_schema.JsonText))
        elif isinstance(column.type, sa.String):
            assert mine.length == column.type.length
        else:
            assert type(mine) is type(column.type)


def test_the_only_default_that_we_leave_to_taskflow_is_a_uuid_or_a_time() -> None:
    """We write every column ourselves; a new one with a default would stay empty."""
    tables = host_tables.fetch(sa.MetaData())
    found = {c.name for table in tables for c in table.columns if c.default is not None}
    assert found == {"created_at", "uuid"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "zookeeper"])
def test_taskflow_reads_what_the_ledger_writes(kind: str, request: pytest.FixtureRequest) -> None:
    backend = open_backend(request.getfixturevalue(f"{kind}_url"))
    with contextlib.closing(backend):
        from lazy_engine import ledger

        made = taskflow.engines.load(
            linear_flow.Flow("flow").add(Noop("a"), Fails("b")),
            backend=backend,
            engine="lazy",
            store={"x": {"y": [1, None, "ü"]}},
        )
        with pytest.raises(ValueError, match="as planned"):
            made.run()
        with contextlib.closing(backend.get_connection()) as connection:
            theirs = connection.get_flow_details(made.storage.flow_uuid)
        ours = ledger.beside(backend).detail(made.storage.flow_uuid)
        assert ours is not None
        assert theirs.to_dict() == ours.to_dict()
        assert len(theirs) == 3
        for atom in theirs:
            twin = ours.find(atom.uuid)
            assert atom.to_dict() == twin.to_dict()
            assert type(atom) is type(twin)
        assert theirs.state == states.REVERTED
        ledger.beside(backend).close()


class FailsThenWaits(task.Task):
    def execute(self, value: str) -> Any:
        if value == "one":
            raise ValueError("as planned")
        return Delay()


@pytest.mark.parametrize("kind", ["memory", "sqlite", "zookeeper"])
def test_retry_history_that_taskflow_misreads_is_read_as_it_was_written(
    kind: str, request: pytest.FixtureRequest
) -> None:
    from lazy_engine import ledger

    backend = (
        backends.fetch({"connection": "memory://"})
        if kind == "memory"
        else open_backend(request.getfixturevalue(f"{kind}_url"))
    )
    with contextlib.closing(backend):
        controller = retry.ForEach(["one", "two"], "each", provides="value")
        flow = linear_flow.Flow("flow", retry=controller).add(FailsThenWaits("b"))
        made = taskflow.engines.load(flow, backend=backend, engine="lazy")
        assert made.run() == "DELAYED"
        with contextlib.closing(backend.get_connection()) as connection:
            theirs = connection.get_flow_details(made.storage.flow_uuid)
        ours = ledger.beside(backend).detail(made.storage.flow_uuid)
        assert ours is not None
        for atom in theirs:
            twin = ours.find(atom.uuid)
            if atom.name == "each":
                assert [result for result, _ in twin.results] == ["one", "two"]
                # The day that TaskFlow reads this right, host.mend_history can go.
                assert [result for result, _ in atom.results] != ["one", "two"]
                atom.results = twin.results
            assert atom.to_dict() == twin.to_dict()
        ledger.beside(backend).close()


def test_saved_result_of_a_retry_controller_adds_to_its_history(sqlite_url: str) -> None:
    """What is encoded ahead is a task's one result; a controller's history must never be replaced by it."""
    from lazy_engine import ledger

    backend = backends.fetch({"connection": sqlite_url})
    with contextlib.closing(backend):
        ledger.upgrade(backend)
        controller = retry.ForEach(["two"], "each", provides="value")
        flow = linear_flow.Flow("flow", retry=controller).add(FailsThenWaits("b"))
        made = taskflow.engines.load(flow, backend=backend, engine="lazy")
        assert made.run() == "DELAYED"
        for name, result in (("each", "three"), ("b", "done")):
            made.storage.save(name, result)
        changed = {change.detail.name: change for change in made.storage.changes().atoms}
        assert changed["each"].detail.results == [("two", {}), ("three", {})]
        assert changed["each"].encoded_results is None
        assert changed["b"].detail.results == "done"
        assert changed["b"].encoded_results == '"done"'
        ledger.beside(backend).close()


def test_zookeeper_backend_has_its_client_and_starts_it_for_a_connection(
    zookeeper: ZooKeeper,
) -> None:
    conf = {"connection": "zookeeper", "hosts": zookeeper.hosts, "check_compatible": False}
    backend = backends.fetch(conf)
    with contextlib.closing(backend):
        assert type(backend).__name__ == "ZkBackend"
        assert not backend._client.connected
        client = host.zookeeper_client(backend)
        assert client is backend._client
        assert client.connected


def test_failure_type_names_may_be_given() -> None:
    made = failure.Failure(
        exc_info=(ValueError, ValueError("x"), None),
        exc_args=("x",),
        exception_str="x",
        exc_type_names=["Own", "ValueError", "Exception"],
        traceback_str="",
        causes=(),
    )
    assert made.check("Own") == "Own"
    failure.Failure.validate(made.to_dict())
    assert failure.Failure.from_dict(made.to_dict()).check("Own") == "Own"


# -- arguments ---------------------------------------------------------------


def test_storage_keeps_what_host_uses_to_find_arguments() -> None:
    flow = linear_flow.Flow("flow").add(Noop("a", provides=("x", "y"), inject={"z": 3}))
    engine = taskflow.engines.load(flow, store={"given": 1})
    engine.compile()
    engine.prepare()
    kept = engine.storage
    (provider,) = kept._reverse_mapping["y"]
    assert (provider.name, provider.index) == ("a", 1)
    assert kept._injected_args == {"a": {"z": 3}}
    (given,) = kept._reverse_mapping["given"]
    assert given.name == kept.injector_name
    kept.inject({"brief": 2}, transient=True)
    (brief,) = kept._reverse_mapping["brief"]
    assert brief.name is storage._TRANSIENT_PROVIDER
    assert kept._transients == {"brief": 2}
    assert [host.is_injected(found) for found in (provider, given, brief)] == [False, True, True]
    assert storage.META_INJECTED == "injected"
    with pytest.raises(storage._EXTRACTION_EXCEPTIONS):
        storage._item_from({}, "y")
    assert storage._item_from([1, 2], 1) == 2


def test_storage_adds_a_provider_once_however_many_there_are() -> None:
    found: Any = host.storage._Index().setdefault("x", [])
    first, same = storage._Provider("a", 0), storage._Provider("a", 0)
    found.append(first)
    assert same in found
    assert storage._Provider("b", 0) not in found
    source = inspect.getsource(storage.Storage._set_result_mapping)
    for line in ("_reverse_mapping.setdefault(name, [])", "not in entries", "entries.append"):
        assert line in source
