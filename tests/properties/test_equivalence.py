# SPDX-License-Identifier: Apache-2.0
"""A lazy engine ends where TaskFlow's own engines end (invariant I6 of the design).

Random flows are run by a lazy engine that parks whenever it can, is thrown away and loaded again from the store, and
gets its outcomes in a random order. What it did is written down: which atoms it completed in which turn. Then TaskFlow
runs the same flow.

- Where nothing fails, TaskFlow's *serial* engine runs it, with tasks that return their results at once.
- Where tasks fail, TaskFlow's *parallel* engine runs it under an executor that is driven by hand. Tasks that do not wait
  are completed as soon as they are submitted, as by the lazy engine's serial executor; the futures of those that wait
  are completed in the very turn in which the lazy engine absorbed their outcomes, or called them off; a deadline that
  passes is an outcome like any other, whether a sweep or the taking of the lease finds it due. The order of
  completions within one turn, which TaskFlow leaves to the hashes of its futures, is the lazy engine's too.

Some things are let pass. A called-off task ends in the lazy engine with ``FAILURE(DelayCancelled)``, in TaskFlow with a
result that nobody looks at. Its revert sees that. And TaskFlow *reverts tasks that never ran*: those it has chosen to
execute in the very turn in which another atom's failure turns their intention to ``REVERT``; the lazy engine leaves them
``PENDING``. Which failures reverts are shown is not compared: while an engine lives, TaskFlow's storage goes
on showing those of earlier attempts, and hides those that came after the intention to revert; a reload mends both. Last,
TaskFlow may raise ``InvalidState`` and leave an atom lying that comes after an ignored one; then it is run again.

``LAZY_ENGINE_PROPERTY_SCALE=50`` runs fifty times as many examples.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import inspect
import json
import os
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any
from unittest import mock

import pytest
import taskflow.engines
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from taskflow import deciders, retry, states, task
from taskflow.engines.action_engine import builder
from taskflow.exceptions import InvalidState
from taskflow.patterns import graph_flow, linear_flow, unordered_flow
from taskflow.persistence import backends, models
from taskflow.types import failure as taskflow_failure

from lazy_engine import DELAYED, Client, Delay, Disposition, ledger
from lazy_engine.engine import machine
from lazy_engine.errors import DelayCancelled, DelayFailed, DelayTimeout
from lazy_engine.outcome import Failed, Result

_SCALE = int(os.environ.get("LAZY_ENGINE_PROPERTY_SCALE", "1"))
_CALLED_OFF = "called off"
_ENDS = (states.SUCCESS, states.FAILURE, states.REVERTED, states.REVERT_FAILURE)
_DEPTHS = tuple(deciders.Depth)
_DEADLINE_SECONDS = 60.0

# -- what is run ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Try:
    """One attempt of a task.

    :ivar when: its outcome comes (``now``, ``later``, ``early``), or ``never``: its deadline passes.
    :ivar works: the outcome is a result.
    """

    when: str
    works: bool


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """A task. Its last try is repeated for ever; a courier brings outcomes of other tasks while it runs."""

    tries: tuple[Try, ...]
    reads: bool
    reverts: bool
    is_courier: bool


@dataclasses.dataclass(frozen=True)
class RetrySpec:
    kind: str
    count: int
    reverts_all: bool


@dataclasses.dataclass(frozen=True)
class Link:
    start: int
    end: int
    decider: str | None
    depth: deciders.Depth

    @property
    def is_narrow(self) -> bool:
        return self.decider in ("no", "odd") and self.depth is not deciders.Depth.ALL


@dataclasses.dataclass(frozen=True)
class FlowSpec:
    kind: str
    retry: RetrySpec | None
    children: tuple[TaskSpec | FlowSpec, ...]
    links: tuple[Link, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """A flow, and how the world treats it.

    :ivar order: decides which of the waiting tasks are answered first.
    :ivar bunches: how many are answered before the flow is resumed.
    :ivar reloads: whether the engine is thrown away in between.
    """

    flow: FlowSpec
    order: int
    bunches: tuple[int, ...]
    reloads: tuple[bool, ...]
    defers: bool


class Boom(Exception):
    """What failing tasks raise."""


class Work(task.Task):
    """A task that does what its world says.

    :param sees: names of results that it takes if there are any.
    """

    def __init__(self, world: World, name: str, spec: TaskSpec, sees: list[str]) -> None:
        self._world = world
        self._spec = spec
        # An argument is optional, for TaskFlow, if its default says so.
        self.execute = _taking(sees, self.execute)  # type: ignore[method-assign]
        super().__init__(name=name, provides=_result_of(name))

    def __hash__(self) -> int:
        # Atoms of one turn are scheduled in the order of their hashes; by
        # default these are addresses, and nothing could be repeated.
        return self._world.rank(self.name)

    def execute(self, **seen: Any) -> Any:
        return self._world.execute(self.name, self._spec, dict(sorted(seen.items())))

    def revert(self, result: Any, flow_failures: dict[str, Any]) -> None:
        self._world.revert(self.name, self._spec, result, set(flow_failures))


def _taking(names: list[str], function: Callable[..., Any]) -> Callable[..., Any]:
    def taking(**seen: Any) -> Any:
        return function(**seen)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=None) for name in names]
    taking.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return taking


def _result_of(name: str) -> str:
    return f"{name}_result".replace(".", "_")


@dataclasses.dataclass(frozen=True)
class Executed:
    name: str
    attempt: int
    seen: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Reverted:
    name: str
    attempt: int
    result: Any


class World:
    """What surrounds the tasks of one run, and remembers what they did."""

    def __init__(self, order: int) -> None:
        self._order = order
        self.attempts: collections.Counter[str] = collections.Counter()
        self.unreverted: set[str] = set()
        self.log: list[Executed | Reverted] = []
        self.failures_seen: set[str] = set()

    def execute(self, name: str, spec: TaskSpec, seen: dict[str, Any]) -> Any:
        self.attempts[name] += 1
        number = self.attempts[name]
        wanted = spec.tries[min(number, len(spec.tries)) - 1]
        self.unreverted.add(name)
        self.log.append(Executed(name, number, seen))
        if spec.is_courier:
            self.bring()
        value = {"by": name, "attempt": number, "seen": seen} if wanted.works else None
        error = None if wanted.works else f"{name} failed in attempt {number}"
        if wanted.when == "never":
            error = f"task '{name}' timed out: its deadline passed and no outcome had come"
        if wanted.when == "now":
            if error is not None:
                raise Boom(error)
            return value
        return self.wait(name, number, Result(value) if error is None else Failed(error), wanted)

    def revert(self, name: str, spec: TaskSpec, result: Any, failures: set[str]) -> None:
        if name not in self.unreverted:
            self.revert_ghost(name)
            return
        self.unreverted.remove(name)
        self.log.append(Reverted(name, self.attempts[name], _plain(result)))
        self.failures_seen |= failures
        if not spec.reverts:
            raise Boom(f"{name} cannot be reverted")

    def revert_ghost(self, name: str) -> None:
        """Called when a task is reverted that has not run."""
        raise AssertionError(f"{name} is reverted, and has not been executed")

    def rank(self, name: str) -> int:
        """Return a number for an atom; atoms are treated in the order of their numbers."""
        return zlib.crc32(f"{self._order}:{name}".encode())

    def bring(self) -> None:
        """Deliver something, as a side effect of a task that runs."""

    def wait(self, name: str, number: int, outcome: Result | Failed, wanted: Try) -> Any:
        raise NotImplementedError


def _plain(value: Any) -> Any:
    """Return a result or failure as it can be compared between engines and stores."""
    if isinstance(value, taskflow_failure.Failure):
        if value.check(DelayCancelled):
            return _CALLED_OFF
        return ["timeout" if value.check(DelayTimeout) else "failure", value.exception_str]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return json.loads(json.dumps(value))


def build(world: World, spec: FlowSpec) -> Any:
    """Build the flow."""
    return _build(world, spec, "f", None, sees=True)


def _build(world: World, spec: FlowSpec, path: str, choice: str | None, *, sees: bool) -> Any:
    """Build a flow whose tasks see the task before them, and the choice of the retry controller around them.

    :param sees: they may. TaskFlow fails a flow when what a task sees was ignored, even if the task could do without;
        so where a decider may ignore a task and not all that come after it, nobody sees anything.
    """
    controller = None
    if spec.retry is not None:
        choice = _result_of(f"{path}.retry")
        controller = _controller(spec.retry, f"{path}.retry", choice)
    sees = sees and not (spec.kind == "graph" and any(link.is_narrow for link in _links(spec)))
    kinds = {"linear": linear_flow, "unordered": unordered_flow, "graph": graph_flow}
    flow = kinds[spec.kind].Flow(path, retry=controller)
    parts = []
    for index, child in enumerate(spec.children):
        name = f"{path}.{index}"
        if isinstance(child, FlowSpec):
            parts.append(_build(world, child, name, choice, sees=sees))
            continue
        before = _before(spec, index) if child.reads else None
        seen = [choice] if choice else []
        if before is not None:
            seen.append(_result_of(f"{path}.{before}"))
        parts.append(Work(world, name, child, seen if sees else []))
    flow.add(*parts)
    if spec.kind == "graph":
        for link in _links(spec):
            decider = _decider(link.decider) if link.decider else None
            depth = link.depth if decider else None
            flow.link(parts[link.start], parts[link.end], decider=decider, decider_depth=depth)
    return flow


def _links(spec: FlowSpec) -> Iterator[Link]:
    seen = set()
    for link in spec.links:
        size = len(spec.children)
        start, end = sorted((link.start % size, link.end % size))
        if start != end and (start, end) not in seen:
            seen.add((start, end))
            yield dataclasses.replace(link, start=start, end=end)


def _before(spec: FlowSpec, index: int) -> int | None:
    if spec.kind == "linear":
        found = [index - 1] if index else []
    elif spec.kind == "graph":
        found = [link.start for link in _links(spec) if link.end == index]
    else:
        found = []
    return next((i for i in found if isinstance(spec.children[i], TaskSpec)), None)


def _decider(kind: str) -> Callable[..., bool]:
    def decide(history: dict[str, Any]) -> bool:
        if kind == "odd":
            return all(result is None or result["attempt"] % 2 for result in history.values())
        return kind == "yes"

    return decide


def _controller(spec: RetrySpec, name: str, provides: str) -> retry.Retry:
    if spec.kind == "times":
        return retry.Times(spec.count, name=name, provides=provides, revert_all=spec.reverts_all)
    if spec.kind == "each":
        values = [f"choice {number}" for number in range(spec.count)]
        return retry.ForEach(values, name=name, provides=provides, revert_all=spec.reverts_all)
    kind = retry.AlwaysRevertAll if spec.reverts_all else retry.AlwaysRevert
    return kind(name=name, provides=provides)


# -- what is seen --------------------------------------------------------------


@dataclasses.dataclass
class Trace:
    """What a run did, and how it ended.

    :ivar turns: for each turn, what was completed in it, in order: ``[(name, state), …]``.
    """

    state: str = ""
    atoms: dict[str, Any] = dataclasses.field(default_factory=dict)
    turns: list[list[tuple[str, str]]] = dataclasses.field(default_factory=list)
    log: dict[str, list[Executed | Reverted]] = dataclasses.field(default_factory=dict)
    failures_seen: set[str] = dataclasses.field(default_factory=set)
    ghosts: set[str] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        self._has_run: dict[str, bool] = {}

    def note(self, state: str, details: dict[str, Any]) -> None:
        name = details.get("task_name") or details["retry_name"]
        if state == states.RUNNING:
            self._has_run[name] = True
        elif state == states.PENDING:
            self._has_run[name] = False
            self.ghosts.discard(name)
        if state == states.REVERTING and not self._has_run.get(name):
            self.ghosts.add(name)
        if state in _ENDS and name not in self.ghosts:
            result = details.get("result")
            is_off = isinstance(result, taskflow_failure.Failure) and result.check(DelayCancelled)
            self.turns[-1].append((name, _CALLED_OFF if is_off or result == _CALLED_OFF else state))

    def watch(self, engine: Any) -> None:
        engine.atom_notifier.register("*", self.note)

    def conclude(self, detail: models.FlowDetail, world: World) -> None:
        self.state = detail.state
        self.turns = [turn for turn in self.turns if turn]
        for entry in world.log:
            self.log.setdefault(entry.name, []).append(entry)
        self.failures_seen = world.failures_seen
        for atom in detail:
            if isinstance(atom, models.AtomDetail) and not atom.name.startswith("_TaskFlow"):
                self.atoms[atom.name] = self._atom(atom)

    def _atom(self, atom: models.AtomDetail) -> Any:
        if atom.name in self.ghosts:
            return states.PENDING
        outcome = _plain(atom.failure) if atom.failure is not None else _plain(atom.results)
        state = atom.state
        if outcome == _CALLED_OFF and state in (states.SUCCESS, states.FAILURE):
            state = _CALLED_OFF
        if state == states.PENDING:
            return state
        if state == states.REVERT_FAILURE:
            outcome = None  # TaskFlow forgets a result here, and keeps a failure
        return [state, atom.intention, outcome, _plain(atom.revert_failure)]


# -- the lazy engine -----------------------------------------------------------


class LazyWorld(World):
    """Answers later, or has deadlines pass, from outside or while a task runs.

    Whatever else waits for a deadline times out with the first one.
    """

    def __init__(self, client: Client, order: int) -> None:
        super().__init__(order)
        self._client = client
        self._ledger = ledger.beside(client.backend)
        self._letters: dict[str, tuple[str, Result | Failed]] = {}
        self._unanswered: dict[str, str] = {}
        self._old: list[str] = []

    def wait(self, name: str, number: int, outcome: Result | Failed, wanted: Try) -> Any:
        delay = Delay(timeout_seconds=_DEADLINE_SECONDS) if wanted.when == "never" else Delay()
        if name in self._letters:
            self._old.append(self._letters.pop(name)[0])
        if name in self._unanswered:
            self._old.append(self._unanswered.pop(name))
        if wanted.when == "never":
            self._unanswered[name] = delay.token
        else:
            self._letters[name] = (delay.token, outcome)
        if wanted.when == "early":
            assert self._deliver(name).disposition is Disposition.EARLY
        if number % 2:
            return delay
        raise delay

    def bring(self) -> None:
        for name in sorted({*self._letters, *self._unanswered}, key=self.rank)[:1]:
            if name in self._letters:
                self._deliver(name)
            else:
                self._let_pass()
                self._client.sweep()

    def answer(self, flow_uuid: str, count: int) -> None:
        """Answer some of the tasks that wait; of those that nobody answers let the deadlines pass."""
        waiting = [delay.task_name for delay in self._client.delays(flow_uuid=flow_uuid)]
        assert waiting, "parked, and nothing waits"
        for name in sorted(waiting, key=self.rank)[:count]:
            if name in self._unanswered:
                self._time_out(flow_uuid, name)
                continue
            token, outcome = self._letters[name]
            assert self._client.token(flow_uuid, name) == token
            assert self._deliver(name).disposition is Disposition.ACCEPTED
            (again,) = self._client.deliver_many([(token, outcome)])
            assert again.disposition is Disposition.DUPLICATE
        for token in self._old:
            receipt = self._client.complete(token, "another outcome")
            assert receipt.disposition in (Disposition.LATE, Disposition.CONFLICT)
        self._old.clear()

    def _time_out(self, flow_uuid: str, name: str) -> None:
        self._let_pass()
        if self.rank(name) % 2:
            return  # whoever takes the lease finds it due
        self._client.sweep()
        token = self._unanswered[name]
        receipt = self._client.complete(token, "after the deadline")
        assert receipt.disposition is Disposition.LATE

    def _let_pass(self) -> None:
        self._ledger.clock_offset_seconds += _DEADLINE_SECONDS

    def _deliver(self, name: str) -> Any:
        token, outcome = self._letters.pop(name)
        self._old.append(token)
        (receipt,) = self._client.deliver_many([(token, outcome)])
        return receipt


def run_lazily(case: Case, backend: Any) -> Trace:
    client = Client(backend)
    world = LazyWorld(client, case.order)
    trace = Trace()
    flow_uuid = _save_flow(backend)
    engine, state = None, ""
    for number in range(1000):
        if engine is None or case.reloads[number % len(case.reloads)]:
            with contextlib.closing(backend.get_connection()) as connection:
                detail = connection.get_flow_details(flow_uuid)
            engine = taskflow.engines.load(
                build(world, case.flow),
                flow_detail=detail,
                backend=backend,
                engine="lazy",
                defer_reverts=case.defers,
            )
            trace.watch(engine)
        elif state == DELAYED:
            engine.insist()  # as a conductor does with an engine that it has kept
        with InOrder.within(machine, "Memory", world.rank):
            state = _run(engine, trace, client)
        if state != "DELAYED":
            break
        for atom in client.flow(flow_uuid).atoms:
            assert atom.state != "DELAYED" or atom.intention == states.EXECUTE, (
                f"waits in vain: {atom}"
            )
        world.answer(flow_uuid, case.bunches[number % len(case.bunches)])
    book = ledger.beside(backend)
    trace.conclude(book.detail(flow_uuid), world)
    for delay in book.delays_of(flow_uuid):
        assert not delay.is_open
        assert delay.outcome is None or delay.absorbed_at is not None, f"never absorbed: {delay}"
    return trace


def _save_flow(backend: Any) -> str:
    book = models.LogBook("equivalence")
    detail = models.FlowDetail("equivalence", str(uuid.uuid4()))
    book.add(detail)
    with contextlib.closing(backend.get_connection()) as connection:
        connection.save_logbook(book)
    return detail.uuid


def _run(engine: Any, trace: Trace, client: Client) -> str:
    trace.turns.append([])
    state = ""
    try:
        for state in engine.run_iter():
            if state == states.WAITING:
                trace.turns.append([])
    except Exception:
        state = client.flow(engine.storage.flow_uuid).state
        if state not in (states.REVERTED, states.FAILURE):
            raise
    assert state in ("DELAYED", states.SUCCESS, states.REVERTED, states.FAILURE)
    return state


# -- TaskFlow ------------------------------------------------------------------


@dataclasses.dataclass
class Held:
    """What a task that waits returns under TaskFlow; its future is kept."""

    name: str
    outcome: Result | Failed
    times_out: bool


class ReferenceWorld(World):
    def revert_ghost(self, name: str) -> None:
        pass

    def wait(self, name: str, number: int, outcome: Result | Failed, wanted: Try) -> Any:
        return Held(name, outcome, times_out=wanted.when == "never")


class PromptWorld(World):
    """Answers at once."""

    def wait(self, name: str, number: int, outcome: Result | Failed, wanted: Try) -> Any:
        assert isinstance(outcome, Result)
        return outcome.value


class HandDriven(futures.Executor):
    """Completes futures at once, but those of tasks that wait: these when it is told to."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[futures.Future[Any], str, Held]] = {}

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        future: futures.Future[Any] = futures.Future()
        future.set_running_or_notify_cancel()
        verdict, result = function(*args, **kwargs)
        if isinstance(result, Held):
            self.held[result.name] = (future, verdict, result)
        else:
            future.set_result((verdict, result))
        return future

    def release(self, name: str, how: str) -> None:
        future, verdict, held = self.held.pop(name)
        result: Any
        if how == _CALLED_OFF:
            result = _CALLED_OFF
        elif isinstance(held.outcome, Result):
            result = held.outcome.value
        else:
            error = (DelayTimeout if held.times_out else DelayFailed)(held.outcome.message)
            result = taskflow_failure.Failure.from_exception(error)
        future.set_result((verdict, result))


