# SPDX-License-Identifier: Apache-2.0
"""How finished, failed and answered atoms are completed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from taskflow import states

from lazy_engine import attempt, errors, host, incident, outcome, terms, token
from lazy_engine.delay import Delay
from lazy_engine.engine.action import LazyTaskAction
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.ledger import record as r

if TYPE_CHECKING:
    from lazy_engine.engine.runtime import LazyRuntime

#: States in which an earlier run may have left something to be done.
_UNFINISHED: Final = (states.FAILURE, states.RUNNING, states.REVERTING)


class LazyCompleter(host.HostCompleter):
    """Completes atoms; a task that answered with a ``Delay`` goes on waiting."""

    def __init__(self, runtime: LazyRuntime) -> None:
        super().__init__(runtime)
        self._lazy_storage: LazyStorage = runtime.storage
        self._action: LazyTaskAction = runtime.task_action
        self.is_cancelling = False

    def resume(self) -> set[host.Atom]:
        """Take up what an earlier run left; return atoms to schedule again.

        A failure whose atom is no longer meant to execute has been resolved
        already, in the very commit that stored it; only others are resolved
        now, so that no retry controller is asked twice.
        """
        unfinished = set()
        runtime, found = self.host_runtime, self._lazy_storage.states
        for atom in runtime.atoms_named(found.within(_UNFINISHED)):
            name = atom.name
            state = self._lazy_storage.get_atom_state(name)
            intention = self._lazy_storage.get_atom_intention(name)
            if state == states.FAILURE and intention == states.EXECUTE and self.resolves:
                self.resolve(atom, self._lazy_storage.get(name))
            elif state in (states.RUNNING, states.REVERTING):
                unfinished.add(atom)
        if self.resolves:
            for retry in runtime.atoms_named(found.within((states.RETRYING,))):
                runtime.retry_subflow(retry)
        return unfinished

    def cancel(self) -> None:
        """Mean all to be reverted; from now on no retry controller is asked."""
        self.is_cancelling = True
        self.revert_all()

    def complete_failure(self, node: host.Atom, outcome: str, failure: host.Failure) -> bool:
        """Resolve a failure; return whether it is to be kept for the end."""
        if self.is_cancelling and outcome == host.EXECUTED:
            return False  # it is to be reverted already
        return bool(super().complete_failure(node, outcome, failure))

    def complete_future(self, future: Any) -> host.Failure | None:
        """Complete the atom that a future ran; return a failure to be kept.

        :raises concurrent.futures.CancelledError: it never ran.
        """
        atom = future.atom
        verdict, result = future.result()
        running: attempt.Attempt | None = getattr(future, "attempt", None)
        delay = _delay_in(result)
        if running is not None and running.made:
            if delay is not None and delay.belongs_to(running):
                self._action.wait_for_outside(atom, delay, running)
                _tell_end(running, "delayed")
                return None
            self._lazy_storage.end_without_delay(running.name)
        if delay is not None or _holds_delay(result):
            result = _misuse(atom, running)
        if running is not None:
            _tell_end(running, "failed" if isinstance(result, host.Failure) else verdict)
        return self._complete(atom, verdict, result)

    def complete_arrival(self, atom: host.Atom, record: r.DelayRecord) -> host.Failure | None:
        """Hand an arrived outcome to its task; return a failure to be kept."""
        self._lazy_storage.absorb(record.key, record)
        if record.progress is not None:
            # What a heartbeat wrote while an engine owned the flow that engine has not read.
            self._lazy_storage.update_atom_metadata(atom.name, record.progress_meta())
        verdict = host.REVERTED if record.key.kind == token.REVERT else host.EXECUTED
        return self._complete(atom, verdict, self.result_of(record))

    def result_of(self, record: r.DelayRecord) -> Any:
        """Return what a recorded outcome completes its task with.

        :raises FlowIncident: the store has damaged it.
        """
        assert record.outcome is not None
        flow_uuid, task_name = record.key.flow_uuid, record.task_name
        try:
            if record.outcome.kind == outcome.DEFAULT:
                return terms.default_of(record.outcome)
            if record.outcome.kind == outcome.TIMEOUT:
                return outcome.timeout_from(
                    record.outcome, flow_uuid=flow_uuid, task_name=task_name
                )
            payload = self._lazy_storage.ledger.decode(record.outcome)
            if record.outcome.kind == outcome.RESULT:
                return payload
            return outcome.failure_from(payload, flow_uuid=flow_uuid, task_name=task_name)
        except (ValueError, TypeError, LookupError) as error:
            # It was written as it should be; so the store has lost something.
            what = f"has an outcome for task '{task_name}' that cannot be read"
            raise errors.FlowIncident(
                incident.words(flow_uuid, what, error),
                error,
                kind=incident.STORE_CORRUPT,
                flow_uuid=flow_uuid,
                task_name=task_name,
            ) from error

    def _complete(self, atom: host.Atom, verdict: str, result: object) -> host.Failure | None:
        try:
            self.complete(atom, verdict, result)
        except errors.ResultNotStorable:
            # Its own failure, and nobody else's: the turn goes on.
            result = host.Failure()
            self.complete(atom, verdict, result)
        if not isinstance(result, host.Failure):
            return None
        return result if self.complete_failure(atom, verdict, result) else None


def _tell_end(running: attempt.Attempt, what: str) -> None:
    if running.watched is not None:
        running.watched.end(what)


def _delay_in(result: object) -> Delay | None:
    if isinstance(result, host.Failure):
        result = result.exception
    return result if isinstance(result, Delay) else None


def _holds_delay(result: object) -> bool:
    """Whether a ``Delay`` is hidden inside a result."""
    pending = [result]
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if isinstance(item, Delay):
            return True
        if isinstance(item, (dict, list, tuple, set, frozenset)) and id(item) not in seen:
            seen.add(id(item))
            pending.extend(item.values() if isinstance(item, dict) else item)
    return False


def _misuse(atom: host.Atom, running: attempt.Attempt | None) -> host.Failure:
    if running is None:
        what = (
            f"retry controller '{atom.name}' answered with a Delay: only tasks can wait;"
            " return it from a task of the controller's flow"
        )
    else:
        what = (
            f"task '{atom.name}' answered with a Delay inside another value, or with one of"
            " another attempt: return (or raise) the Delay itself, from the attempt that made it"
        )
    return host.Failure.from_exception(errors.DelayMisuse(what, task_name=atom.name))
