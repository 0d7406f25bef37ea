# SPDX-License-Identifier: Apache-2.0
"""What whoever answers from outside uses of a client."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from taskflow import exceptions as taskflow_exceptions
from taskflow.types import failure as taskflow_failure

from lazy_engine import (
    doorbell,
    errors,
    garbage,
    token,
)
from lazy_engine.access import Access
from lazy_engine.delay import encode_details
from lazy_engine.ledger import record as r
from lazy_engine.observer import Delivered
from lazy_engine.outcome import Failed, Result
from lazy_engine.receipt import Heartbeat, Receipt

LOG = logging.getLogger(__name__)


class Delivery(Access):
    """Delivers outcomes and signs of life; see :class:`lazy_engine.Client`."""

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

        Outcomes for one flow are recorded in one transaction and ring once; those for
        several flows share transactions where the store can.

        :returns: for each item, in order, its receipt or what was wrong with it.
        """
        with garbage.put_off(len(items)):
            return self._deliver_many(items)

    def _deliver_many(
        self, items: Sequence[tuple[str, Result | Failed]]
    ) -> list[Receipt | errors.LazyEngineError]:
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
        began_ns = time.time_ns()
        all_done = self._ledger.deliver_all(
            {flow_uuid: [each for _, each in numbered] for flow_uuid, numbered in by_flow.items()},
            rings=self._board is not None,
        )
        for flow_uuid, numbered in by_flow.items():
            done = all_done[flow_uuid]
            receipts: Sequence[Receipt | errors.LazyEngineError]
            if isinstance(done, errors.LazyEngineError):
                receipts = [done] * len(numbered)
            else:
                deliveries = [each for _, each in numbered]
                receipts = self._receipts(flow_uuid, deliveries, done, began_ns)
            for (index, _), receipt in zip(numbered, receipts, strict=True):
                answers[index] = receipt
        for answer in answers:
            if isinstance(answer, errors.LazyEngineError):
                self._ledger.observer.refused(answer)
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
        try:
            delivery = self._delivery(text, value)
            (receipt,) = self._deliver(delivery.key.flow_uuid, [delivery])
            if isinstance(receipt, errors.LazyEngineError):
                raise receipt
        except errors.LazyEngineError as error:
            self._ledger.observer.refused(error)
            raise
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
        began_ns = time.time_ns()
        done = self._ledger.deliver(flow_uuid, deliveries, rings=self._board is not None)
        return self._receipts(flow_uuid, deliveries, done, began_ns)

    def _receipts(
        self,
        flow_uuid: str,
        deliveries: Sequence[r.Delivery],
        done: r.DeliveredToFlow | None,
        began_ns: int,
    ) -> Sequence[Receipt | errors.LazyEngineError]:
        """Ring if need be, and return what is told of deliveries to one flow."""
        if done is None:
            return [_unknown_delay(flow_uuid)] * len(deliveries)
        woken = done.has_owner or done.is_rung
        if done.must_ring:
            woken = self._ring(done.record)
        receipts = [
            Receipt(
                disposition=item.disposition,
                flow_uuid=flow_uuid,
                task_name=item.task_name,
                attempt=delivery.key.attempt,
                woken=woken,
            )
            for item, delivery in zip(done.items, deliveries, strict=True)
        ]
        if self._ledger.observer.all:
            self._tell(receipts, done.items, deliveries, began_ns)
        return receipts

    def _tell(
        self,
        receipts: Sequence[Receipt],
        items: Sequence[r.Delivered],
        deliveries: Sequence[r.Delivery],
        began_ns: int,
    ) -> None:
        ended_ns = time.time_ns()
        for receipt, item, delivery in zip(receipts, items, deliveries, strict=True):
            self._ledger.observer.delivered(
                Delivered(
                    receipt=receipt,
                    kind=delivery.outcome.kind,
                    traceparent=item.traceparent,
                    began_ns=began_ns,
                    ended_ns=ended_ns,
                )
            )

    def _ring(self, record: r.FlowRecord) -> bool:
        if self._board is None:
            return False
        # The outcome is durable by now and the receipt will say so, whether
        # the doorbell gets through or not.
        try:
            doorbell.ring(self._board, record, self._ledger)
        except taskflow_exceptions.TaskFlowException as error:
            LOG.warning("no doorbell for flow %s: %s", record.flow_uuid, error)
            doorbell.unring(record.flow_uuid, self._ledger)
            return False
        return True


def _unknown_delay(flow_uuid: str) -> errors.UnknownDelay:
    return errors.UnknownDelay(
        f"flow {flow_uuid} is not in this store (any more): was it purged?", flow_uuid=flow_uuid
    )
