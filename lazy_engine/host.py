# SPDX-License-Identifier: Apache-2.0
"""Every part of TaskFlow's engines and storage that lazy_engine uses without it being public.

TaskFlow offers its engines for extension but documents no interface for it.
The names it keeps to itself are touched in this module and nowhere else (those
of its job boards in :mod:`lazy_engine.board`), each with a contract test (``tests/contract/test_host.py``) that fails when they
change. Written against taskflow 6.5.
"""

from __future__ import annotations

import contextlib
import contextvars
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any

from taskflow import exceptions as taskflow_exceptions
from taskflow import states as taskflow_states
from taskflow import storage as taskflow_storage
from taskflow.deciders import Depth
from taskflow.engines.action_engine import (
    compiler,
    completer,
    deciders,
    executor,
    runtime,
    selector,
)
from taskflow.engines.action_engine import engine as action_engine
from taskflow.engines.action_engine.actions import retry as retry_action
from taskflow.engines.action_engine.actions import task as task_action
from taskflow.persistence import models
from taskflow.types import failure as taskflow_failure
from taskflow.utils import misc

from lazy_engine.compiler import compile_flow

ATOMS = compiler.ATOMS
TASK = compiler.TASK
RETRY = compiler.RETRY
EXECUTED = executor.EXECUTED
REVERTED = executor.REVERTED

#: Attribute of a flow detail object; see ``HostStorage.known``.
_KNOWN = "_lazy_engine_known"

#: Columns of an atom detail that its results change.
RESULT_COLUMNS = ("state", "results", "failure", "revert_results", "revert_failure")
_RESULT_COLUMNS = operator.attrgetter(*RESULT_COLUMNS)

Atom = Any
Failure = taskflow_failure.Failure


def version_of(atom: Atom) -> str | None:
    """Return an atom's version as TaskFlow stores it: ``"1.0"``."""
    version: str | None = misc.get_version_string(atom)
    return version


def mend_history(detail: models.AtomDetail, stored: Iterable[Any] | None) -> models.AtomDetail:
    """Give a retry controller's detail that TaskFlow read its own results back; return it.

    ``RetryDetail.from_dict`` (6.5) uses one name twice: after a reload, each
    result that failures belong to is the last of these failures, as a
    dictionary. A ``ForEach`` would choose a value anew that has failed already.

    :param stored: ``[[result, {atom name: failure}], …]`` as in the store.
    """
    if isinstance(detail, models.RetryDetail):
        detail.results = [
            (result, failures)
            for (result, _), (_, failures) in zip(stored or (), detail.results, strict=True)
        ]
    return detail


def note_known(detail: models.FlowDetail, version: tuple[int, int] | None) -> None:
    """Note on a flow detail what was read of it; see :attr:`HostStorage.known`.

    :param version: epoch and commit number that it is at least as new as.
    """
    setattr(detail, _KNOWN, version)


def zookeeper_client(backend: Any) -> Any:
    """Return the kazoo client of TaskFlow's ZooKeeper backend, started.

    :raises taskflow.exceptions.StorageFailure: no server answers.
    """
    with contextlib.closing(backend.get_connection()):  # which starts the client
        return backend._client


