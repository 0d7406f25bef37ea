# SPDX-License-Identifier: Apache-2.0
"""The conductor as TaskFlow sees it: begins, claims jobs, has them run, and stops."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions
from taskflow.conductors.backends import impl_executor
from taskflow.types import entity

from lazy_engine import board, doorbell
from lazy_engine.claim import CONSUME, COOL, KEEP, Claims
from lazy_engine.client import Client
from lazy_engine.conductor.cooling import LAST_COOL_SECONDS, LAST_KEEP_SECONDS, Cooling
from lazy_engine.conductor.round import Round
from lazy_engine.conductor.runner import Runner
from lazy_engine.shelf import KEEP_ATOMS, KEEP_ENGINES, Shelf
from lazy_engine.watchdog import Watchdog

LOG = logging.getLogger(__name__)

#: How often a conductor that is to stop frees what waits for a server that is away.
_FREE_SECONDS: Final = 0.1


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
    :param keep_engines: of how many parked flows the engines are kept in memory. One is
        used again only if nobody else ran its flow since; 0 keeps none.
    :param keep_atoms: how many atoms these flows have at most, all together. A
        flow with more is never kept.
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
        keep_engines: int = KEEP_ENGINES,
        keep_atoms: int = KEEP_ATOMS,
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
        # Conductors of one name in one process share the board's jobs too.
        nonce = secrets.token_hex(2)
        self._label = f"{name}@{socket.gethostname()}:{os.getpid()}.{nonce}"
        self._has_ended = threading.Event()
        self._has_ended.set()
        self._board = board.of(jobboard)
        self._claims = Claims(self._board, self._label)
        self._cooling = Cooling()
        self._round = Round(
            self._board,
            self._claims,
            self._cooling,
            entity=lambda: self.conductor,
            wait_seconds=lambda: float(self._wait_timeout.value),
            settle=self._settle,
            log=self._log,
        )
        self._shelf = Shelf(keep_engines, keep_atoms)
        self._runner = Runner(
            self,
            persistence,
            engine_type=self._engine,
            engine_options=self._engine_options,
            shelf=self._shelf,
            notify=self._notifier.notify,
            flow_detail_of=lambda job: self._flow_detail_from_job(job),
            listeners_of=lambda job, engine: self._listeners_from_job(job, engine),
            is_stopping=lambda: self._round.is_stopping,
            log=self._log,
        )
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
        self._round.stop()
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
        self._has_ended.clear()
        self._round.begin(is_stopped=self._wait_timeout.is_stopped())
        with contextlib.ExitStack() as stack:
            stack.callback(self._dead.set)
            stack.callback(self._has_ended.set)
            stack.callback(self._shelf.clear)
            ring, look_anew = self._round.ring, self._round.look_anew
            stack.callback(self._board.attend(self._label, ring, look_anew))
            stack.callback(self._board.watch_connection(look_anew))
            stack.enter_context(self._claims.renewed())
            if self._watches:
                stack.enter_context(Watchdog(Client(self._persistence, self._jobboard)))
            with self._make_executor(self) as executor:
                self._answer(executor, max_dispatches)
            if self._board.is_connected:
                self._leave()

    def _leave(self) -> None:
        """Give up what could not be given up before, and let others answer first from now on."""
        if self._claims.has_unsettled:
            self._settle()
        try:
            self._board.unregister(self.conductor)
        except taskflow_exceptions.JobFailure:
            self._log.warning("this conductor is still on the list", exc_info=True)

    # -- answering --------------------------------------------------------

    def _answer(self, executor: Any, max_dispatches: int | None) -> None:
        is_limited = max_dispatches is not None and max_dispatches >= 0
        left = max_dispatches or 0
        for job in self._round.jobs():
            if (is_limited and left <= 0) or not self._await_room():
                return
            # It may have been claimed while there was no room for it.
            if not (self._board.is_connected and self._board.is_turn(job)):
                continue
            if self._claims.take(job):
                with self._room:
                    self._running += 1
                future = executor.submit(self._dispatch_job, job)
                future.add_done_callback(lambda done, job=job: self._finish(job, done))
                left -= 1
                if is_limited and left <= 0:
                    return

    def _await_room(self) -> bool:
        """Wait until another flow may be run; false once stopped."""
        with self._room:
            while 0 < self._max_simultaneous_jobs <= self._running:
                if self._round.is_stopping:
                    return False
                self._room.wait(0.1)
        return not self._round.is_stopping

    def _dispatch_job(self, job: Any) -> str:
        """Run a claimed job's flow; return what is to become of the job."""
        return self._runner.run(job)

    # -- finishing --------------------------------------------------------

    def _finish(self, job: Any, done: futures.Future[str]) -> None:
        try:
            fate = done.result()
        except BaseException:
            # The thread pool must live; the job goes back for another try.
            self._log.exception("running job %s failed", job)
            fate = COOL
        if fate in (COOL, KEEP):
            self._cooling.add(job, LAST_COOL_SECONDS if fate == COOL else LAST_KEEP_SECONDS)
            self._round.look_in_time()
        else:
            self._cooling.forget([job.uuid])
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

    def _thread_pool(self, _conductor: object) -> futures.Executor:
        limit = self._max_simultaneous_jobs
        return futures.ThreadPoolExecutor(
            max_workers=limit if limit > 0 else self.MAX_SIMULTANEOUS_JOBS
        )
