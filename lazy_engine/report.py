# SPDX-License-Identifier: Apache-2.0
"""Writing incidents on flows, by whoever finds that it cannot run one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from taskflow.persistence import models

from lazy_engine import errors, incident, rules, terms
from lazy_engine.ledger import owner
from lazy_engine.ledger import record as r
from lazy_engine.ledger.protocol import Ledger, TakeRequest

LOG = logging.getLogger(__name__)

#: Long enough for the one write that gives it up again.
_LEASE_SECONDS: Final = 30.0


def tell_fired(ledger: Ledger, fired: Sequence[terms.Fired]) -> None:
    """Tell what due timers did, and log which delays are overdue and wait on."""
    if fired:
        ledger.observer.fired(fired)
    for done in fired:
        if done.is_alert:
            task, flow_uuid = done.record.task_name, done.record.key.flow_uuid
            LOG.warning("task '%s' of flow %s is overdue and waits on", task, flow_uuid)


def write(
    ledger: Ledger,
    flow_uuid: str,
    kind: str,
    message: str,
    cause: BaseException | None = None,
    *,
    lease: r.Lease | None = None,
) -> errors.FlowIncident:
    """Write on a flow that it could not be run, and return what to raise.

    Not recorded if the store does not know the flow (yet), or the flow is over.

    :param lease: of the owner that gives the flow up with this.
    :raises StoreUnavailable: the incident could not be written.
    """
    record = ledger.note_incident(flow_uuid, kind, message, lease)
    is_recorded = record is not None and not rules.is_over(record)
    if is_recorded:
        ledger.observer.had_incident(kind)
    return errors.FlowIncident(
        message,
        cause,
        kind=kind,
        is_recorded=is_recorded,
        flow_uuid=flow_uuid,
    )


def is_of_code(error: BaseException) -> bool:
    """Whether a flow's code raised what neither TaskFlow nor an engine catches.

    An interrupt, and what ends the main thread, are for the process: there
    a handler of a signal calls ``sys.exit()``.
    """
    if isinstance(error, SystemExit):
        return threading.current_thread() is not threading.main_thread()
    return not isinstance(error, (Exception, KeyboardInterrupt, GeneratorExit))


def write_escaped(ledger: Ledger, flow_uuid: str, error: BaseException) -> errors.FlowIncident:
    """Write on a flow that its code raised what neither TaskFlow nor an engine catches; return what to raise.

    For whoever runs the flows of others, in a thread that must live: ``SystemExit``, or
    what libraries end waits with (``asyncio.CancelledError``, eventlet's ``Timeout``); see
    :func:`is_of_code`.

    :raises StoreUnavailable: the incident could not be written.
    """
    what = "has code that raised what is no Exception"
    message = incident.words(flow_uuid, what, error)
    return write(ledger, flow_uuid, incident.CODE_BROKEN, message, error)


def write_first(
    ledger: Ledger,
    detail: models.FlowDetail,
    kind: str,
    message: str,
    cause: BaseException | None = None,
    *,
    origin: Mapping[str, Any] | None = None,
) -> errors.FlowIncident:
    """Do the same for a flow that may never have begun, so that the store knows it from now on.

    :param origin: ``{"job_name", "job_priority"}`` of the job that brought the flow.
    """
    found = write(ledger, detail.uuid, kind, message, cause)
    if found.is_recorded or "factory" not in (detail.meta or {}):
        return found
    request = TakeRequest(
        flow_uuid=detail.uuid,
        owner=owner.name(),
        seconds=_LEASE_SECONDS,
        newcomer=r.Newcomer(
            flow_name=str(detail.name),
            has_factory=True,
            key_id=ledger.signing_key().key_id,
            job_name=(origin or {}).get("job_name"),
            job_priority=(origin or {}).get("job_priority"),
        ),
        known=None,
        may_rerun=False,
        resumes=False,
        is_dead=owner.is_dead,
    )
    try:
        answer = ledger.take(request)
    except errors.UnknownFlow:
        return found
    if isinstance(answer, r.Refused):
        return found
    return write(ledger, detail.uuid, kind, message, cause, lease=answer.lease)