class _Lock:
    """One re-entrant lock where TaskFlow's storage has one for readers and one for writers.

    TaskFlow's is written in Python and taken some thirty times for a task; what
    it guards here is never slow, so that readers need not be let in together.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def read_lock(self) -> threading.RLock:
        """Return what is held while reading."""
        return self._lock

    def write_lock(self) -> threading.RLock:
        """Return what is held while writing."""
        return self._lock


class HostStorage(taskflow_storage.Storage):  # type: ignore[misc]  # TaskFlow has no types
    """TaskFlow's storage with its writes diverted.

    Subclasses say what to do with them by :meth:`note_flow` and
    :meth:`note_atom`; the details in memory change as TaskFlow has them change.
    """

    _reverse_mapping: dict[str, list[Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = _Lock()
        self._reverse_mapping = _Index(
            (name, _Providers(found)) for name, found in self._reverse_mapping.items()
        )

    def note_flow(self, before: models.FlowDetail, after: models.FlowDetail) -> None:
        """Told of every change to the flow detail, before it is made."""
        raise NotImplementedError

    def note_atom(self, before: models.AtomDetail, after: models.AtomDetail) -> None:
        """Told of every change to an atom detail, before it is made."""
        raise NotImplementedError

    def note_columns(self, detail: models.AtomDetail, columns: set[str]) -> None:
        """Told of changes to certain columns of an atom detail, after they were made."""
        raise NotImplementedError

    # What a task's start and end need, without copying its detail for each step.

    def get_atom_state(self, atom_name: str) -> str:
        """See :meth:`taskflow.storage.Storage.get_atom_state`."""
        state: str = self.atom_detail(atom_name).state
        return state

    def get_atom_intention(self, atom_name: str) -> str:
        """See :meth:`taskflow.storage.Storage.get_atom_intention`."""
        intention: str = self.atom_detail(atom_name).intention
        return intention

    def get_atom_uuid(self, atom_name: str) -> str:
        """See :meth:`taskflow.storage.Storage.get_atom_uuid`."""
        uuid: str = self.atom_detail(atom_name).uuid
        return uuid

    def get_flow_state(self) -> str:
        """See :meth:`taskflow.storage.Storage.get_flow_state`."""
        state: str | None = self._flowdetail.state
        return taskflow_states.PENDING if state is None else state

    def set_atom_state(self, atom_name: str, state: str) -> None:
        """See :meth:`taskflow.storage.Storage.set_atom_state`."""
        with self._lock.write_lock():
            detail = self.atom_detail(atom_name)
            if detail.state != state:
                detail.state = state
                self.note_columns(detail, {"state"})

    def _update_atom_metadata(
        self, atom_name: str, update_with: Any, expected_type: type | None = None
    ) -> None:
        with self._lock.write_lock():
            detail, _ = self._atomdetail_by_name(atom_name, expected_type=expected_type)
            meta = dict(detail.meta)
            meta.update(update_with)
            if meta != detail.meta:
                detail.meta = meta
                self.note_columns(detail, {"meta"})

    def save_result(self, atom_name: str, result: Any) -> None:
        """Put the result of a task that succeeded; see :meth:`taskflow.storage.Storage.save`."""
        with self._lock.write_lock():
            detail = self.atom_detail(atom_name)
            before = _RESULT_COLUMNS(detail)
            if detail.put(taskflow_states.SUCCESS, result):
                after = _RESULT_COLUMNS(detail)
                self.note_columns(
                    detail,
                    {
                        name
                        for name, old, new in zip(RESULT_COLUMNS, before, after, strict=True)
                        if old is not new
                    },
                )
            if detail.intention == taskflow_states.EXECUTE:
                self._check_all_results_provided(atom_name, result)

    def _with_connection(self, functor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return functor(None, *args, **kwargs)

    def _save_flow_detail(
        self, _connection: None, before: models.FlowDetail, after: models.FlowDetail
    ) -> models.FlowDetail:
        self.note_flow(before, after)
        before.update(after)
        return before

    def _save_atom_detail(
        self, _connection: None, before: models.AtomDetail, after: models.AtomDetail
    ) -> models.AtomDetail:
        self.note_atom(before, after)
        before.update(after)
        return before

    def ensure_atoms(self, atoms: Iterable[Atom]) -> list[str]:
        """Make sure that every atom has a detail; return their uuids.

        Another engine may have added some to the same flow detail since this
        storage was made.
        """
        with self.lock.write_lock():
            for detail in self._flowdetail:
                if self._atom_name_to_uuid.setdefault(detail.name, detail.uuid) == detail.uuid:
                    self._failures.setdefault(detail.name, {})
        uuids: list[str] = super().ensure_atoms(atoms)
        return uuids

    @property
    def flow_detail(self) -> models.FlowDetail:
        """The flow detail in memory."""
        return self._flowdetail

    @property
    def known(self) -> tuple[int, int] | None:
        """Epoch and commit number at which the details in memory equal the stored ones.

        Kept on the flow detail itself, since engines may share one.
        """
        return getattr(self._flowdetail, _KNOWN, None)

    @known.setter
    def known(self, version: tuple[int, int] | None) -> None:
        note_known(self._flowdetail, version)

    def atom_detail(self, atom_name: str) -> models.AtomDetail:
        """Return an atom's detail in memory, by name."""
        try:
            detail: models.AtomDetail = self._flowdetail.find(self._atom_name_to_uuid[atom_name])
        except KeyError:
            return self._atomdetail_by_name(atom_name)[0]  # which says what is wrong
        return detail

    def providers_of(self, name: str) -> list[Any]:
        """Return what provides a name: atoms by name, and where in their results it is."""
        found: list[Any] = self._reverse_mapping.get(name, [])
        return found

    def injected_into(self, atom_name: str) -> list[Mapping[str, Any]]:
        """Return the values that an atom brings along, in the order in which they count."""
        stored = self.atom_detail(atom_name).meta.get(taskflow_storage.META_INJECTED)
        sources = (self._injected_args.get(atom_name), stored)
        return [source for source in sources if source]

    def injected_by(self, provider: Any) -> Mapping[str, Any]:
        """Return the values of a provider that is no atom (see :func:`is_injected`)."""
        if provider.name == self.injector_name:
            return self.atom_detail(self.injector_name).results or {}
        transients: Mapping[str, Any] = self._transients
        return transients

    def knows(self, atom_name: str) -> bool:
        """Whether there is an atom of that name in the details."""
        return atom_name in self._atom_name_to_uuid

    def put_failure_aside(
        self, atom_name: str, state: str, failure: taskflow_failure.Failure
    ) -> None:
        """Store a failure as an atom's result only.

        It is not counted among the flow's failures: it is neither raised nor
        shown to other atoms.
        """
        with self.lock.write_lock():
            before, after = self._atomdetail_by_name(atom_name, clone=True)
            after.put(state, failure)
            self._save_atom_detail(None, before, after)
            self._failures[atom_name].clear()

    def replace_details(
        self,
        fresh: models.FlowDetail,
        is_aside: Callable[[taskflow_failure.Failure], bool],
    ) -> None:
        """Put other details in place of those in memory and rebuild what hangs on them.

        :param is_aside: says of a stored failure that it was put aside.
        """
        with self.lock.write_lock():
            self._flowdetail.update(fresh)
            self._atom_name_to_uuid = {atom.name: atom.uuid for atom in fresh}
            self._failures = {atom.name: _failures_of(atom, is_aside) for atom in fresh}
            if self.injector_name in self._atom_name_to_uuid:
                injected = self.atom_detail(self.injector_name)
                names = {name: name for name in injected.results or ()}
                self._set_result_mapping(self.injector_name, names)

    def set_failures_aside(self, is_aside: Callable[[taskflow_failure.Failure], bool]) -> None:
        """Stop counting failures that were put aside when the details were stored."""
        self._failures = {atom.name: _failures_of(atom, is_aside) for atom in self._flowdetail}


