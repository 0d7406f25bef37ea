# SPDX-License-Identifier: Apache-2.0
"""The client: what everybody outside the engine uses."""

from __future__ import annotations

import datetime
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import taskflow.engines
from taskflow import exceptions as taskflow_exceptions
from taskflow import states
from taskflow.persistence import backends, models
from taskflow.types import failure as taskflow_failure

from lazy_engine import (
    address,
    doorbell,
    errors,
    host,
    ledger,
    look,
    outcome,
    report,
    rules,
    shape,
    token,
    view,
)
from lazy_engine import factory as factory_module
from lazy_engine.delay import DELAYED, encode_details
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import stored_attempt
from lazy_engine.outcome import Failed, Result
from lazy_engine.receipt import Heartbeat, Receipt

LOG = logging.getLogger(__name__)

_FIRST_LOOK_SECONDS: Final = 0.02
_LAST_LOOK_SECONDS: Final = 0.5

#: How many flows a sweep asks for at once, and how often in a round: after a
#: day without a watchdog, other rounds (and other watchdogs) do the rest.
_SWEEP_PAGE: Final = 200
_SWEEP_PAGES: Final = 25


class Client:
    """Submits flows, delivers outcomes, and looks at what waits.

    Safe to share between threads. Holds no state of its own.

    :param persistence: a TaskFlow persistence backend, or the configuration of
        one (its tables are then made if need be). For an engine that was
        loaded without a backend use ``engine.storage.backend``.
    :param jobboard: a connected TaskFlow job board; without one nobody is
        woken, and :meth:`resume` is for the caller to call.
    :raises UnsupportedBackend: no ledger can be kept there.
    :raises StoreUnavailable: the store cannot be reached.
    """

    def __init__(self, persistence: Any, jobboard: Any = None) -> None:
        self.backend = open_backend(persistence)
        self._board = jobboard
        self._ledger = ledger.beside(self.backend)

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
        record, is_new = self._ledger.submit(
            r.Submission(
                detail=named,
                book=models.LogBook(named.name),
                key_id=self._ledger.signing_key().key_id,
                is_rung=self._board is not None,
            )
        )
        if self._board is not None and (is_new or record.state == states.PENDING):
            # Posted again for a flow that nobody has begun: the first poster
            # may have died in between, and a second doorbell does no harm.
            self._ring_first(record)
        return str(named.uuid)

    def _ring_first(self, record: r.FlowRecord) -> None:
        try:
            doorbell.ring(self._board, record, self._ledger)
        except taskflow_exceptions.TaskFlowException as error:
            self._ledger.unring(record.flow_uuid)
            raise taskflow_exceptions.JobFailure(
                f"flow {record.flow_uuid} is stored, but nobody was asked to run it: {error};"
                " submit it again with this flow_uuid once the job board is there",
                error,
            ) from error

    # -- delivering -------------------------------------------------------

    def complete(self, token: str, result: Any = None) -> Receipt:
        """Deliver a result.

        Durable before this returns, whatever the receipt says.

        :raises InvalidToken: malformed, forged, or of another deployment.
        :raises UnknownDelay: authentic, but the flow has been purged.
        :raises OutcomeTooLarge, OutcomeNotStorable: nothing was recorded.
        :raises StoreUnavailable: nothing is known to be recorded; try again,
            a second delivery of the same outcome does no harm.
        """
        return self._deliver_one(token, Result(result))

    def fail(
        self,
        token: str,
        error: str | BaseException | taskflow_failure.Failure,
        *,
        kind: str | None = None,
        details: Any = None,
    ) -> Receipt:
        """Deliver a failure; see :meth:`complete` for what is raised.

        :param kind: joins the failure's type names, so that a retry controller
            can ask for it.
        :param details: any strict JSON value.
        """
        return self._deliver_one(token, Failed.from_error(error, kind=kind, details=details))

    def deliver_many(
        self, items: Sequence[tuple[str, Result | Failed]]
    ) -> list[Receipt | errors.LazyEngineError]:
        """Deliver many outcomes; a bad item does not touch the others.

        Outcomes for one flow are recorded in one transaction and ring once.

        :returns: for each item, in order, its receipt or what was wrong with it.
        """
        answers: list[Receipt | errors.LazyEngineError | None] = [None] * len(items)
        by_flow: dict[str, list[tuple[int, r.Delivery]]] = {}
        for index, (text, value) in enumerate(items):
            try:
                delivery = self._delivery(text, value)
            except errors.LazyEngineError as error:
                answers[index] = error
            except TypeError as error:
                answers[index] = errors.OutcomeNotStorable(str(error))
            else:
                by_flow.setdefault(delivery.key.flow_uuid, []).append((index, delivery))
        for flow_uuid, numbered in by_flow.items():
            try:
                receipts = self._deliver(flow_uuid, [delivery for _, delivery in numbered])
            except errors.LazyEngineError as error:
                receipts = [error] * len(numbered)
            for (index, _), receipt in zip(numbered, receipts, strict=True):
                answers[index] = receipt
        return [answer for answer in answers if answer is not None]

    def heartbeat(
        self, token: str, *, progress: float | None = None, details: Any = None
    ) -> Heartbeat:
        """Say that the outside work goes on.

        :param progress: between 0 and 1; shown as the task's progress.
        :param details: strict JSON (at most 16 KiB) to go with the progress.
        :raises InvalidToken, UnknownDelay: as :meth:`complete` does.
        :raises ValueError: *progress* is not between 0 and 1.
        """
        if progress is not None and not 0 <= progress <= 1:
            raise ValueError(f"progress must be between 0 and 1, not {progress!r}")
        key = self._key(token)
        beat = self._ledger.heartbeat(key, progress=progress, details_text=encode_details(details))
        if beat is None:
            raise _unknown_delay(key.flow_uuid)
        return Heartbeat(cancelled=not beat.is_wanted)

    def _deliver_one(self, text: str, value: Result | Failed) -> Receipt:
        delivery = self._delivery(text, value)
        (receipt,) = self._deliver(delivery.key.flow_uuid, [delivery])
        if isinstance(receipt, errors.LazyEngineError):
            raise receipt
        return receipt

    def _delivery(self, text: str, value: Result | Failed) -> r.Delivery:
        key = self._key(text)
        try:
            encoded = self._ledger.encode(value)
        except (errors.OutcomeNotStorable, errors.OutcomeTooLarge) as error:
            message = f"outcome for flow {key.flow_uuid}, which still waits for one: {error}"
            raise type(error)(message, flow_uuid=key.flow_uuid) from None
        return r.Delivery(key=key, outcome=encoded, delivery_id=str(uuid.uuid4()))

    def _key(self, text: str) -> token.DelayKey:
        return token.verify(text, self._ledger.signing_key(token.key_id_of(text)))

    def _deliver(
        self, flow_uuid: str, deliveries: Sequence[r.Delivery]
    ) -> Sequence[Receipt | errors.LazyEngineError]:
        done = self._ledger.deliver(flow_uuid, deliveries, rings=self._board is not None)
        if done is None:
            return [_unknown_delay(flow_uuid)] * len(deliveries)
        woken = done.has_owner or done.is_rung
        if done.must_ring:
            woken = self._ring(done.record)
        return [
            Receipt(
                disposition=item.disposition,
                flow_uuid=flow_uuid,
                task_name=item.task_name,
                attempt=delivery.key.attempt,
                woken=woken,
            )
            for item, delivery in zip(done.items, deliveries, strict=True)
        ]

    def _ring(self, record: r.FlowRecord) -> bool:
        # The outcome is durable by now and the receipt will say so, whether
        # the doorbell gets through or not.
        try:
            doorbell.ring(self._board, record, self._ledger)
        except taskflow_exceptions.TaskFlowException as error:
            LOG.warning("no doorbell for flow %s: %s", record.flow_uuid, error)
            self._ledger.unring(record.flow_uuid)
            return False
        return True

    # -- looking ----------------------------------------------------------

    def token(self, flow_uuid: str, task_name: str) -> str:
        """Issue the token of a task's open delay again.

        :raises UnknownFlow: no such flow.
        :raises UnknownDelay: that task does not wait.
        """
        record = self._require(flow_uuid)
        for delay in self._ledger.delays_of(flow_uuid):
            if delay.task_name == task_name and delay.is_open:
                return token.sign(delay.key, self._ledger.signing_key(record.key_id))
        raise errors.UnknownDelay(
            f"task '{task_name}' of flow {flow_uuid} does not wait for an outcome",
            flow_uuid=flow_uuid,
            task_name=task_name,
        )

    def delays(
        self,
        *,
        flow_uuid: str | None = None,
        task_name: str | None = None,
        due_before_at: datetime.datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[view.OpenDelay]:
        """List what waits, oldest first.

        :param after: ``place`` of the last delay of the page before.
        :param limit: 1 to 1000.
        :param due_before_at: only those whose deadline is before that (timezone-aware).
        """
        if not 1 <= limit <= 1000:
            raise ValueError(f"limit must be between 1 and 1000, not {limit}")
        page = r.Page(
            flow_uuid=flow_uuid,
            task_name=task_name,
            due_before=_micros("due_before_at", due_before_at) if due_before_at else None,
            after=view.read_place(after) if after else None,
            limit=limit,
        )
        return [view.open_delay(record) for record in self._ledger.waiting(page)]

    def flow(self, flow_uuid: str) -> view.FlowView:
        """Return how a flow stands.

        :raises UnknownFlow: no such flow.
        """
        try:
            detail = self._ledger.detail(flow_uuid)
        except errors.FlowIncident as error:
            # Whoever looks wants to see that, and what can still be seen.
            LOG.warning("%s", error)
            detail = models.FlowDetail("", flow_uuid)
        if detail is None:
            raise view.unknown_flow(flow_uuid)
        record = self._ledger.flow(flow_uuid) or r.FlowRecord(
            flow_uuid=flow_uuid,
            flow_name=detail.name,
            state=detail.state or states.PENDING,
            has_factory="factory" in (detail.meta or {}),
        )
        atoms = [atom for atom in detail if atom.name != host.HostStorage.injector_name]
        return view.FlowView(
            uuid=flow_uuid,
            name=record.flow_name,
            state=self._lived_state(record),
            tasks={atom.name: atom.state for atom in atoms},
            atoms=[_task_view(atom) for atom in atoms],
            results={
                atom.name: atom.results
                for atom in atoms
                if atom.state == states.SUCCESS and isinstance(atom, models.TaskDetail)
            },
            delays=[view.open_delay(d) for d in self._ledger.delays_of(flow_uuid) if d.is_open],
            incident=view.incident(record.incident),
            has_factory=record.has_factory,
            owner=record.owner,
            is_cancelled=rules.is_cancelled(record),
            wish_reason=record.wish_reason,
            created_at=view.instant(record.created_at),
            changed_at=view.instant(record.changed_at),
            ended_at=view.instant(record.ended_at) if record.ended_at else None,
            drift=view.noted_drift(detail.meta),
        )

    def flows(
        self,
        *,
        state: str | None = None,
        incidents: bool = False,
        after: str | None = None,
        limit: int = 100,
    ) -> list[view.FlowSummary]:
        """List flows: those with incidents first, then the newest.

        :param state: only those in this state, as it is lived.
        :param incidents: only those with an incident.
        :param after: ``place`` of the last flow of the page before.
        :param limit: 1 to 1000.
        """
        if not 1 <= limit <= 1000:
            raise ValueError(f"limit must be between 1 and 1000, not {limit}")
        page = r.FlowPage(
            state=state,
            only_incidents=incidents,
            after=view.read_flow_place(after) if after else None,
            limit=limit,
        )
        now = self._ledger.now()
        return [view.flow_summary(record, now) for record in self._ledger.flows(page)]

    def drift(self, flow_uuid: str, flow: Any = None) -> shape.Drift:
        """Say how a flow's code has changed since it last ran; runs and writes nothing.

        Whether the next resume would go on is whether ``drift.harmful`` is empty.

        :param flow: the flow itself, for one without a factory.
        :raises UnknownFlow: no such flow.
        :raises FlowIncident: its code cannot be loaded or compiled.
        """
        return look.drift(self._ledger, flow_uuid, flow)

    def wait(self, flow_uuid: str, *, timeout_seconds: float | None = None) -> str:
        """Wait until a flow has ended; return its state, ended or not.

        :param timeout_seconds: how long at most.
        :raises UnknownFlow: no such flow.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause = _FIRST_LOOK_SECONDS
        while True:
            record = self._require(flow_uuid)
            left = None if end is None else end - time.monotonic()
            if rules.is_over(record) or (left is not None and left <= 0):
                return self._lived_state(record)
            time.sleep(pause if left is None else min(pause, left))
            pause = min(_LAST_LOOK_SECONDS, pause * 1.5)

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
        detail = self._readable_detail(flow_uuid)
        if detail is None:
            raise view.unknown_flow(flow_uuid)
        engine = self._load(detail, flow)
        engine.resume_suspended()
        try:
            return str(engine.run())
        except errors.FlowBusy:
            return str(states.RUNNING)
        except (errors.Fenced, errors.FlowIncident, taskflow_exceptions.StorageFailure):
            raise
        except errors.FlowCancelled:
            return self._require(flow_uuid).state
        except Exception as error:
            # The failures of tasks are the flow's own affair, and recorded.
            return self._end_state(flow_uuid, error)

    def _readable_detail(self, flow_uuid: str) -> models.FlowDetail | None:
        try:
            return self._ledger.detail(flow_uuid)
        except errors.FlowIncident as error:
            raise report.write(self._ledger, flow_uuid, error.kind, str(error), error) from error

    def _load(self, detail: models.FlowDetail, flow: Any) -> Any:
        options = {"engine": "lazy", "busy_wait_seconds": 0}
        if flow is None:
            flow = factory_module.make_stored(detail, self._ledger)
        store = (detail.meta or {}).get("store")
        return taskflow.engines.load(
            flow, flow_detail=detail, backend=self.backend, store=store, **options
        )

    def _end_state(self, flow_uuid: str, error: Exception) -> str:
        record = self._require(flow_uuid)
        if not rules.is_over(record):
            raise error
        LOG.info("flow %s ended %s: %s", flow_uuid, record.state, error)
        return record.state

    def suspend(self, flow_uuid: str, reason: str | None = None) -> None:
        """Ask a flow to rest until it is resumed.

        A running flow finishes the tasks at work first. Outcomes that arrive
        meanwhile are kept and wake nobody.

        :raises UnknownFlow: no such flow.
        """
        if self._ledger.set_wish(flow_uuid, r.WISH_SUSPEND, reason) is None:
            raise view.unknown_flow(flow_uuid)

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

    def purge(self, *, finished_before_at: datetime.datetime) -> int:
        """Delete flows that ended before an instant; return how many.

        :param finished_before_at: timezone-aware.
        :raises ValueError: it is not timezone-aware.
        """
        return self._ledger.purge(_micros("finished_before_at", finished_before_at))

    def sweep(self) -> list[str]:
        """Do one round of the watchdog: what is due, and nothing else.

        Delays whose time is up get their outcome; flows that want an owner
        (for an outcome that nobody has absorbed, a probe, an owner that died,
        a doorbell that was lost) get a doorbell if there is a job board. Any
        number of sweeps may run at once, in any number of processes.

        :returns: uuids of the flows that want to be resumed. Without a job
            board, that is for the caller to do.
        """
        wanting: list[str] = []
        seen: set[str] = set()
        for _ in range(_SWEEP_PAGES):
            page = [uuid for uuid in self._ledger.due(_SWEEP_PAGE) if uuid not in seen]
            seen.update(page)
            for flow_uuid in page:
                try:
                    if self._tend(flow_uuid):
                        wanting.append(flow_uuid)
                except errors.StoreUnavailable:
                    raise
                except Exception:
                    # One flow's trouble must not keep the others from being seen to.
                    LOG.exception("flow %s is due and cannot be seen to", flow_uuid)
            if not page:
                break
        return wanting

    def _tend(self, flow_uuid: str) -> bool:
        """Do what is due for a flow; return whether it wants to be resumed."""
        tended = self._ledger.tend(flow_uuid, rings=self._board is not None)
        if tended is None:
            return False
        for fired in tended.fired:
            if fired.is_alert:
                LOG.warning(
                    "task '%s' of flow %s is overdue and waits on",
                    fired.record.task_name,
                    flow_uuid,
                )
        if tended.wants_owner and self._board is not None:
            self._ring(tended.record)
        return tended.wants_owner

    # -- helpers ----------------------------------------------------------

    def _require(self, flow_uuid: str) -> r.FlowRecord:
        record = self._ledger.flow(flow_uuid)
        if record is None:
            raise view.unknown_flow(flow_uuid)
        return record

    def _lived_state(self, record: r.FlowRecord) -> str:
        if rules.is_over(record):
            return record.state
        return rules.lived_state(record, self._ledger.now())


def open_backend(persistence: Any) -> Any:
    """Return a persistence backend for itself or for its configuration.

    :raises UnsupportedBackend: a memory configuration, or none at all.
    :raises StoreUnavailable: the store cannot be reached.
    :raises ValueError: the address cannot be read.
    """
    if not isinstance(persistence, (dict, str)):
        if not hasattr(persistence, "get_connection"):
            raise errors.UnsupportedBackend(
                "persistence must be a TaskFlow persistence backend or its configuration,"
                f" not a {type(persistence).__name__}"
            )
        return persistence
    conf = address.configuration(persistence)
    connection = conf.get("connection")
    if not isinstance(connection, str) or not connection:
        raise errors.UnsupportedBackend(
            "a persistence configuration names its store under 'connection', for example"
            " {'connection': 'sqlite:////path/to/flows.db'}"
        )
    kind = connection.partition(":")[0]
    if kind == "memory":
        raise errors.UnsupportedBackend(
            "a memory configuration would make another, empty store: pass the backend"
            " object itself (for an engine without a backend, engine.storage.backend)"
        )
    try:
        backend = backends.fetch(conf)
    except taskflow_exceptions.NotFound as error:
        raise errors.UnsupportedBackend(
            f"there is no persistence backend {kind!r}: use sqlite:////path/to/flows.db,"
            " dir:///path/to/flows, postgresql+psycopg://user@host/database,"
            " mysql+pymysql://user@host/database or zookeeper://host:port/path"
        ) from error
    except ImportError as error:
        raise errors.UnsupportedBackend(
            f"the database driver for {kind!r} is not installed ({error}): install it, for"
            " example with lazy_engine[postgresql] or lazy_engine[mysql]"
        ) from error
    ledger.upgrade(backend)
    return backend


def _task_view(atom: models.AtomDetail) -> view.TaskView:
    failure = atom.failure or atom.revert_failure
    return view.TaskView(
        name=atom.name,
        state=atom.state or states.PENDING,
        intention=atom.intention or states.EXECUTE,
        is_retry=isinstance(atom, models.RetryDetail),
        attempt=stored_attempt(atom.meta or {}, token.EXECUTE),
        progress=float((atom.meta or {}).get("progress", 0.0)),
        failure=failure.pformat() if failure is not None and atom.state != DELAYED else None,
    )


def _unknown_delay(flow_uuid: str) -> errors.UnknownDelay:
    return errors.UnknownDelay(
        f"flow {flow_uuid} is not in this store (any more): was it purged?", flow_uuid=flow_uuid
    )


def _micros(name: str, instant: datetime.datetime) -> int:
    if instant.tzinfo is None:
        raise ValueError(f"{name} must be timezone-aware")
    return int(instant.timestamp() * 1e6)
