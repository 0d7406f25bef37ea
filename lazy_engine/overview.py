# SPDX-License-Identifier: Apache-2.0
"""What whoever watches over a whole store asks of it, at a cost that does not grow with it."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from taskflow import states
from taskflow.persistence import models

from lazy_engine import errors, graph, host, picture, rules, shape, token, view
from lazy_engine.access import Access
from lazy_engine.ledger import record as r

#: Up to how many things are counted.
MOST_COUNTED: Final = 10_000
#: How many incidents, failures and waits a summary shows.
_SHOWN: Final = 10
#: How many things a search looks at for one page.
_SEARCHED: Final = 2000
_BATCH: Final = 500
_MOST_DETAILS: Final = 500

_Listed = TypeVar("_Listed", view.OpenDelay, view.FlowSummary)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What waits, and what went wrong.

    :ivar states: how many flows are in each state, as it is lived.
    :ivar at_least: states of which there may be more.
    :ivar incidents: those that came last, of *incident_count*.
    :ivar failures: flows that ended in ``FAILURE``, the newest.
    :ivar oldest: what has waited longest, of *waiting_count*.
    :ivar due: what will be due first, whether for a deadline, a heartbeat or a probe.
    :ivar flow_names: names of the flows that wait, by uuid.
    :ivar counted: up to how many were counted.
    """

    states: Mapping[str, int]
    at_least: Sequence[str]
    incident_count: int
    waiting_count: int
    counted: int
    incidents: Sequence[view.FlowSummary]
    failures: Sequence[view.FlowSummary]
    oldest: Sequence[view.OpenDelay]
    due: Sequence[view.OpenDelay]
    flow_names: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What is looked for in a list.

    :ivar text: in names, uuids and details, whatever the case; empty finds all.
    :ivar is_overdue: only delays whose deadline has passed.
    """

    text: str = ""
    is_overdue: bool = False

    def __bool__(self) -> bool:
        return bool(self.text) or self.is_overdue


class Overview(Access):
    """Looks at a store; writes nothing."""

    def now(self) -> datetime.datetime:
        """Return the store's time."""
        return view.instant(self._ledger.now())

    def summary(self) -> Summary:
        """Return what waits, and what went wrong."""
        tally = self._ledger.tally(MOST_COUNTED)
        incidents = self._flows(r.FlowPage(only_incidents=True, limit=_SHOWN))
        failures = self._flows(r.FlowPage(state=states.FAILURE, limit=_SHOWN))
        oldest, due = (
            [_short(delay) for delay in self._delays(r.Page(limit=_SHOWN, order=order))]
            for order in (r.BY_AGE, r.BY_DUE)
        )
        return Summary(
            states=tally.states,
            at_least=sorted(tally.at_least),
            incident_count=tally.incidents,
            waiting_count=tally.waiting,
            counted=MOST_COUNTED,
            incidents=[_with_short_incident(flow) for flow in incidents],
            failures=[flow for flow in failures if flow.incident is None],
            oldest=oldest,
            due=due,
            flow_names=self.names([*oldest, *due]),
        )

    def names(self, delays: Sequence[view.OpenDelay]) -> Mapping[str, str]:
        """Return the names of the flows of delays, by uuid."""
        return self._ledger.flow_names({delay.flow_uuid for delay in delays})

    def stamp(self, flow_uuid: str) -> str:
        """Return what is another one whenever something about a flow has changed.

        :raises UnknownFlow: no such flow.
        """
        flow = self._require(flow_uuid)
        parts = (
            flow.epoch,
            flow.commit_number,
            flow.arrival_number,
            flow.changed_at,
            flow.wish,
            flow.rung_at,
            self._lived_state(flow),
        )
        return "-".join(str(part) for part in parts)

    # -- lists ------------------------------------------------------------

    def find_delays(self, page: r.Page, search: Search) -> tuple[list[view.OpenDelay], str | None]:
        """Return a page of what waits and fits, and after which place the next begins.

        However little fits, no more than 2,000 are looked at: a page may be
        shorter than its limit, or empty, and not the last.
        """
        now = self.now()

        def fits(delay: view.OpenDelay) -> bool:
            return (not search.is_overdue or _is_overdue(delay, now)) and (
                not search.text or search.text.casefold() in _words(delay)
            )

        def read(after: str | None, limit: int) -> list[view.OpenDelay]:
            place = page.after if after is None else view.read_place(after)
            return self._delays(dataclasses.replace(page, after=place, limit=limit))

        return _find(read, fits if search else None, page.limit)

    def find_flows(
        self, page: r.FlowPage, search: Search
    ) -> tuple[list[view.FlowSummary], str | None]:
        """Return a page of flows that fit; see :meth:`find_delays`."""
        text = search.text.casefold()

        def fits(flow: view.FlowSummary) -> bool:
            return text in f"{flow.name}\0{flow.uuid}".casefold()

        def read(after: str | None, limit: int) -> list[view.FlowSummary]:
            place = page.after if after is None else view.read_flow_place(after)
            return self._flows(dataclasses.replace(page, after=place, limit=limit))

        return _find(read, fits if text else None, page.limit)

    def _flows(self, page: r.FlowPage) -> list[view.FlowSummary]:
        now = self._ledger.now()
        return [view.flow_summary(record, now) for record in self._ledger.flows(page)]

    def _delays(self, page: r.Page) -> list[view.OpenDelay]:
        return [view.open_delay(record, page.order) for record in self._ledger.waiting(page)]

    # -- one flow ---------------------------------------------------------

    def picture(self, flow_uuid: str) -> picture.Picture:
        """Return a flow as it is drawn; loads nobody's code.

        :raises UnknownFlow: no such flow.
        """
        record = self._require(flow_uuid)
        now = self._ledger.now()
        try:
            detail = self._ledger.detail(flow_uuid)
        except errors.FlowIncident:
            # Told as the flow's incident by whoever runs it; the rest can be seen.
            detail = None
        detail = detail or models.FlowDetail(record.flow_name, flow_uuid)
        atoms = [atom for atom in detail if atom.name != host.HostStorage.injector_name]
        injected = next((atom for atom in detail if atom not in atoms), None)
        drawn = picture.tasks(atoms, self._ledger.atom_times(flow_uuid))
        drawn.sort(key=picture.importance)
        kept = {task.name for task in drawn[: picture.MOST_TASKS]}
        delays = [picture.delay(each) for each in reversed(self._ledger.delays_of(flow_uuid))]
        return picture.Picture(
            flow=_with_short_incident(view.flow_summary(record, now)),
            is_cancelled=rules.is_cancelled(record),
            drift=view.noted_drift(detail.meta),
            factory=((detail.meta or {}).get("factory") or {}).get("name"),
            arguments=picture.arguments(detail, (injected and injected.results) or {}),
            tasks=drawn[: picture.MOST_TASKS],
            tasks_left_out=len(drawn) - len(kept),
            graph=graph.draw([shape.stored_atom(atom) for atom in atoms if atom.name in kept]),
            delays=delays[: picture.MOST_DELAYS],
            delays_left_out=max(0, len(delays) - picture.MOST_DELAYS),
            now=view.instant(now),
        )

    def token_of(self, flow_uuid: str, delay_id: str) -> tuple[str, str]:
        """Return task name and token of an open delay.

        :raises UnknownFlow: no such flow.
        :raises UnknownDelay: no such delay waits there (any more).
        """
        record = self._require(flow_uuid)
        page = r.Page(flow_uuid=flow_uuid, limit=_BATCH)
        while found := self._ledger.waiting(page):
            for each in found:
                if each.key.delay_id == delay_id:
                    key = self._ledger.signing_key(record.key_id)
                    return each.task_name, token.sign(each.key, key)
            page = dataclasses.replace(page, after=r.place_of(found[-1]))
        raise errors.UnknownDelay(
            f"what waited in flow {flow_uuid} under that id does not wait any more",
            flow_uuid=flow_uuid,
        )