class _Providers(list[Any]):
    """Providers of one name; TaskFlow asks of each new one whether it is among them."""

    def __init__(self, found: Iterable[Any] = ()) -> None:
        super().__init__(found)
        self._known = set(self)

    def __contains__(self, provider: object) -> bool:
        return provider in self._known

    def append(self, provider: Any) -> None:
        super().append(provider)
        self._known.add(provider)


class _Index(dict[str, list[Any]]):
    """Providers by name."""

    def setdefault(self, name: str, _default: Any = None) -> list[Any]:
        if name not in self:
            self[name] = _Providers()
        return self[name]


def is_injected(provider: Any) -> bool:
    """Whether a provider is no atom but something injected into the flow."""
    return provider.name is taskflow_storage._TRANSIENT_PROVIDER or (
        provider.name == HostStorage.injector_name
    )


def item_of_result(detail: models.AtomDetail, provider: Any, missing: Any) -> Any:
    """Return what a provider provides of its atom's last result, if it is there."""
    try:
        return taskflow_storage._item_from(detail.last_results, provider.index)
    except (taskflow_exceptions.NotFound, *taskflow_storage._EXTRACTION_EXCEPTIONS):
        return missing


def _failures_of(
    atom: models.AtomDetail, is_aside: Callable[[taskflow_failure.Failure], bool]
) -> dict[str, taskflow_failure.Failure]:
    found = {}
    if atom.failure is not None and not is_aside(atom.failure):
        found[taskflow_storage.states.EXECUTE] = atom.failure
    if atom.revert_failure is not None and not is_aside(atom.revert_failure):
        found[taskflow_storage.states.REVERT] = atom.revert_failure
    return found


class HostTaskAction(task_action.TaskAction):  # type: ignore[misc]  # no types
    """TaskFlow's way of scheduling and completing tasks."""

    @property
    def host_storage(self) -> Any:
        """The engine's storage."""
        return self._storage

    def notify(self, state: str, details: dict[str, Any]) -> None:
        """Tell the atom listeners."""
        self._notifier.notify(state, details)

    def arguments_of(self, task: Atom) -> dict[str, Any]:
        """Return what the task's ``execute`` is called with."""
        arguments: dict[str, Any] = self._storage.fetch_mapped_args(
            task.rebind, atom_name=task.name, optional_args=task.optional
        )
        return arguments


