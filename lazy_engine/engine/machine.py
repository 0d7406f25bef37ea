# SPDX-License-Identifier: Apache-2.0
"""The state machine that drives one run of a flow.

Its states are those of :mod:`lazy_engine.engine.transition`.

A *turn* is SCHEDULING, WAITING, ANALYZING. All that a turn changes is
committed once: at its end if it is followed by another, before blocking if it
has to wait for its tasks, and together with the end of the run otherwise.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import TYPE_CHECKING, Any

from automaton import machines
from taskflow import states
from taskflow.types import failure as taskflow_failure

from lazy_engine import errors, garbage, host, outcome
from lazy_engine.delay import DELAYED
from lazy_engine.engine.completer import LazyCompleter
from lazy_engine.engine.probe import Probes
from lazy_engine.engine.statistics import Stopwatches
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.engine.transition import (
    ANALYZE,
    FINISH,
    GAME_OVER,
    SCHEDULE,
    START,
    TERMINAL,
    TRANSITIONS,
    UNDEFINED,
    WAIT,
)
from lazy_engine.engine.waiting import Memory, Owner, Waiting
from lazy_engine.ledger import record as r

if TYPE_CHECKING:
    from lazy_engine.engine.runtime import LazyRuntime

LOG = logging.getLogger(__name__)


class Machine:
    """Drives one run.

    :param runtime: the engine's :class:`~lazy_engine.engine.runtime.LazyRuntime`.
    :param linger_seconds: how long to stay awake for quick answers.
    :ivar finite: the automaton; run it from the event :data:`START`.
    """

    def __init__(
        self,
        runtime: LazyRuntime,
        owner: Owner,
        statistics: dict[str, Any],
        *,
        timeout: float | None,
        linger_seconds: float,
        gathers_statistics: bool,
    ) -> None:
        self._runtime = runtime
        self._storage: LazyStorage = runtime.storage
        self._completer: LazyCompleter = runtime.completer
        self._selector = runtime.selector
        self._outbox = runtime.notifier
        self._owner = owner
        self._statistics = statistics
        self._gathers = gathers_statistics
        self._probes = Probes(runtime, owner.probing, owner.taken_at, owner.deliver)
        self.memory = Memory()
        self._waiting = Waiting(
            self.memory,
            self._storage,
            owner,
            self._completer,
            self._probes,
            timeout=timeout,
            linger_seconds=linger_seconds,
        )
        self.finite = self._build()

    def _build(self) -> machines.FiniteMachine:
        analyze = self._uncollected(self._analyze)
        reactions: dict[tuple[str, str], Callable[..., str]] = {
            (states.RESUMING, START): self._uncollected(self._resume),
            (states.SCHEDULING, SCHEDULE): self._schedule,
            (states.WAITING, WAIT): self._wait,
            (states.ANALYZING, ANALYZE): analyze,
            (states.ANALYZING, "analyze_again"): analyze,
            (GAME_OVER, FINISH): self._uncollected(self._game_over),
        }
        hooks = Stopwatches(self._statistics, self.memory).hooks() if self._gathers else {}
        machine = machines.FiniteMachine()
        for name in sorted({row[0] for row in TRANSITIONS} | {row[2] for row in TRANSITIONS}):
            machine.add_state(name, terminal=name in TERMINAL, **hooks)
        machine.default_start_state = UNDEFINED
        for start, event, end in TRANSITIONS:
            machine.add_transition(start, end, event)
        for (state, event), reaction in reactions.items():
            machine.add_reaction(state, event, reaction)
        machine.freeze()
        return machine

    def _uncollected(self, reaction: Callable[..., str]) -> Callable[..., str]:
        """Return a reaction that keeps much of a large flow and runs no task, so that no garbage is looked for."""

        def react(old: str, new: str, event: str) -> str:
            with garbage.put_off(len(self._storage.flow_detail)):
                return reaction(old, new, event)

        return react

    # -- reactions --------------------------------------------------------

    def _resume(self, _old: str, _new: str, _event: str) -> str:
        self._outbox.collect()
        self._waiting.take_in(self._owner.fetch())
        unfinished = self._completer.resume()
        self._call_off()
        self.memory.next_up.update(unfinished, self._next_atoms())
        self._heed_cancel()
        return SCHEDULE

    def _schedule(self, _old: str, _new: str, _event: str) -> str:
        # Whatever the next tasks see must be durable before they start.
        self._settle_turn()
        state = self._storage.get_flow_state()
        if state == states.RUNNING and self.memory.next_up:
            self._waiting.start_over()
            wanted = [atom for atom in self.memory.next_up if self._is_due(atom)]
            wanted.sort(key=lambda atom: getattr(atom, "priority", 0), reverse=True)
            self.memory.next_up.clear()
            scheduled, failures = self._runtime.scheduler.schedule(wanted)
            self.memory.not_done.update(scheduled)
            self.memory.failures.extend(failures)
        # An answer that is here already saves its task a look.
        if state == states.RUNNING and not self.memory.inbox:
            self.memory.not_done.update(self._probes.start_due())
        elif state == states.SUSPENDING:
            self.memory.cancel_futures()
        return WAIT

    def _wait(self, _old: str, _new: str, _event: str) -> str:
        memory = self.memory
        if memory.not_done and not all(future.done() for future in memory.not_done):
            self._settle_turn(blocks=True)
            self._waiting.wait_for_futures()
        elif memory.not_done:
            memory.done.update(memory.not_done)
            memory.not_done.clear()
        elif self._waiting.lingers():
            self._settle_turn(blocks=True)
            self._waiting.linger()
        return ANALYZE

    def _analyze(self, _old: str, _new: str, _event: str) -> str:
        memory = self.memory
        self._outbox.collect()
        next_up: set[host.Atom] = set()
        while memory.done:
            next_up |= self._complete(memory.done.pop())
        while memory.inbox and not next_up and not memory.failures:
            next_up |= self._absorb(memory.inbox.popleft())
        if next_up or memory.not_done or self._waiting.lingers():
            if not memory.failures:
                memory.next_up.update(next_up)
            self._settle_turn()
        self._owner.check()
        self._heed_cancel()
        state = self._storage.get_flow_state()
        if state == states.RUNNING and not memory.failures:
            if memory.next_up or self._probes.is_due:
                return SCHEDULE
            if memory.inbox:  # came with the commit just made
                return self._analyze(_old, _new, _event)
        if memory.not_done:
            if state == states.SUSPENDING:
                memory.cancel_futures()
            return WAIT
        return WAIT if self._waiting.lingers() else FINISH

    def _game_over(self, _old: str, _new: str, _event: str) -> str:
        state, event = self._verdict()
        if state == states.SUSPENDED and self._storage.get_flow_state() == states.RUNNING:
            # An atom can run that was not found from any completed one: the
            # decider that ignores what is before it was asked after it had
            # been looked at. TaskFlow raises InvalidState here.
            self.memory.next_up.update(self._try_next_atoms())
            return "analyze_again"
        is_final = state not in (DELAYED, states.SUSPENDED)
        if state == states.FAILURE:
            self._call_off_all()
        ending = r.Ending(
            state=state,
            is_final=is_final,
            absorbs=state != states.SUSPENDED,
            heeds_cancel=not (self._completer.is_cancelling or self.memory.failures),
        )
        done = self._commit(ending)
        if not done.has_ended:
            self._waiting.start_over()
            return "analyze_again"
        self._outbox.send()
        return event

    def abort(self) -> None:
        """End the run as a failure, here and now.

        For when something other than the flow went wrong in this process. What
        tasks still at work would bring is not waited for.
        """
        self.memory.failures.append(host.Failure())
        self._game_over(states.ANALYZING, GAME_OVER, FINISH)

    def _verdict(self) -> tuple[str, str]:
        if self.memory.failures:
            return states.FAILURE, "failed"
        is_stopping = self._storage.get_flow_state() == states.SUSPENDING
        waits = bool(self._storage.delayed_tasks())
        if self.memory.next_up or any(True for _ in self._next_atoms(decides=False)):
            return states.SUSPENDED, "suspended"
        if waits:
            return (states.SUSPENDED, "suspended") if is_stopping else (DELAYED, "delayed")
        if self._runtime.is_success():
            return states.SUCCESS, "success"
        return states.REVERTED, "reverted"

    # -- atoms ------------------------------------------------------------

    def _next_atoms(
        self, atom: host.Atom | None = None, *, decides: bool = True
    ) -> Iterable[host.Atom]:
        for found, decider in self._selector.iter_next_atoms(atom=atom):
            if not decides or decider.check_and_affect(self._runtime):
                yield found

    def _is_due(self, atom: host.Atom) -> bool:
        """Whether an atom chosen in this turn is still to be scheduled.

        Another atom's failure in the same turn may have changed what is meant
        to become of it; what never ran has nothing to revert.
        """
        state = self._storage.get_atom_state(atom.name)
        return not (
            state == states.PENDING and self._storage.get_atom_intention(atom.name) == states.REVERT
        )

    def _heed_cancel(self) -> None:
        """Turn to reverting everything, once, if the flow is to be called off."""
        if not self._owner.is_cancelled or self._completer.is_cancelling or self.memory.failures:
            return
        self._completer.cancel()
        self._call_off()
        self.memory.next_up.update(self._try_next_atoms())

    def _complete(self, future: Any) -> set[host.Atom]:
        atom = future.atom
        if hasattr(future, "probe_of"):
            if self._probes.complete(future):
                self._waiting.take_in(self._owner.fetch())
            return set()
        try:
            is_complete = self._try(atom, lambda: self._completer.complete_future(future))
        except futures.CancelledError:
            return set()
        return self._after(atom) if is_complete else set()

    def _absorb(self, record: r.DelayRecord) -> set[host.Atom]:
        atom = self._runtime.atom_of(record.key.atom_uuid)
        if self._storage.get_atom_state(atom.name) != DELAYED:
            self._outbox.withdraw(atom.name, states.FAILURE)
        is_alone = not self._storage.must_write
        is_complete = self._try(atom, lambda: self._completer.complete_arrival(atom, record))
        if is_alone and self._has_result(atom, record):
            self._storage.write_later(atom.name, record.key)
        return self._after(atom) if is_complete else set()

    def _has_result(self, atom: host.Atom, record: r.DelayRecord) -> bool:
        return (
            record.outcome is not None
            and record.outcome.kind == outcome.RESULT
            and self._storage.get_atom_state(atom.name) == states.SUCCESS
        )

    def _try(
        self, atom: host.Atom, complete: Callable[[], taskflow_failure.Failure | None]
    ) -> bool:
        """Complete an atom; return whether that could be done at all.

        A retry controller that is asked for advice may raise anything.

        :raises concurrent.futures.CancelledError: the atom never ran.
        """
        try:
            failure = complete()
        except (errors.LazyEngineError, futures.CancelledError):
            raise
        except Exception:
            # A retry controller's code, perhaps: it fails the flow, and not what runs it.
            LOG.exception("completing atom '%s' failed", atom)
            failure = host.Failure()
            self.memory.failures.append(failure)
            return False
        if failure is not None:
            self.memory.failures.append(failure)
        if self._gathers:
            self._statistics["completed"] += 1
            if failure is None and self._storage.get_atom_state(atom.name) == states.FAILURE:
                self._statistics["discarded_failures"] += 1
        return True

    def _after(self, atom: host.Atom) -> set[host.Atom]:
        # A failure ends the waits of others; and what answered with a Delay
        # after another atom's failure in the same turn need not wait at all.
        state = self._storage.get_atom_state(atom.name)
        if state == states.FAILURE or (state == DELAYED and self._waits_in_vain(atom.name)):
            self._call_off()
        return set() if self.memory.failures else self._try_next_atoms(atom)

    def _try_next_atoms(self, atom: host.Atom | None = None) -> set[host.Atom]:
        """Return what comes after an atom, or all that can run.

        A user's decider may raise anything.
        """
        try:
            return set(self._next_atoms(atom))
        except Exception:
            LOG.exception("finding what comes after atom '%s' failed", atom)
            self.memory.failures.append(host.Failure())
            return set()

    def _call_off(self) -> None:
        """End the waits of tasks that are to be reverted.

        An outcome that is here already goes first: its task is completed, and
        then reverted like any other.
        """
        ended: set[str] = set()
        # Again and again: an outcome that is a failure may end further waits.
        while names := [
            name
            for name in self._storage.delayed_tasks()
            if name not in ended and self._waits_in_vain(name)
        ]:
            for name in names:
                self._end_wait(name)
            ended.update(names)

    def _waits_in_vain(self, task_name: str) -> bool:
        return bool(
            self._storage.get_atom_intention(task_name) != states.EXECUTE
            and not self._storage.waits_in_revert(task_name)
        )

    def _call_off_all(self) -> None:
        for name in self._storage.delayed_tasks():
            self._end_wait(name)

    def _end_wait(self, task_name: str) -> None:
        key = self._storage.delay_key(task_name)
        atom = self._runtime.atom_of(key.atom_uuid)
        for record in list(self.memory.inbox):
            if record.key == key:
                self.memory.inbox.remove(record)
                self._try(atom, functools.partial(self._completer.complete_arrival, atom, record))
                return
        self._runtime.task_action.call_off(atom)

    # -- committing -------------------------------------------

    def _settle_turn(self, *, blocks: bool = False) -> None:
        """Commit what must be durable now, then tell about it.

        :param blocks: the engine is about to wait, for who knows how long.
        """
        if self._storage.should_write if blocks else self._storage.must_write:
            self._commit(None)
        self._probes.collect()
        self._outbox.send()

    def _commit(self, ending: r.Ending | None) -> r.Committed:
        while True:
            done = self._owner.commit(ending)
            if not done.refused:
                self._waiting.take_in(done.arrivals)
                return done
            # Somebody answered a delay just as it was being called off. The
            # answer came first; it is absorbed over what was buffered.
            self._outbox.collect()
            for record in done.refused:
                self.memory.next_up.update(self._absorb(record))