class Conductor:
    """Has TaskFlow complete in each turn what the lazy engine completed in it, in that order."""

    def __init__(self, turns: list[list[tuple[str, str]]], executor: HandDriven) -> None:
        self._turns = iter(turns)
        self._executor = executor
        self._places: dict[str, int] = {}

    def begin_turn(self) -> None:
        turn = next(self._turns, None)
        if turn is None:
            for name in list(self._executor.held):
                self._executor.release(name, _CALLED_OFF)
            return
        self._places = {name: place for place, (name, _) in enumerate(turn)}
        for name, how in turn:
            if name in self._executor.held:
                self._executor.release(name, how)

    def place(self, name: str) -> int:
        # What TaskFlow reverts though it never ran goes first: last, it can keep its
        # retry controller from being reverted, and TaskFlow's flow never ends.
        return self._places.get(name, -1)


class InOrder:
    """Stands in for the set of futures that a turn has yet to complete."""

    def __init__(self, place: Callable[[str], Any]) -> None:
        self._futures: list[Any] = []
        self._place = place

    @classmethod
    @contextlib.contextmanager
    def within(cls, module: Any, memory_class: str, place: Callable[[str], Any]) -> Iterator[None]:
        """Have the machines of an engine complete futures in order of their atoms' names' places."""
        original = getattr(module, memory_class)

        def make() -> Any:
            memory = original()
            memory.done = cls(place)
            return memory

        with mock.patch.object(module, memory_class, make):
            yield

    def update(self, more: Any) -> None:
        self._futures.extend(more)

    def __len__(self) -> int:
        return len(self._futures)

    def pop(self) -> Any:
        first = min(self._futures, key=lambda future: self._place(future.atom.name))
        self._futures.remove(first)
        return first