class HostCompleter(completer.Completer):  # type: ignore[misc]  # no types
    """TaskFlow's way of completing atoms and resolving failures."""

    @property
    def resolves(self) -> bool:
        """Whether failures are resolved (engine option ``never_resolve``)."""
        return bool(self._resolve)

    @property
    def host_runtime(self) -> runtime.Runtime:
        """The engine's runtime."""
        return self._runtime

    def revert_all(self) -> None:
        """Mean every atom to be reverted, whatever retry controllers would say."""
        self._undefined_resolver.apply()

    def resolve(self, atom: Atom, failure: taskflow_failure.Failure) -> None:
        """Ask the retry controllers what to do, and set intentions accordingly."""
        self._process_atom_failure(atom, failure)


class Graph:
    """The nodes of a compiled flow, and what is directly before and after each.

    :ivar atoms: tasks and retry controllers, in the order of the compilation.
    :ivar flow_nodes: where flows begin and end; nothing runs there.
    """

    def __init__(self, compilation: compiler.Compilation) -> None:
        graph = compilation.execution_graph
        kinds = {node: data["kind"] for node, data in graph.nodes(data=True)}
        self.before: dict[Any, list[Any]] = {node: list(graph.pred[node]) for node in kinds}
        self.after: dict[Any, list[Any]] = {node: list(graph.succ[node]) for node in kinds}
        self.atoms: list[Atom] = [node for node, kind in kinds.items() if kind in ATOMS]
        self.atom_set = frozenset(self.atoms)
        self.flow_nodes = [node for node, kind in kinds.items() if kind not in ATOMS]
        self.retries = frozenset(node for node, kind in kinds.items() if kind == RETRY)


def item_of(node: Any) -> Any:
    """Return the flow that a node ends, or what the node itself is."""
    return node.flow if isinstance(node, compiler.Terminator) else node


def decider_of(parts: runtime.Runtime, atom: Atom) -> deciders.Decider:
    """Return what decides, late, whether an atom that may execute is ignored instead."""
    return deciders.IgnoreDecider(atom, parts.fetch_edge_deciders(atom))


def goes_ahead() -> deciders.Decider:
    """Return the decider that never objects."""
    return deciders.NoOpDecider()


class HostRuntime(runtime.Runtime):  # type: ignore[misc]  # no types
    """TaskFlow's runtime, with its parts exchangeable."""

    @property
    def notifier(self) -> Any:
        """Where atom notifications go."""
        return self._atom_notifier

    @property
    def task_executor(self) -> executor.TaskExecutor:
        """What runs the tasks."""
        return self._task_executor

    @property
    def retry_executor(self) -> executor.SerialRetryExecutor:
        """What runs the retry controllers."""
        return self._retry_executor

    @property
    def has_narrow_deciders(self) -> bool:
        """Whether a decider may ignore less than all that comes after it."""
        return any(
            decider.depth is not Depth.ALL
            for atom in self.atoms()
            for decider in self.fetch_edge_deciders(atom)
        )

    def make_selector(self) -> selector.Selector:
        """Return TaskFlow's way of finding the atoms that can run next."""
        return selector.Selector(self)

    @property
    def host_compilation(self) -> Any:
        """The compiled flow, with its ``execution_graph``."""
        return self._compilation

    def make_retry_action(self) -> retry_action.RetryAction:
        """Return TaskFlow's way of scheduling retry controllers."""
        return retry_action.RetryAction(self.storage, self.notifier, self.retry_executor)

    def atoms(self) -> Iterator[Atom]:
        """Yield every atom of the flow."""
        yield from self.iterate_nodes(ATOMS)


class ContextExecutor:
    """An executor whose work runs in a copy of the submitter's context."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Submit work; see :meth:`concurrent.futures.Executor.submit`."""
        context = contextvars.copy_context()
        return self._inner.submit(context.run, function, *args, **kwargs)

    def shutdown(self, wait: bool = True) -> None:
        """Shut the executor down; see :meth:`concurrent.futures.Executor.shutdown`."""
        self._inner.shutdown(wait=wait)


class DoneFuture:
    """The future of work that was done when it was submitted.

    Python's own holds a lock, a condition and three lists, which for ten thousand
    tasks of one turn is most of what its garbage collector has to look through.
    """

    def __init__(self, result: Any = None, error: BaseException | None = None) -> None:
        self._result = result
        self._error = error

    def result(self, timeout: float | None = None) -> Any:
        """Return what the work returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the work raised."""
        return self._error

    def done(self) -> bool:
        """Return that it is done."""
        return True

    def running(self) -> bool:
        """Return that it is not under way."""
        return False

    def cancelled(self) -> bool:
        """Return that it was not cancelled."""
        return False

    def cancel(self) -> bool:
        """Return that it is too late for that."""
        return False

    def add_done_callback(self, function: Callable[[Any], Any]) -> None:
        """Call a function, at once."""
        function(self)


