# SPDX-License-Identifier: Apache-2.0
"""The conductor type ``lazy``: answers doorbells.

A consumed job means "ran as far as it could", not "the flow has ended": the
events ``flow_parked`` and ``flow_ended`` tell the two apart, and
``Client.flow`` and ``Client.wait`` tell how a flow stands.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, Final

import taskflow.engines
from taskflow import exceptions as taskflow_exceptions
from taskflow import states
from taskflow.conductors.backends import impl_executor
from taskflow.jobs import base as jobs_base
from taskflow.persistence import models
from taskflow.types import entity

from lazy_engine import board, doorbell, errors, factory, ledger, report, rules
from lazy_engine.claim import ABANDON, CONSUME, COOL, KEEP, Claims
from lazy_engine.client import Client
from lazy_engine.delay import DELAYED
from lazy_engine.watchdog import Watchdog

LOG = logging.getLogger(__name__)

#: How long a job whose flow is busy, or whose store failed, is left alone.
_FIRST_COOL_SECONDS: Final = 0.25
_LAST_COOL_SECONDS: Final = 30.0
#: The same for a job that leads to no flow that could be run or found again.
_LAST_KEEP_SECONDS: Final = 3600.0
#: How often a board is read that does not tell of new jobs.
_READ_SECONDS: Final = 0.5
#: How often a conductor that is to stop frees what waits for a server that is away.
_FREE_SECONDS: Final = 0.1


class _Unresolved(Exception):
    """A job that leads to no flow in this store."""


class LazyConductor(impl_executor.ExecutorConductor):  # type: ignore[misc]  # no types
    """Claims doorbells and runs their flows with the lazy engine.

    Woken by the board's own notifications. The board as a whole is read anew
    only at the start and after a lost connection; every *wait_timeout* seconds
    the jobs that are known to be on it are looked through. A board that tells
    of nothing by itself (Redis, etcd) is read twice a second.

    Goes on while the board's server is away, and is registered with it again
    when it is back; jobs that could not be given up meanwhile are given up then.

    :param name: shown as the owner of what it claims; each claim adds a part
        of its own, since TaskFlow's boards know owners by name alone.
    :param jobboard: a TaskFlow job board.
    :param persistence: where the flow details are.
    :param engine: the engine type, ``"lazy"`` unless said otherwise.
    :param engine_options: options for that engine.
    :param wait_timeout: seconds between two looks at jobs others have claimed.
    :param log: where to write warnings instead of this module's logger.
    :param max_simultaneous_jobs: how many flows run at the same time.
    :param watchdog: also see to deadlines, lost doorbells and dead owners.
    :param executor_factory: makes the executor that runs them.
    """

    MAX_SIMULTANEOUS_JOBS = max(2, min(32, (os.cpu_count() or 1) * 2))
    WAIT_TIMEOUT = 1.0
    EVENTS_EMITTED = (
        *impl_executor.ExecutorConductor.EVENTS_EMITTED,
        "job_trashed",
        "flow_parked",
        "flow_ended",
    )

    def __init__(
        self,
        name: str,
        jobboard: Any,
        persistence: Any = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        wait_timeout: float | None = None,
        log: Any = None,
        max_simultaneous_jobs: int = MAX_SIMULTANEOUS_JOBS,
        executor_factory: Callable[[Any], Any] | None = None,
        watchdog: bool = True,
    ) -> None:
        if executor_factory is not None and not callable(executor_factory):
            raise ValueError("executor_factory must be callable")
        super().__init__(
            name,
            jobboard,
            persistence=persistence,
            engine=engine or "lazy",
            engine_options={"busy_wait_seconds": 0, **(engine_options or {})},
            wait_timeout=wait_timeout,
            log=log,
            max_simultaneous_jobs=max_simultaneous_jobs,
        )
        self._watches = watchdog
        self._make_executor = executor_factory or self._thread_pool
        self._label = f"{name}@{socket.gethostname()}:{os.getpid()}"
        self._rings: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._has_ended = threading.Event()
        self._has_ended.set()
        self._cooling: dict[str, tuple[float, float]] = {}
        self._board = board.of(jobboard)
        self._claims = Claims(self._board, self._label)
        self._is_news = threading.Event()
        self._has_read = False
        self._seems_deaf = False
        self._room = threading.Condition()
        self._running = 0

    @property
    def at_work(self) -> int:
        """How many flows it runs now."""
        return self._running

    # -- TaskFlow's interface ---------------------------------------------

    @property
    def conductor(self) -> Any:
        """What the board lists this conductor as."""
        details = {"hostname": socket.gethostname(), "pid": os.getpid()}
        return entity.Entity(self.ENTITY_KIND, self._label, details)

    def connect(self) -> None:
        """Connect the job board, if it is not connected.

        :raises taskflow.exceptions.JobFailure: its server does not answer, or
            refuses to tell its version.
        """
        if not self._jobboard.connected:
            doorbell.connect(self._board)

    def stop(self) -> None:
        """Stop claiming; flows at work are suspended, and their jobs given back."""
        super().stop()
        self._stopping.set()
        self._rings.put(None)
        if not self._has_ended.is_set():
            threading.Thread(target=self._free, name=f"{self._label} stops", daemon=True).start()

    def _free(self) -> None:
        """Let no thread of this conductor wait for a server that is away, until it has ended."""
        while not self._has_ended.wait(_FREE_SECONDS):
            self._board.fail_held_calls()

    def run(self, max_dispatches: int | None = None) -> None:
        """Answer doorbells until stopped.

        :param max_dispatches: return after that many (``None``: no limit).
        :raises taskflow.exceptions.JobFailure: the job board was never connected.
        """
        if self._board.is_closed:
            raise taskflow_exceptions.JobFailure(
                f"job board '{self._board.name}' is not connected: call connect() first"
            )
        self._board.prepare()
        self._dead.clear()
        self._stopping.clear()
        self._has_ended.clear()
        if self._wait_timeout.is_stopped():
            self._stopping.set()
        with contextlib.ExitStack() as stack:
            stack.callback(self._dead.set)
            stack.callback(self._has_ended.set)
            if self._board.notifies:
                notifier = self._jobboard.notifier
                notifier.register(jobs_base.POSTED, self._on_posted)
                stack.callback(notifier.deregister, jobs_base.POSTED, self._on_posted)
            self._is_news.set()
            stack.callback(self._board.watch_connection(self._on_connection))
            stack.enter_context(self._claims.renewed())
            if self._watches:
                stack.enter_context(Watchdog(Client(self._persistence, self._jobboard)))
            with self._make_executor(self) as executor:
                self._answer(executor, max_dispatches)
            if self._claims.has_unsettled and self._board.is_connected:
                self._settle()

    def _on_connection(self) -> None:
        self._is_news.set()
        self._rings.put(None)

    def _on_posted(self, _event: str, details: Mapping[str, Any]) -> None:
        self._rings.put(details["job"])

    # -- answering --------------------------------------------------------

    def _answer(self, executor: Any, max_dispatches: int | None) -> None:
        left = itertools.count() if max_dispatches is None or max_dispatches < 0 else None
        budget = max_dispatches if left is None else None
        for job in self._jobs():
            if budget is not None and budget <= 0:
                return
            if not self._await_room():
                return
            if self._board.is_connected and self._claims.take(job):
                with self._room:
                    self._running += 1
                future = executor.submit(self._dispatch_job, job)
                future.add_done_callback(lambda done, job=job: self._finish(job, done))
                if budget is not None:
                    budget -= 1
                    if budget <= 0:
                        return

    def _jobs(self) -> Iterator[Any]:
        """Yield jobs that may be claimable, until stopped."""
        next_look = 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= next_look or self._is_news.is_set():
                yield from self._look_through()
                next_look = time.monotonic() + self._look_seconds()
            try:
                job = self._rings.get(timeout=max(0.0, next_look - time.monotonic()))
            except queue.Empty:
                continue
            if job is not None and not self._is_cooling(job):
                yield job

    def _look_through(self) -> Iterator[Any]:
        """Yield the unclaimed jobs on the board."""
        if not self._board.is_connected:
            # Kazoo would hold calls back until its server is there again, and
            # nobody could stop this conductor until then.
            self._is_news.clear()
            self._has_read = False
            return
        cooled = list(self._cooling)
        seen = set()
        self._has_read = self._has_read and not self._is_news.is_set()
        self._is_news.clear()
        try:
            if not self._has_read:
                self._board.register(self.conductor)
            if self._claims.has_unsettled:
                self._settle()
            self._mend_hearing()
            # Of what was posted while the connection was lost TaskFlow's board
            # may never hear, and after a lost session it knows of no job at all.
            for job in self._board.unclaimed_jobs(ensure_fresh=not self._has_read):
                if self._stopping.is_set():
                    return
                seen.add(job.uuid)
                if not self._is_cooling(job):
                    yield job
        except taskflow_exceptions.JobFailure:
            # Its server may be restarting; the next look finds out.
            self._log.warning("the job board could not be read", exc_info=True)
            self._has_read = False
            return
        self._has_read = True
        for uuid in set(cooled) - seen:  # somebody else has them, or has done with them
            self._cooling.pop(uuid, None)

    def _mend_hearing(self) -> None:
        """Have the board listen again if it was deaf at two looks in a row."""
        has_seemed_deaf = self._seems_deaf
        self._seems_deaf = not self._board.hears_of_jobs()
        if self._seems_deaf and has_seemed_deaf:
            self._log.warning("the job board heard of no new job; it listens again")
            self._board.listen_for_jobs()

    def _look_seconds(self) -> float:
        if self._cooling:
            now = time.monotonic()
            ahead = [until - now for until, _ in list(self._cooling.values()) if until > now]
            return max(0.01, min([self._timeout_seconds, *ahead]))
        return self._timeout_seconds

    @property
    def _timeout_seconds(self) -> float:
        seconds = float(self._wait_timeout.value)
        return seconds if self._board.notifies else min(seconds, _READ_SECONDS)

    def _await_room(self) -> bool:
        """Wait until another flow may be run; false once stopped."""
        with self._room:
            while 0 < self._max_simultaneous_jobs <= self._running:
                if self._stopping.is_set():
                    return False
                self._room.wait(0.1)
        return not self._stopping.is_set()

    # -- running ----------------------------------------------------------

    def _dispatch_job(self, job: Any) -> str:
        """Run a claimed job's flow; return what is to become of the job."""
        try:
            detail = self._detail_of(job)
            engine = self._engine_of(job, detail)
        except errors.StoreUnavailable:
            self._log.warning("job %s: the store failed", job, exc_info=True)
            return COOL
        except errors.FlowIncident as error:
            return self._fate_of_incident(job, error)
        except _Unresolved as error:
            self._log.warning("job %s is left on the board: %s", job, error)
            return KEEP
        with contextlib.ExitStack() as stack:
            for listener in self._listeners_from_job(job, engine):
                stack.enter_context(listener)
            return self._run(job, engine)

    def _run(self, job: Any, engine: Any) -> str:
        details = {"job": job, "engine": engine, "conductor": self}
        event = ""
        try:
            for stage, event in (
                (engine.compile, "compilation"),
                (engine.prepare, "preparation"),
                (engine.validate, "validation"),
                (lambda: self._drive(engine), "running"),
            ):
                self._notifier.notify(f"{event}_start", details)
                stage()
                self._notifier.notify(f"{event}_end", details)
        except (errors.FlowBusy, errors.Fenced) as error:
            self._log.info("job %s: %s", job, error)
            return COOL
        except errors.FlowIncident as error:
            return self._fate_of_incident(job, error)
        except errors.FlowSuspended as error:
            self._log.info("job %s: %s", job, error)
            return CONSUME
        except taskflow_exceptions.StorageFailure:
            self._log.warning("job %s: the store failed", job, exc_info=True)
            return COOL
        except errors.FlowCancelled as error:
            self._log.info("job %s: %s", job, error)
        except Exception as error:
            self._log.warning("job %s: its flow failed: %s", job, error)
            if event != "running":
                return KEEP  # nobody has ever run it, so only the job knows of it
        return self._fate(job, engine, details)

    def _fate_of_incident(self, job: Any, error: errors.FlowIncident) -> str:
        """Give the job away only if the flow can be found again without it."""
        self._log.warning("job %s: %s", job, error)
        return CONSUME if error.is_recorded or self._is_over(error.flow_uuid) else KEEP

    def _is_over(self, flow_uuid: str | None) -> bool:
        record = ledger.beside(self._persistence).flow(flow_uuid) if flow_uuid else None
        return record is not None and rules.is_over(record)

    def _drive(self, engine: Any) -> None:
        has_suspended = False
        for _state in engine.run_iter():
            if self._stopping.is_set() and not has_suspended:
                self._log.info("stopping: suspending flow %s", engine.storage.flow_uuid)
                engine.suspend()
                has_suspended = True

    def _fate(self, job: Any, engine: Any, details: Mapping[str, Any]) -> str:
        state = engine.storage.get_flow_state()
        if state == states.SUSPENDED and self._stopping.is_set():
            return ABANDON
        known = {**details, "flow_uuid": engine.storage.flow_uuid, "state": state}
        if state == DELAYED:
            self._notifier.notify("flow_parked", known)
        elif state in (states.SUCCESS, states.FAILURE, states.REVERTED):
            self._notifier.notify("flow_ended", known)
        elif state != states.SUSPENDED:
            # Something outside the flow ended its run in the middle; whatever
            # it was, somebody has to run the flow on.
            return KEEP
        return CONSUME

    def _detail_of(self, job: Any) -> models.FlowDetail:
        """Load the one flow that a job is about, and not its whole logbook."""
        flow_uuid = (job.details or {}).get("flow_uuid")
        if flow_uuid is None:
            try:
                return self._flow_detail_from_job(job)
            except taskflow_exceptions.StorageFailure as error:
                raise errors.StoreUnavailable(str(error), error) from error
            except taskflow_exceptions.TaskFlowException as error:
                raise _Unresolved(f"it names no flow: {error}") from error
        store = ledger.beside(self._persistence)
        try:
            found = store.detail(flow_uuid)
        except errors.FlowIncident as error:
            raise report.write(store, flow_uuid, error.kind, str(error), error) from error
        if found is None:
            raise _Unresolved(
                f"flow {flow_uuid} is not in this store: is it in another one, or was it purged?"
            )
        return found

    def _engine_of(self, job: Any, detail: models.FlowDetail) -> Any:
        store = dict((detail.meta or {}).get("store") or {})
        store.update((job.details or {}).get("store") or {})
        # Later doorbells of the flow look like the job that first brought it.
        origin = {"job_name": job.name, "job_priority": job.priority.value}
        return taskflow.engines.load(
            factory.make_stored(detail, ledger.beside(self._persistence), origin),
            flow_detail=detail,
            store=store,
            engine=self._engine,
            backend=self._persistence,
            **{**self._engine_options, **origin},
        )

    # -- finishing --------------------------------------------------------

    def _finish(self, job: Any, done: futures.Future[str]) -> None:
        try:
            fate = done.result()
        except BaseException:
            # The thread pool must live; the job goes back for another try.
            self._log.exception("running job %s failed", job)
            fate = COOL
        if fate in (COOL, KEEP):
            self._cool(job, _LAST_COOL_SECONDS if fate == COOL else _LAST_KEEP_SECONDS)
        else:
            self._cooling.pop(job.uuid, None)
        try:
            if self._claims.give_up(job, fate):
                self._tell_given_up(job, fate)
        finally:
            with self._room:
                self._running -= 1
                self._room.notify_all()

    def _settle(self) -> None:
        for job, fate in self._claims.settle():
            self._tell_given_up(job, fate)

    def _tell_given_up(self, job: Any, fate: str) -> None:
        details = {"job": job, "conductor": self, "persistence": self._persistence}
        self._notifier.notify("job_consumed" if fate == CONSUME else "job_abandoned", details)

    def _cool(self, job: Any, longest_seconds: float) -> None:
        _until, seconds = self._cooling.get(job.uuid, (0.0, _FIRST_COOL_SECONDS / 2))
        seconds = min(longest_seconds, seconds * 2)
        self._cooling[job.uuid] = (time.monotonic() + seconds, seconds)
        self._rings.put(None)  # look again in time

    def _is_cooling(self, job: Any) -> bool:
        until, _seconds = self._cooling.get(job.uuid, (0.0, 0.0))
        return time.monotonic() < until

    def _thread_pool(self, _conductor: Any) -> futures.Executor:
        limit = self._max_simultaneous_jobs
        return futures.ThreadPoolExecutor(
            max_workers=limit if limit > 0 else self.MAX_SIMULTANEOUS_JOBS
        )
