# SPDX-License-Identifier: Apache-2.0
"""The lazy engine: runs what can run, and parks what waits for outside."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Generator, Iterator
from typing import Any

import fasteners
from automaton import runners
from taskflow import exceptions as taskflow_exceptions
from taskflow import states

from lazy_engine import errors, garbage, host, incident, report, rules
from lazy_engine.compiler import least_size
from lazy_engine.delay import DELAYED
from lazy_engine.engine import ending, fit, machine, taking, transition
from lazy_engine.engine.option import Options
from lazy_engine.engine.outbox import Outbox
from lazy_engine.engine.ownership import Ownership
from lazy_engine.engine.runtime import LazyRuntime
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.ledger import record as r
from lazy_engine.observer import META_TRACE

LOG = logging.getLogger(__name__)


class LazyEngine(host.HostEngine):
    """Runs a flow until nothing can run; parks it if something waits for outside.

    Load one with ``taskflow.engines.load(flow, engine="lazy")``. It is used
    like TaskFlow's other engines, and :meth:`run` returns the state it ended in.

    **Options** (as keywords of ``load`` or in a ``lazy://?…`` URI), beside
    TaskFlow's ``defer_reverts``, ``never_resolve``, ``inject_transient`` and
    ``gather_statistics``:

    ``executor``
        ``serial`` (default), ``threads``, or a thread-based
        :class:`concurrent.futures.Executor`.
    ``max_workers``
        how many threads, with ``threads``.
    ``linger_seconds``
        stay awake that long for quick answers before parking (default 0).
    ``default_timeout_seconds``
        deadline of a ``Delay`` that names none (default 7 days; ``None``: no
        deadline).
    ``busy_wait_seconds``
        how long to wait for another owner to let go of the flow (default: half
        a lease).
    ``lease_seconds``
        after that long without a sign of life from the engine that owns a
        flow another one may take it (default 30).

    A name that is nearly one of these is refused with a ``ValueError``; any
    other is passed over, as in TaskFlow's engines.
    """

    NO_RERAISING_STATES = host.HostEngine.NO_RERAISING_STATES | {DELAYED}
    IGNORABLE_STATES = host.HostEngine.IGNORABLE_STATES | set(transition.META_STATES)

    def __init__(self, flow: Any, flow_detail: Any, backend: Any, options: Any) -> None:
        super().__init__(flow, flow_detail, backend, options)
        self._settings = Options.read(self.options)
        self.use_executor(self._settings.executor)
        self._wanted = taking.Wanted()
        self._is_validated = False

    # -- parts ------------------------------------------------------------

    @functools.cached_property
    def storage(self) -> LazyStorage:
        """Holds the flow's state; nothing reaches the store before the engine runs.

        :raises UnsupportedBackend: the backend cannot hold a ledger.
        """
        return LazyStorage(self.host_flow_detail, self.host_backend, self.scope_fetcher)

    def make_runtime(self, compilation: Any) -> LazyRuntime:
        """Return the runtime for a compiled flow."""
        task_executor, retry_executor = self.executors
        runtime = LazyRuntime(
            compilation,
            self.storage,
            Outbox(self.atom_notifier),
            task_executor,
            retry_executor,
            options=self.options,
        )
        self.storage.scopes = runtime.scopes
        return runtime

    @property
    def _size(self) -> int:
        """How many atoms the flow has; of a new one, how many at least."""
        return max(len(self.storage.flow_detail), least_size(self.host_flow))

    @property
    def _runtime_parts(self) -> LazyRuntime:
        parts: LazyRuntime = self.host_runtime
        return parts

    # -- getting ready ----------------------------------------------------

    def compile(self) -> None:
        """Compile the flow; see :meth:`validate` for what is raised."""
        with self._explained("has code that cannot be compiled"):
            super().compile()

    def prepare(self) -> None:
        """Make sure that every atom has a detail; see :meth:`validate` for what is raised."""
        with self._explained("has code that does not fit what is stored"):
            super().prepare()

    def validate(self) -> None:
        """Check that every value has a provider.

        :raises FlowIncident: something is wrong with the code of a flow that has
            a factory and is not over; it is recorded. For flows without one,
            TaskFlow's own errors are raised.
        """
        if self._wanted.insists and self._is_validated:
            return  # nothing has changed since it was last asked, or it is not run at all
        with self._explained("has code that cannot be run"):
            super().validate()
        self._is_validated = True

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn whatever keeps a known flow from being run into an incident."""
        try:
            with garbage.put_off(self._size):
                yield
        except (errors.LazyEngineError, taskflow_exceptions.StorageFailure):
            raise
        except Exception as error:
            found = report.write_first(
                self.storage.ledger,
                self.host_flow_detail,
                incident.CODE_BROKEN,
                incident.words(self.storage.flow_uuid, what, error),
                error,
                origin=self.options,
            )
            if found.is_recorded and "factory" in (self.storage.flow_meta or {}):
                raise found from error
            raise

    # -- running ----------------------------------------------------------

    def run(self, timeout: float | None = None) -> str:
        """Run the flow until it ends, is suspended, or waits for outside.

        :param timeout: seconds that one wait for running tasks lasts at most.
        :returns: ``"SUCCESS"``, ``"DELAYED"`` or ``"SUSPENDED"``.
        :raises FlowBusy: somebody else runs the flow.
        :raises FlowSuspended: it was suspended by request.
        :raises FlowCancelled: it was cancelled by request, and has been reverted.
        :raises FlowIncident: the flow's code does not fit what is stored.
        :raises Fenced: somebody else took the flow over meanwhile.
        :raises StoreUnavailable: the store failed; the flow can be run again.

        The failures of tasks are raised as TaskFlow's engines raise them.
        """
        with fasteners.try_lock(self.engine_lock) as was_locked:
            if not was_locked:
                raise taskflow_exceptions.ExecutionFailure(
                    "this engine is running already, in another thread"
                )
            for _state in self.run_iter(timeout=timeout):
                pass
        return str(self.storage.get_flow_state())

    def run_iter(self, timeout: float | None = None) -> Generator[str, Any, None]:
        """Run the flow state by state; see :meth:`run` for what is raised.

        Yields the states of the machine; the last one may be ``"DELAYED"``.
        Sending a true value asks for suspension. Closing the generator lets
        running tasks finish, writes down what they did, and gives the flow up.
        A generator left alone for longer than a lease loses the flow.
        """
        self.compile()
        self.prepare()
        self.validate()
        with garbage.put_off(self._size):
            owned = self._take()
        if isinstance(owned, r.FlowRecord):
            yield from self._report(owned)
            return
        try:
            owned.begin()
            yield from self._drive(owned, timeout)
        except errors.FlowIncident as error:
            if owned.has_ended:  # a task's own failure, about some other flow
                raise
            raise owned.give_up(error.kind, str(error), error) from error
        finally:
            self._wanted.is_rerun = owned.is_final
            owned.end()

    def _drive(self, owned: Ownership, timeout: float | None) -> Generator[str, Any, None]:
        task_executor, retry_executor = self.executors
        statistics = self.statistics
        statistics.clear()
        started = time.monotonic()
        driven = machine.Machine(
            self._runtime_parts,
            owned,
            statistics,
            timeout=timeout,
            linger_seconds=self._settings.linger_seconds,
            gathers_statistics=self.gathers_statistics,
        )
        with host.started(task_executor), host.started(retry_executor):
            try:
                self.change_state(states.RUNNING)
                yield from self._iterate(driven, owned)
            except (errors.LazyEngineError, taskflow_exceptions.StorageFailure):
                raise  # nothing was written, and nothing may be any more
            except Exception:
                if not owned.has_ended:
                    LOG.exception("flow %s: its engine was interrupted", self.storage.flow_uuid)
                    driven.abort()
                    self._conclude(states.FAILURE)
                raise
            finally:
                self._runtime_parts.notifier.discard()
                if self.gathers_statistics:
                    statistics["active_for"] = time.monotonic() - started

    def _iterate(self, driven: machine.Machine, owned: Ownership) -> Generator[str, Any, None]:
        is_closed = False
        state: Any = transition.UNDEFINED
        for _old, state in runners.FiniteRunner(driven.finite).run_iter(transition.START):
            if state in transition.META_STATES or is_closed or state == states.FAILURE:
                continue
            if state in transition.TERMINAL:
                self._conclude(state)
            try:
                owned.set_idle(True)
                if (yield state):
                    self.suspend()
            except GeneratorExit:
                is_closed = True
                if state not in transition.TERMINAL:
                    self.suspend()
            finally:
                owned.set_idle(False)
        if is_closed:
            self._conclude(state)
            return
        if state == states.FAILURE:
            self._conclude(state)
            host.Failure.reraise_if_any(driven.memory.failures)
        if state == states.REVERTED and owned.is_cancelled:
            flow_uuid = self.storage.flow_uuid
            ending.raise_cancelled(self.storage.ledger.flow(flow_uuid), flow_uuid)
        if state not in self.NO_RERAISING_STATES:
            ending.raise_failures(self.storage)

    def _conclude(self, state: str) -> None:
        """Note, in memory and to listeners, the end that has been committed."""
        if state == DELAYED:
            ending.warn_of_unwakeable(self.storage)
        self.change_state(state)
        self.storage.settle()

    def _report(self, record: r.FlowRecord) -> Generator[str, Any, None]:
        """Report the end of a flow that had ended before; write nothing."""
        fresh = self.storage.ledger.detail(record.flow_uuid)
        if fresh is not None:
            self.storage.start_over(fresh)
        LOG.info("flow %s has ended already: %s", record.flow_uuid, record.state)
        yield record.state
        if record.state == states.REVERTED and rules.is_cancelled(record):
            ending.raise_cancelled(record, record.flow_uuid)
        if record.state not in self.NO_RERAISING_STATES:
            ending.raise_failures(self.storage)

    # -- resetting and suspending -----------------------------------------

    def reset(self) -> None:
        """Make a flow that has ended runnable from its beginning.

        Takes effect when the engine runs.

        :raises taskflow.exceptions.InvalidState: the flow has not ended.
        """
        rules.moves(self.storage.get_flow_state(), states.PENDING)
        super().reset()
        self._wanted.resets = True

    def resume_suspended(self) -> None:
        """Let the next run go on with a flow that was suspended by request."""
        self._wanted.resumes = True

    def insist(self) -> None:
        """Let the next run be one of a flow that nobody has run since this engine parked it, or since it was submitted.

        That run raises ``lazy_engine.ledger.protocol.Outdated``, and takes and
        writes nothing, if somebody has.
        """
        self._wanted.insists = True

    # -- owning the flow --------------------------------------------------

    def _take(self) -> Ownership | r.FlowRecord:
        """Become the flow's owner; return its record instead if it has ended."""
        runtime = self._runtime_parts
        answer = taking.take(
            self.storage, runtime.shape, self._wanted, self._settings, self.options
        )
        if isinstance(answer, r.Refused):
            return answer.record
        self._wanted.insists = False
        watched = taking.watched_run(self.storage, answer)
        runtime.task_action.watched = watched
        owned = Ownership(
            self.storage,
            answer.lease,
            [record for record in answer.arrivals if record.opened_at is not None],
            answer.probing,
            answer.now,
            self._suspend_if_running,
            watched,
        )
        self._get_ready_or_give_up(answer, owned)
        return owned

    def _suspend_if_running(self) -> None:
        if self.storage.get_flow_state() == states.RUNNING:
            self.suspend()

    def _get_ready_or_give_up(self, taken: r.Taken, owned: Ownership) -> None:
        try:
            self._get_ready(taken)
        except errors.FlowIncident as error:
            raise owned.give_up(error.kind, str(error), error) from error
        except errors.InvalidToken as error:
            what = "was begun with a key that is not there any more"
            message = incident.words(self.storage.flow_uuid, what, error)
            raise owned.give_up(incident.KEY_GONE, message, error) from error
        except (errors.LazyEngineError, taskflow_exceptions.StorageFailure):
            owned.end()
            raise
        except Exception as error:
            what = "has code that does not fit what is stored"
            message = incident.words(self.storage.flow_uuid, what, error)
            raise owned.give_up(incident.CODE_BROKEN, message, error) from error
        except BaseException:
            owned.end()
            raise

    def _get_ready(self, taken: r.Taken) -> None:
        storage = self.storage
        runtime = self._runtime_parts
        report.tell_fired(storage.ledger, taken.fired)
        if taken.detail is not None:
            storage.start_over(taken.detail)
            self.ensure_atoms()
            storage.inject_again()
        is_rerun = storage.get_flow_state() == states.REVERTED
        starts_over = self._wanted.resets or is_rerun
        fit.ensure(storage, runtime.shape, starts_over=starts_over)
        if starts_over:
            if storage.get_flow_state() != states.PENDING:
                super().reset()
            self._wanted.resets = False
        self._wanted.resumes = False
        watched = runtime.task_action.watched
        if (
            watched is not None
            and watched.traceparent
            and META_TRACE not in (storage.flow_meta or {})
        ):
            storage.update_flow_metadata({META_TRACE: watched.traceparent})
        runtime.completer.is_cancelling = False
        runtime.task_action.default_timeout_seconds = self._settings.default_timeout_seconds
        runtime.task_action.signing_key = storage.ledger.signing_key(taken.lease.key_id)
        runtime.task_action.early = {
            record.key: (record, runtime.completer.result_of(record))
            for record in taken.arrivals
            if record.opened_at is None
        }