def _find(
    read: Callable[[str | None, int], list[_Listed]],
    fits: Callable[[_Listed], bool] | None,
    limit: int,
) -> tuple[list[_Listed], str | None]:
    if fits is None:
        found = read(None, limit)
        return found, found[-1].place if len(found) == limit else None
    found, after = [], None
    for _ in range(_SEARCHED // _BATCH):
        batch = read(after, _BATCH)
        for each in batch:
            if fits(each):
                found.append(each)
                if len(found) == limit:
                    return found, each.place
        if len(batch) < _BATCH:
            return found, None
        after = batch[-1].place
    return found, after


def _is_overdue(delay: view.OpenDelay, now: datetime.datetime) -> bool:
    return delay.alerted_at is not None or (delay.timeout_at is not None and delay.timeout_at < now)


def _words(delay: view.OpenDelay) -> str:
    details = json.dumps(delay.details, ensure_ascii=False, default=str)
    return f"{delay.task_name}\0{delay.flow_uuid}\0{details}".casefold()


def _short(delay: view.OpenDelay) -> view.OpenDelay:
    text = json.dumps(delay.details, ensure_ascii=False, default=str)
    if len(text) <= _MOST_DETAILS:
        return delay
    return dataclasses.replace(delay, details=picture.cut(text, _MOST_DETAILS))


def _with_short_incident(flow: view.FlowSummary) -> view.FlowSummary:
    if flow.incident is None:
        return flow
    short = dataclasses.replace(flow.incident, message=picture.cut(flow.incident.message))
    return dataclasses.replace(flow, incident=short)