def _pushed(engine: Any, timeout: float | None = None) -> Iterator[str]:
    """Run a TaskFlow engine, and run it on where it stops and leaves work lying.

    Whether it finds an atom that comes after an ignored one depends on the order in which it looks at them; if it does
    not, it raises ``InvalidState``.
    """
    for _ in range(100):
        try:
            yield from engine.run_iter(timeout=timeout)
        except InvalidState:
            continue
        return
    raise AssertionError("TaskFlow stops again and again, and gets nowhere")


def run_by_hand(case: Case, turns: list[list[tuple[str, str]]]) -> Trace:
    world = ReferenceWorld(case.order)
    trace = Trace()
    executor = HandDriven()
    conductor = Conductor(turns, executor)
    engine = taskflow.engines.load(
        build(world, case.flow), engine="parallel", executor=executor, defer_reverts=case.defers
    )
    trace.watch(engine)
    with InOrder.within(builder, "MachineMemory", conductor.place):
        trace.turns.append([])
        try:
            for state in _pushed(engine, timeout=0):
                if state == states.WAITING:
                    trace.turns.append([])
                    conductor.begin_turn()
        except Exception:
            if engine.storage.get_flow_state() not in (states.REVERTED, states.FAILURE):
                raise
    trace.conclude(engine.storage._flowdetail, world)
    return trace