class InlineExecutor:
    """An executor whose work is done when it has been submitted, in a context of its own."""

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do some work; see :meth:`concurrent.futures.Executor.submit`."""
        try:
            return DoneFuture(contextvars.copy_context().run(function, *args, **kwargs))
        except SystemExit:
            raise
        except BaseException as error:
            return DoneFuture(error=error)

    def shutdown(self, wait: bool = True) -> None:
        """Do nothing: nothing is under way."""


class HostTaskExecutor(executor.ParallelThreadTaskExecutor):  # type: ignore[misc]  # no types
    """TaskFlow's task executor, running tasks in their submitter's context.

    :param given: the user's own executor, or ``None``.
    :param is_serial: run tasks one after the other in the engine's thread.
    """

    def __init__(
        self,
        *,
        given: futures.Executor | None = None,
        is_serial: bool = False,
        max_workers: int | None = None,
    ) -> None:
        wrapped = ContextExecutor(given) if given is not None else None
        super().__init__(executor=wrapped, max_workers=max_workers)
        self._is_serial = is_serial

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function where tasks are run; return its future."""
        return self._executor.submit(function, *args)

    def _create_executor(self, max_workers: int | None = None) -> ContextExecutor | InlineExecutor:
        if self._is_serial:
            return InlineExecutor()
        # Python's own pool: futurist's takes up to a second to shut down, and an
        # engine shuts its executor down each time it parks.
        return ContextExecutor(futures.ThreadPoolExecutor(max_workers=max_workers))


class HostEngine(action_engine.ActionEngine):  # type: ignore[misc]  # no types
    """TaskFlow's engine, with the parts that run a flow left to fill in."""

    _compiled: bool
    _storage_ensured: bool

    def make_runtime(self, compilation: Any) -> HostRuntime:
        """Return the runtime for a compiled flow."""
        raise NotImplementedError

    def use_executor(self, task_executor: executor.TaskExecutor) -> None:
        """Say what runs the tasks."""
        self._task_executor = task_executor

    def compile(self) -> None:
        """Compile the flow; does nothing the second time."""
        with self._lock:
            if not self._compiled:
                self._compilation = self._check_compilation(compile_flow(self._flow))
                self._runtime = self.make_runtime(self._compilation)
                self._runtime.compile()
                self._compiled = True

    def prepare(self) -> None:
        """Make sure that every atom has a detail (in memory, for now)."""
        with self._lock:
            if not self._compiled:
                raise taskflow_exceptions.InvalidState(
                    "cannot prepare an engine that has not been compiled: call compile() first"
                )
            if not self._storage_ensured:
                self.change_state(taskflow_storage.states.RESUMING)
                self._ensure_storage()
                self.change_state(taskflow_storage.states.SUSPENDED)
                self._storage_ensured = True

    def ensure_atoms(self) -> None:
        """Add details for atoms that have none, and inject what they bring along."""
        self._ensure_storage()

    def change_state(self, state: str) -> None:
        """Change the flow's state and tell the flow listeners."""
        self._change_state(state)

    @property
    def host_runtime(self) -> Any:
        """The runtime of the compiled flow."""
        return self._runtime

    @property
    def engine_lock(self) -> Any:
        """Held while :meth:`run` runs."""
        return self._lock

    @property
    def executors(self) -> tuple[Any, Any]:
        """What runs tasks and retry controllers; both have ``start`` and ``stop``."""
        return self._task_executor, self._retry_executor

    @property
    def gathers_statistics(self) -> bool:
        """Engine option ``gather_statistics``."""
        return bool(self._gather_statistics)

    @property
    def host_flow_detail(self) -> models.FlowDetail:
        """The flow detail that the engine was made with."""
        return self._flow_detail

    @property
    def host_backend(self) -> Any:
        """The persistence backend that the engine was made with, or ``None``."""
        return self._backend

    @property
    def scope_fetcher(self) -> Callable[[str], Iterable[Any] | None]:
        """Finds, once compiled, where an atom's arguments may come from."""

        def fetch(atom_name: str) -> Any:
            return self._runtime.fetch_scopes_for(atom_name) if self._compiled else None

        return fetch
