# SPDX-License-Identifier: Apache-2.0
"""What anybody else asks of a ledger, and is told: deliveries, wishes, due time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from taskflow.persistence import models

from lazy_engine import terms
from lazy_engine.ledger.record.flow import FlowRecord
from lazy_engine.outcome import Encoded
from lazy_engine.receipt import Disposition
from lazy_engine.token import DelayKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One outcome on its way in.

    :ivar delivery_id: names this call.
    """

    key: DelayKey
    outcome: Encoded
    delivery_id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What became of one delivery.

    :ivar task_name: empty if the atom is not known (any more).
    :ivar traceparent: the trace that the delay was opened in, or ``None``.
    """

    disposition: Disposition
    task_name: str
    traceparent: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredToFlow:
    """What became of the deliveries to one flow, and whether to ring.

    :ivar has_owner: a live lease exists.
    :ivar must_ring: the caller has to post a doorbell now (it is noted as rung).
    :ivar is_rung: a doorbell is under way already.
    """

    items: Sequence[Delivered]
    record: FlowRecord
    has_owner: bool
    must_ring: bool
    is_rung: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tended:
    """What the watchdog did with one flow.

    :ivar wants_owner: somebody has to run the flow; a doorbell is noted.
    :ivar fired: what the due timers of its delays did.
    """

    record: FlowRecord
    wants_owner: bool
    fired: Sequence[terms.Fired] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The answer to a heartbeat.

    :ivar is_wanted: the delay can still be answered.
    """

    is_wanted: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The answer to a wish to cancel a flow.

    :ivar is_new: it was neither over nor cancelled before.
    :ivar must_ring: the caller has to post a doorbell now (it is noted as rung).
    """

    record: FlowRecord
    is_new: bool
    must_ring: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """The answer to a wish to have a flow run on.

    :ivar has_owner: somebody runs it, and goes on.
    :ivar must_ring: the caller has to post a doorbell now (it is noted as rung).
    """

    record: FlowRecord
    has_owner: bool
    must_ring: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A flow to be stored before anybody runs it."""

    detail: models.FlowDetail
    book: models.LogBook
    key_id: str
    is_rung: bool