def run_serially(case: Case) -> Trace:
    world = PromptWorld(case.order)
    trace = Trace()
    engine = taskflow.engines.load(build(world, case.flow), engine="serial")
    for _ in _pushed(engine):
        pass
    trace.conclude(engine.storage._flowdetail, world)
    return trace


# -- what is tried -------------------------------------------------------------

_WHEN = st.sampled_from(("now", "later", "early"))


def _tasks(fails: bool) -> st.SearchStrategy[TaskSpec]:
    tries = st.builds(Try, _WHEN, st.sampled_from((True, True, False)) if fails else st.just(True))
    if fails:
        tries = st.one_of(tries, tries, tries, tries, st.just(Try("never", False)))
    return st.builds(
        TaskSpec,
        tries=st.lists(tries, min_size=1, max_size=3).map(tuple),
        reads=st.booleans(),
        reverts=st.integers(0, 19).map(bool) if fails else st.just(True),
        is_courier=st.integers(0, 3).map(lambda number: number == 3),
    )


def _flows(fails: bool, depth: int) -> st.SearchStrategy[FlowSpec]:
    child: st.SearchStrategy[Any] = _tasks(fails)
    if depth:
        child = st.one_of(child, child, _flows(fails, depth - 1))
    controllers = st.builds(
        RetrySpec,
        kind=st.sampled_from(("times", "each", "always")),
        count=st.integers(1, 3),
        reverts_all=st.integers(0, 3).map(lambda number: number == 3),
    )
    return st.builds(
        FlowSpec,
        kind=st.sampled_from(("linear", "unordered", "graph")),
        retry=st.none() | controllers,
        children=st.lists(child, min_size=1, max_size=4).map(tuple),
        links=st.lists(
            st.builds(
                Link,
                st.integers(0, 3),
                st.integers(0, 3),
                st.sampled_from((None, "yes", "no", "odd")),
                st.sampled_from(_DEPTHS),
            ),
            max_size=4,
        ).map(tuple),
    )


