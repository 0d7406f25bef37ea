# SPDX-License-Identifier: Apache-2.0
"""How an engine comes by the lease of its flow."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Final

from taskflow import states

from lazy_engine import errors, report, shape
from lazy_engine.engine import fit
from lazy_engine.engine.option import Options
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.ledger import TakeRequest, owner
from lazy_engine.ledger import record as r
from lazy_engine.observer import META_TRACE, Begun, WatchedRun

_FIRST_TRY_SECONDS: Final = 0.02
_LAST_TRY_SECONDS: Final = 0.25


@dataclasses.dataclass
class Wanted:
    """What an engine's next run is to be.

    :ivar is_rerun: another one by the engine that brought the flow to its end.
    :ivar resets: begins the flow anew.
    :ivar resumes: goes on with a flow that was suspended by request.
    :ivar insists: one of a flow that nobody has run since this engine parked it,
        or since it was submitted.
    """

    is_rerun: bool = False
    resets: bool = False
    resumes: bool = False
    insists: bool = False


def take(
    storage: LazyStorage,
    code: shape.Shape,
    wanted: Wanted,
    settings: Options,
    options: Mapping[str, Any],
) -> r.Taken | r.Refused:
    """Become the owner of a flow.

    :param code: the shape of the flow as it was compiled.
    :param options: the engine's, as they were given.
    :returns: the lease, or the refusal of a flow that has ended.
    :raises FlowBusy: somebody else has it.
    :raises FlowSuspended: it rests until it is resumed.
    :raises FlowIncident: its code does not fit what is stored, or that cannot be read.
    :raises lazy_engine.ledger.protocol.Outdated: somebody has run it, and *wanted* insists.
    """
    ledger = storage.ledger
    first = _first_changes(storage, code, wanted)
    patience = options.get("busy_wait_seconds")
    request = TakeRequest(
        flow_uuid=storage.flow_uuid,
        owner=owner.name(),
        seconds=settings.lease_seconds,
        newcomer=r.Newcomer(
            flow_name=str(storage.flow_name),
            has_factory="factory" in (storage.flow_meta or {}),
            key_id=ledger.signing_key().key_id,
            job_name=options.get("job_name"),
            job_priority=options.get("job_priority"),
        ),
        known=storage.known,
        may_rerun=wanted.is_rerun or wanted.resets,
        resumes=wanted.resumes,
        is_dead=owner.is_dead,
        is_insistent=wanted.insists,
        first=first,
    )
    try:
        answer = _ask(
            storage,
            request,
            settings.lease_seconds / 2 if patience is None else float(patience),
        )
    except errors.FlowIncident as error:
        raise report.write(ledger, storage.flow_uuid, error.kind, str(error), error) from error
    if isinstance(answer, r.Taken):
        storage.known = None
        if answer.has_begun:
            storage.settle_first()
    return answer


def watched_run(storage: LazyStorage, taken: r.Taken) -> WatchedRun | None:
    """Return what follows a run that begins, or ``None`` if nobody observes."""
    observer = storage.ledger.observer
    if not observer.all:
        return None
    meta = (taken.detail.meta if taken.detail else storage.flow_meta) or {}
    return observer.run(
        Begun(
            flow_uuid=storage.flow_uuid,
            flow_name=str(storage.flow_name),
            traceparent=meta.get(META_TRACE),
            arrivals=taken.arrivals,
        )
    )


def _first_changes(storage: LazyStorage, code: shape.Shape, wanted: Wanted) -> r.Changes | None:
    """Return what the first commit of a flow would store, for a flow that nobody has ever run."""
    if not storage.is_unstored or wanted.resets:
        return None
    fit.ensure(storage, code, starts_over=False)
    return storage.changes(states.RUNNING)


def _ask(
    storage: LazyStorage, request: TakeRequest, patience_seconds: float
) -> r.Taken | r.Refused:
    """Ask for the lease of a flow, and wait a while for another owner to go.

    See :func:`take`.
    """
    give_up_at = time.monotonic() + patience_seconds
    pause = _FIRST_TRY_SECONDS
    while True:
        answer = storage.ledger.take(request)
        if isinstance(answer, r.Taken) or answer.reason == "ended":
            return answer
        if answer.reason == "suspended":
            why = f" ({answer.record.wish_reason})" if answer.record.wish_reason else ""
            raise errors.FlowSuspended(
                f"flow {request.flow_uuid} is suspended{why}: Client.resume() or"
                " 'lazy-engine resume' lets it go on",
                flow_uuid=request.flow_uuid,
            )
        left = give_up_at - time.monotonic()
        if left <= 0:
            raise errors.FlowBusy(
                f"flow {request.flow_uuid} is being run by {answer.record.owner}, whose lease"
                f" lasts {answer.wait_seconds:.1f} s more: try again later",
                flow_uuid=request.flow_uuid,
            )
        time.sleep(min(pause, left))  # no store tells when a lease is given up
        pause = min(_LAST_TRY_SECONDS, pause * 1.5)
