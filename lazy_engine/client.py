# SPDX-License-Identifier: Apache-2.0
"""The client: what everybody outside the engine uses."""

from __future__ import annotations

import datetime
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions
from taskflow import states
from taskflow.persistence import models

from lazy_engine import (
    doorbell,
    errors,
    host,
    outcome,
    report,
    rules,
    view,
)
from lazy_engine import factory as factory_module
from lazy_engine.board import Board
from lazy_engine.compiler import least_size
from lazy_engine.delay import DELAYED
from lazy_engine.delivery import Delivery
from lazy_engine.engine import LazyEngine
from lazy_engine.inspection import Inspection, micros
from lazy_engine.ledger import record as r
from lazy_engine.ledger.protocol import Outdated
from lazy_engine.observer import META_TRACE
from lazy_engine.shelf import KEEP_ATOMS, Shelf

LOG = logging.getLogger(__name__)

#: How many flows a sweep asks for at once, and how often in a round: after a
#: day without a watchdog, other rounds (and other watchdogs) do the rest.
_SWEEP_PAGE: Final = 200
_SWEEP_PAGES: Final = 25


class Client(Delivery, Inspection):
    """Submits flows, delivers outcomes, and looks at what waits.

    Safe to share between threads. Holds no state of its own but for kept engines.

    :param persistence: a TaskFlow persistence backend, or the configuration of
        one (its tables are then made if need be). For an engine that was
        loaded without a backend use ``engine.storage.backend``.
    :param jobboard: a connected TaskFlow job board; without one nobody is
        woken, and :meth:`resume` is for the caller to call.
    :param keep_engines: of how many flows that parked in :meth:`resume` or
        :meth:`run_on` the engines are kept in memory; 0 keeps none. One is used
        again only if nobody else ran its flow since, and is then as its code was
        when it was loaded. Without a job board as many flows that were submitted are kept
        for their first run.
    :raises UnsupportedBackend: no ledger can be kept there.
    :raises StoreUnavailable: the store cannot be reached.
    """

    def __init__(self, persistence: Any, jobboard: Any = None, *, keep_engines: int = 0) -> None:
        super().__init__(persistence, jobboard)
        self._shelf = Shelf(keep_engines, KEEP_ATOMS)
        #: What :meth:`submit` has made, for whoever runs it right away: one at least, since
        #: that is how passive users begin their flows.
        self._made = Shelf(max(1, keep_engines), KEEP_ATOMS)

    # -- submitting -------------------------------------------------------

    def submit(
        self,
        factory: str | Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        store: Mapping[str, Any] | None = None,
        flow_uuid: str | None = None,
    ) -> str:
        """Store a flow, and with a job board ask for it to be run.

        :param factory: a function that makes the flow, or its import path.
        :param args: its positional arguments, strict JSON.
        :param kwargs: its keyword arguments, strict JSON.
        :param store: values the flow's tasks need, strict JSON.
        :param flow_uuid: the same one twice is the same flow: safe to repeat.
        :returns: the flow's uuid.
        :raises ImportError: the factory cannot be imported by its name.
        :raises ValueError: it has none, or makes no flow.
        :raises OutcomeNotStorable: arguments or values are not strict JSON.
        :raises taskflow.exceptions.JobFailure: the flow is stored, but the job
            board did not take the doorbell; the message names its uuid.
        """
        given = {"args": list(args), "kwargs": dict(kwargs or {}), "store": dict(store or {})}
        for name, value in given.items():
            outcome.canonical_json(value, what=name)
        detail = models.FlowDetail("", flow_uuid or str(uuid.uuid4()))
        flow = factory_module.remember(detail, factory, list(args), dict(kwargs or {}))
        named = models.FlowDetail(str(flow.name), detail.uuid)
        named.meta = {**detail.meta, **({"store": given["store"]} if given["store"] else {})}
        if traceparent := self._ledger.observer.traceparent():
            named.meta[META_TRACE] = traceparent
        record, is_new = self._ledger.submit(
            r.Submission(
                detail=named,
                book=models.LogBook(named.name),
                key_id=self._ledger.signing_key().key_id,
                is_rung=self._board is not None,
            )
        )
        if self._board is None and is_new:
            # Whoever takes the lease reads the details anew if this is not so any more.
            host.note_known(named, record.version)
            self._made.put(record.flow_uuid, (flow, named), least_size(flow))
        if self._board is not None and (is_new or record.state == states.PENDING):
            # Posted again for a flow that nobody has begun: the first poster
            # may have died in between, and a second doorbell does no harm.
            self._ring_first(self._board, record)
        return str(named.uuid)

    def _ring_first(self, board: Board, record: r.FlowRecord) -> None:
        try:
            doorbell.ring(board, record, self._ledger)
        except taskflow_exceptions.TaskFlowException as error:
            doorbell.unring(record.flow_uuid, self._ledger)
            raise taskflow_exceptions.JobFailure(
                f"flow {record.flow_uuid} is stored, but nobody was asked to run it: {error};"
                " submit it again with this flow_uuid once the job board is there",
                error,
            ) from error

    # -- running, suspending, purging -------------------------------------

    def resume(self, flow_uuid: str, flow: Any = None) -> str:
        """Run a flow on, here and now, in this thread.

        Also ends a suspension and clears an incident.

        :param flow: the flow itself, for one without a factory.
        :returns: the state it ends in, or ``"RUNNING"`` if somebody else has it.
            A flow whose tasks failed returns ``"REVERTED"`` or ``"FAILURE"``.
        :raises UnknownFlow: no such flow.
        :raises FlowIncident: its code cannot be loaded or does not fit.
        """
        return self._run(flow_uuid, flow, ends_suspension=True)

    def run_on(self, flow_uuid: str) -> str:
        """Run a flow on as a conductor does: for a doorbell, and not for a person.

        As :meth:`resume`, but a flow that was suspended goes on resting, and one whose code
        raises ``SystemExit``, or the like, does not end the thread that runs it (unless that is
        the main thread): it is an incident.

        :returns: as :meth:`resume` does; ``"SUSPENDED"`` if it rests.
        :raises UnknownFlow, FlowIncident: as :meth:`resume` does.
        """
        try:
            return self._run(flow_uuid, None, ends_suspension=False)
        except errors.FlowSuspended:
            return str(states.SUSPENDED)
        except BaseException as error:
            if not report.is_of_code(error):
                raise
            raise report.write_escaped(self._ledger, flow_uuid, error) from error

    def _run(self, flow_uuid: str, flow: Any, *, ends_suspension: bool) -> str:
        engine = self._shelf.take(flow_uuid) if flow is None else None
        if engine is not None:
            engine.insist()
            try:
                return self._run_engine(engine, keeps=True, ends_suspension=ends_suspension)
            except Outdated:
                LOG.debug("flow %s is loaded anew: it was run elsewhere", flow_uuid)
        made = self._made.take(flow_uuid) if flow is None else None
        if made is not None:
            engine = self._load(made[1], made[0])
            engine.insist()
            try:
                return self._run_engine(engine, keeps=True, ends_suspension=ends_suspension)
            except Outdated:
                LOG.debug("flow %s is made anew: it was run or submitted elsewhere", flow_uuid)
        keeps = flow is None
        detail = self._readable_detail(flow_uuid)
        if detail is None:
            raise view.unknown_flow(flow_uuid)
        engine = self._load(detail, flow)
        return self._run_engine(engine, keeps=keeps, ends_suspension=ends_suspension)

    def _run_engine(self, engine: Any, *, keeps: bool, ends_suspension: bool) -> str:
        flow_uuid = str(engine.storage.flow_uuid)
        if ends_suspension:
            engine.resume_suspended()
        try:
            state = str(engine.run())
        except errors.FlowBusy:
            return str(states.RUNNING)
        except (
            Outdated,
            errors.Fenced,
            errors.FlowIncident,
            errors.FlowSuspended,
            taskflow_exceptions.StorageFailure,
        ):
            raise
        except errors.FlowCancelled:
            return self._require(flow_uuid).state
        except Exception as error:
            # The failures of tasks are the flow's own affair, and recorded.
            return self._end_state(flow_uuid, error)
        if keeps and state == DELAYED:
            self._shelf.put(flow_uuid, engine, len(engine.storage.flow_detail))
        return state

    def _readable_detail(self, flow_uuid: str) -> models.FlowDetail | None:
        try:
            return self._ledger.detail(flow_uuid)
        except errors.FlowIncident as error:
            raise report.write(self._ledger, flow_uuid, error.kind, str(error), error) from error

    def _load(self, detail: models.FlowDetail, flow: Any) -> LazyEngine:
        if flow is None:
            flow = factory_module.make_stored(detail, self._ledger)
        # As TaskFlow's loader does, without its search for the engine's name.
        engine = LazyEngine(flow, detail, self.backend, {"busy_wait_seconds": 0})
        if store := (detail.meta or {}).get("store"):
            engine.storage.inject(store)
        return engine

    def _end_state(self, flow_uuid: str, error: Exception) -> str:
        record = self._require(flow_uuid)
        if not rules.is_over(record):
            raise error
        LOG.info("flow %s ended %s: %s", flow_uuid, record.state, error)
        return record.state

    def suspend(self, flow_uuid: str, reason: str | None = None) -> bool:
        """Ask a flow to rest until it is resumed.

        A running flow finishes the tasks at work first. Outcomes that arrive
        meanwhile are kept and wake nobody.

        :returns: false if the flow is over, or is being called off.
        :raises UnknownFlow: no such flow.
        """
        record = self._ledger.set_wish(flow_uuid, r.WISH_SUSPEND, reason)
        if record is None:
            raise view.unknown_flow(flow_uuid)
        return rules.is_suspended(record) and not rules.is_over(record)

    def wake(self, flow_uuid: str) -> bool:
        """End a flow's suspension, and ring for it whatever it waits for.

        For those who may not, or cannot, run it themselves (see :meth:`resume`).
        Safe to repeat: whoever got no answer asks again.

        :returns: whether a wake is under way. False without a job board, for a
            flow that is over, or that no conductor could make.
        :raises UnknownFlow: no such flow.
        """
        done = self._ledger.wake(flow_uuid, rings=self._board is not None)
        if done is None:
            raise view.unknown_flow(flow_uuid)
        return done.has_owner or (done.must_ring and self._ring(done.record))

    def cancel(self, flow_uuid: str, reason: str) -> bool:
        """Call a flow off: revert all it has done, past every retry controller.

        What waits in ``execute`` is closed at once; an outcome that was
        recorded before is absorbed and then reverted. The flow ends
        ``REVERTED``. If it runs, its owner turns round as soon as it hears of
        this; if it is parked, it is rung for. Without a job board,
        :meth:`resume` does the reverting.

        :param reason: for people; ``FlowView.wish_reason`` tells it.
        :returns: false if the flow was over, or cancelled, before.
        :raises UnknownFlow: no such flow.
        """
        done = self._ledger.cancel(flow_uuid, reason, rings=self._board is not None)
        if done is None:
            raise view.unknown_flow(flow_uuid)
        if done.must_ring:
            self._ring(done.record)
        return done.is_new

    def purge(
        self,
        *,
        finished_before_at: datetime.datetime,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Delete flows that ended before an instant; return how many.

        One flow after the other, each as a whole, the oldest first. It may be
        ended at any moment and called again. Tokens of flows that are gone are
        unknown from then on.

        :param finished_before_at: timezone-aware.
        :param progress: told after each hundred or so how many are gone. What it
            raises ends the purge and is raised here.
        :raises ValueError: it is not timezone-aware.
        """
        before = micros("finished_before_at", finished_before_at)
        return self._ledger.purge(before, progress)

    def sweep(self) -> list[str]:
        """Do one round of the watchdog: what is due, and nothing else.

        Delays whose time is up get their outcome; flows that want an owner
        (for an outcome that nobody has absorbed, a probe, an owner that died,
        a doorbell that was lost) get a doorbell if there is a job board. Any
        number of sweeps may run at once, in any number of processes.

        :returns: uuids of the flows that want to be resumed. Without a job
            board, that is for the caller to do.
        """
        return [flow_uuid for page in self.sweep_pages() for flow_uuid in page]

    def sweep_pages(self) -> Iterator[list[str]]:
        """Do one round of the watchdog, and tell after each page of flows; see :meth:`sweep`.

        So whoever resumes them need not wait for the whole round, which goes
        on for as long as more comes due.
        """
        seen: set[str] = set()
        in_trouble = 0
        for _ in range(_SWEEP_PAGES):
            # Flows that could not be seen to are still due, and stand before the others.
            due = self._ledger.due(_SWEEP_PAGE + in_trouble)
            page = [flow_uuid for flow_uuid in due if flow_uuid not in seen]
            if not page:
                return
            seen.update(page)
            wanting = []
            for flow_uuid in page:
                try:
                    if self._tend(flow_uuid):
                        wanting.append(flow_uuid)
                except errors.StoreUnavailable:
                    raise
                except Exception:
                    # One flow's trouble must not keep the others from being seen to.
                    LOG.exception("flow %s is due and cannot be seen to", flow_uuid)
                    in_trouble += 1
            yield wanting

    def _tend(self, flow_uuid: str) -> bool:
        """Do what is due for a flow; return whether it wants to be resumed."""
        tended = self._ledger.tend(flow_uuid, rings=self._board is not None)
        if tended is None:
            return False
        report.tell_fired(self._ledger, tended.fired)
        if tended.wants_owner and self._board is not None:
            self._ring(tended.record)
        return tended.wants_owner