def cases(*, fails: bool) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        flow=_flows(fails, 2),
        order=st.integers(0, 1000),
        bunches=st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple),
        reloads=st.lists(st.booleans(), min_size=1, max_size=4).map(tuple),
        defers=st.booleans() if fails else st.just(False),
    )


def often(count: int) -> Any:
    return settings(
        max_examples=count * _SCALE,
        suppress_health_check=list(HealthCheck),
        # To explain a failure takes Hypothesis minutes here.
        phases=[phase for phase in Phase if phase is not Phase.explain],
    )


@pytest.fixture(scope="module")
def sqlite_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("equivalence") / "lazy.sqlite"
    client = Client({"connection": f"sqlite:///{path}"})
    yield client.backend
    client.backend.close()


def check_without_failures(case: Case, backend: Any) -> None:
    lazy = run_lazily(case, backend)
    expected = run_serially(case)
    assert lazy.state == expected.state == states.SUCCESS
    assert lazy.atoms == expected.atoms


def check_with_failures(case: Case, backend: Any) -> None:
    lazy = run_lazily(case, backend)
    expected = run_by_hand(case, lazy.turns)
    note(f"lazy turns:     {lazy.turns}")
    note(f"expected turns: {expected.turns}")
    assert lazy.turns == expected.turns
    assert lazy.state == expected.state
    assert lazy.atoms == expected.atoms
    assert lazy.log == expected.log
    assert lazy.failures_seen <= {
        name for turn in lazy.turns for name, how in turn if how == states.FAILURE
    }


def _memory_backend() -> Any:
    return backends.fetch({"connection": "memory"})


@often(200)
@given(cases(fails=False))
def test_without_failures_it_ends_like_the_serial_engine(case: Case) -> None:
    check_without_failures(case, _memory_backend())


@often(40)
@given(cases(fails=False))
def test_without_failures_it_ends_like_the_serial_engine_on_sqlite(
    sqlite_backend: Any, case: Case
) -> None:
    check_without_failures(case, sqlite_backend)


@often(200)
@given(cases(fails=True))
def test_with_failures_it_ends_like_the_parallel_engine(case: Case) -> None:
    check_with_failures(case, _memory_backend())


@often(40)
@given(cases(fails=True))
def test_with_failures_it_ends_like_the_parallel_engine_on_sqlite(
    sqlite_backend: Any, case: Case
) -> None:
    check_with_failures(case, sqlite_backend)
