# SPDX-License-Identifier: Apache-2.0
"""How a conductor runs the flow of one job that it has claimed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import taskflow.engines
from taskflow import exceptions as taskflow_exceptions
from taskflow import states
from taskflow.persistence import models

from lazy_engine import errors, factory, ledger, report, rules
from lazy_engine.claim import ABANDON, CONSUME, COOL, KEEP
from lazy_engine.delay import DELAYED
from lazy_engine.engine import LazyEngine
from lazy_engine.ledger.protocol import Outdated
from lazy_engine.shelf import Shelf


class _Unresolved(Exception):
    """A job that leads to no flow in this store."""


class Runner:
    """Runs flows, one for each call and thread, and says what is to become of their jobs.

    :param conductor: told of in notifications.
    :param engine_type: the name of the engine's type, with its *engine_options*.
    :param shelf: engines of flows that parked.
    :param flow_detail_of: finds the flow of a job that names none.
    :param listeners_of: makes listeners, given a job and its engine.
    :param is_stopping: whether flows at work are to be suspended.
    """

    def __init__(
        self,
        conductor: Any,
        persistence: Any,
        *,
        engine_type: str,
        engine_options: Mapping[str, Any],
        shelf: Shelf,
        notify: Callable[[str, dict[str, Any]], None],
        flow_detail_of: Callable[[Any], models.FlowDetail],
        listeners_of: Callable[[Any, Any], Iterable[Any]],
        is_stopping: Callable[[], bool],
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._conductor = conductor
        self._persistence = persistence
        self._engine_type = engine_type
        self._engine_options = engine_options
        self._shelf = shelf
        self._notify = notify
        self._flow_detail_of = flow_detail_of
        self._listeners_of = listeners_of
        self._is_stopping = is_stopping
        self._log = log

    def run(self, job: Any) -> str:
        """Run a claimed job's flow; return what is to become of the job."""
        try:
            return self._run_latest(job)
        except BaseException as error:
            flow_uuid = _only_flow_of(job)
            if flow_uuid is None or not report.is_of_code(error):
                raise
            return self._fate_of_escaped(job, flow_uuid, error)

    def _run_latest(self, job: Any) -> str:
        """Run a flow with the engine that was kept of it, if nobody ran it since, or else with a new one."""
        flow_uuid = _only_flow_of(job)
        engine = self._shelf.take(flow_uuid) if flow_uuid is not None else None
        if engine is not None:
            engine.insist()
            try:
                return self._run_listened(job, engine)
            except Outdated:
                self._log.debug("flow %s is loaded anew: it was run elsewhere", flow_uuid)
        try:
            engine = self._engine_of(job, self._detail_of(job))
        except errors.StoreUnavailable:
            self._log.warning("job %s: the store failed", job, exc_info=True)
            return COOL
        except errors.FlowIncident as error:
            return self._fate_of_incident(job, error)
        except _Unresolved as error:
            self._log.warning("job %s is left on the board: %s", job, error)
            return KEEP
        return self._run_listened(job, engine)

    def _run_listened(self, job: Any, engine: Any) -> str:
        with contextlib.ExitStack() as stack:
            for listener in self._listeners_of(job, engine):
                stack.enter_context(listener)
            fate, has_parked = self._run(job, engine)
        flow_uuid = _only_flow_of(job)
        if has_parked and flow_uuid is not None and isinstance(engine, LazyEngine):
            # As if it were loaded anew: nobody listens to it any more.
            engine.notifier.reset()
            engine.atom_notifier.reset()
            self._shelf.put(flow_uuid, engine, len(engine.storage.flow_detail))
        return fate

    def _run(self, job: Any, engine: Any) -> tuple[str, bool]:
        """Return what is to become of the job, and whether the engine did all that it could."""
        details = {"job": job, "engine": engine, "conductor": self._conductor}
        event = ""
        try:
            for stage, event in (
                (engine.compile, "compilation"),
                (engine.prepare, "preparation"),
                (engine.validate, "validation"),
                (lambda: self._drive(engine), "running"),
            ):
                self._notify(f"{event}_start", details)
                stage()
                self._notify(f"{event}_end", details)
        except Outdated:
            raise
        except (errors.FlowBusy, errors.Fenced) as error:
            self._log.info("job %s: %s", job, error)
            return COOL, False
        except errors.FlowIncident as error:
            return self._fate_of_incident(job, error), False
        except errors.FlowSuspended as error:
            self._log.info("job %s: %s", job, error)
            return CONSUME, False
        except taskflow_exceptions.StorageFailure:
            self._log.warning("job %s: the store failed", job, exc_info=True)
            return COOL, False
        except errors.FlowCancelled as error:
            self._log.info("job %s: %s", job, error)
        except Exception as error:
            # What a task raised, as it is; the flow has it, and is as much at an end.
            self._log.warning("job %s: its flow failed: %s", job, error)
            if event != "running":
                return KEEP, False  # nobody has ever run it, so only the job knows of it
        else:
            return self._fate(job, engine, details), engine.storage.get_flow_state() == DELAYED
        return self._fate(job, engine, details), False

    def _fate_of_incident(self, job: Any, error: errors.FlowIncident) -> str:
        """Give the job away only if the flow can be found again without it."""
        self._log.warning("job %s: %s", job, error)
        return CONSUME if error.is_recorded or self._is_over(error.flow_uuid) else KEEP

    def _fate_of_escaped(self, job: Any, flow_uuid: str, error: BaseException) -> str:
        try:
            found = report.write_escaped(ledger.beside(self._persistence), flow_uuid, error)
        except errors.StoreUnavailable:
            self._log.warning("job %s: the store failed", job, exc_info=True)
            return COOL
        return self._fate_of_incident(job, found)

    def _is_over(self, flow_uuid: str | None) -> bool:
        record = ledger.beside(self._persistence).flow(flow_uuid) if flow_uuid else None
        return record is not None and rules.is_over(record)

    def _drive(self, engine: Any) -> None:
        has_suspended = False
        for _state in engine.run_iter():
            if self._is_stopping() and not has_suspended:
                self._log.info("stopping: suspending flow %s", engine.storage.flow_uuid)
                engine.suspend()
                has_suspended = True

    def _fate(self, job: Any, engine: Any, details: Mapping[str, Any]) -> str:
        state = engine.storage.get_flow_state()
        if state == states.SUSPENDED and self._is_stopping():
            return ABANDON
        known = {**details, "flow_uuid": engine.storage.flow_uuid, "state": state}
        if state == DELAYED:
            self._notify("flow_parked", known)
        elif state in (states.SUCCESS, states.FAILURE, states.REVERTED):
            self._notify("flow_ended", known)
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
                return self._flow_detail_of(job)
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
            engine=self._engine_type,
            backend=self._persistence,
            **{**self._engine_options, **origin},
        )


def _only_flow_of(job: Any) -> str | None:
    """Return the flow of a job that carries nothing else: values to run it with may be others each time."""
    details = job.details or {}
    found: str | None = details.get("flow_uuid") if details.keys() == {"flow_uuid"} else None
    return found
