# SPDX-License-Identifier: Apache-2.0
"""What whoever looks at flows uses of a client."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterator
from typing import Any, Final

from taskflow import states
from taskflow.persistence import models

from lazy_engine import (
    errors,
    host,
    look,
    rules,
    shape,
    token,
    view,
)
from lazy_engine.access import Access
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import stored_attempt

LOG = logging.getLogger(__name__)

#: How many of a flow's open delays are asked for at once.
_PAGE: Final = 500
#: How many tasks are named that wait beside the one that was asked for and does not.
_NAMED: Final = 10
_FIRST_LOOK_SECONDS: Final = 0.02
_LAST_LOOK_SECONDS: Final = 0.5


class Inspection(Access):
    """Lists and shows flows and delays; see :class:`lazy_engine.Client`."""

    def token(self, flow_uuid: str, task_name: str) -> str:
        """Issue the token of a task's open delay again.

        :raises UnknownFlow: no such flow.
        :raises UnknownDelay: that task does not wait.
        """
        record = self._require(flow_uuid)
        # Not the flow's delays: one that retries has many that are closed.
        for delay in self._ledger.waiting(
            r.Page(flow_uuid=flow_uuid, task_name=task_name, limit=1)
        ):
            return token.sign(delay.key, self._ledger.signing_key(record.key_id))
        page = r.Page(flow_uuid=flow_uuid, limit=_NAMED + 1)
        names = sorted({delay.task_name for delay in self._ledger.waiting(page)})
        others = ", ".join([*names[:_NAMED], "and more"] if len(names) > _NAMED else names)
        raise errors.UnknownDelay(
            f"task '{task_name}' of flow {flow_uuid} does not wait for an outcome"
            f" ({f'there waits: {others}' if others else 'nothing there does'})",
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
            due_before=micros("due_before_at", due_before_at) if due_before_at else None,
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
            delays=[view.open_delay(record) for record in self._open_delays(flow_uuid)],
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

    def _open_delays(self, flow_uuid: str) -> Iterator[r.DelayRecord]:
        after = None
        while page := self._ledger.waiting(r.Page(flow_uuid=flow_uuid, after=after, limit=_PAGE)):
            yield from page
            after = r.place_of(page[-1])
            if len(page) < _PAGE:
                return

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
            # No store tells of an end; whoever runs the flow may be anywhere.
            time.sleep(pause if left is None else min(pause, left))
            pause = min(_LAST_LOOK_SECONDS, pause * 1.5)


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


def micros(name: str, instant: datetime.datetime) -> int:
    if instant.tzinfo is None:
        raise ValueError(f"{name} must be timezone-aware")
    return int(instant.timestamp() * 1e6)
