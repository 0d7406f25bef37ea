# SPDX-License-Identifier: Apache-2.0
"""Goes through a whole store, flow by flow, and proves that it is sound.

Reads only, page by page, while the store is in use. The record of a flow is
read before and after all else of it, and again if it has changed in between:
every write to a flow changes its record, so what was read belongs together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

from lazy_engine import board, checkup, errors, rules
from lazy_engine.checkup import STALLED, WRONG, Finding, Reading
from lazy_engine.ledger import record as r
from lazy_engine.ledger.protocol import Ledger

_PAGE: Final = 500
#: How often a flow is read that changes while it is read.
_READINGS: Final = 5


@dataclasses.dataclass(kw_only=True)
class Report:
    """What was looked at and found.

    :ivar busy: flows that changed each time they were read, and were left out.
    :ivar doorbells: how many jobs were looked at; ``None`` without a job board.
    """

    flows: int = 0
    delays: int = 0
    outcomes: int = 0
    leases: int = 0
    incidents: int = 0
    busy: int = 0
    doorbells: int | None = None
    findings: list[Finding] = dataclasses.field(default_factory=list)

    def of_level(self, level: str) -> Sequence[Finding]:
        """Return the findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    @property
    def is_wrong(self) -> bool:
        """Whether something contradicts what the ledger promises."""
        return bool(self.of_level(WRONG))

    @property
    def is_stalled(self) -> bool:
        """Whether something is left that nobody is going to do."""
        return bool(self.of_level(STALLED))


def examine(
    ledger: Ledger, jobboard: Any = None, progress: Callable[[Report], None] | None = None
) -> Report:
    """Examine a whole store, and the doorbells on a job board.

    :param jobboard: a connected TaskFlow job board, or ``None``.
    :param progress: told after each page.
    :raises StoreUnavailable: the store cannot be read.
    :raises taskflow.exceptions.JobFailure: the board cannot be read.
    """
    report = Report()
    after = ""
    while page := ledger.flow_uuids(after, _PAGE):
        for flow_uuid in page:
            examine_flow(ledger, flow_uuid, report)
        after = page[-1]
        if progress is not None:
            progress(report)
    if jobboard is not None:
        _examine_board(ledger, jobboard, report)
    return report


def examine_flow(ledger: Ledger, flow_uuid: str, report: Report) -> None:
    """Examine one flow, and add to the report what was looked at and found."""
    seen = _read(ledger, flow_uuid)
    if seen is None:
        report.busy += 1
        return
    if seen.record is None and seen.detail is None and not seen.delays:
        return  # purged since it was listed
    report.flows += 1
    report.delays += len(seen.delays)
    report.outcomes += sum(delay.outcome is not None for delay in seen.delays)
    if seen.record is not None:
        report.leases += seen.record.owner is not None
        report.incidents += seen.record.incident is not None
    report.findings += checkup.examine(seen)


def _read(ledger: Ledger, flow_uuid: str) -> Reading | None:
    record = ledger.flow(flow_uuid)
    for _ in range(_READINGS):
        found = _read_once(ledger, flow_uuid, record)
        again = ledger.flow(flow_uuid)
        if again == record:
            return found
        record = again
    return None


def _read_once(ledger: Ledger, flow_uuid: str, record: r.FlowRecord | None) -> Reading:
    damage, detail = None, None
    try:
        detail = ledger.detail(flow_uuid)
    except errors.FlowIncident as error:
        damage = str(error)
    delays = ledger.delays_of(flow_uuid)
    waiting: list[r.DelayRecord] = []
    if delays:
        after = None
        while page := ledger.waiting(r.Page(flow_uuid=flow_uuid, after=after, limit=_PAGE)):
            waiting += page
            after = r.place_of(page[-1])
    return Reading(
        flow_uuid=flow_uuid,
        record=record,
        detail=detail,
        delays=delays,
        waiting=frozenset(delay.key for delay in waiting),
        has_key=record is None or rules.is_over(record) or _has_key(ledger, record),
        damage=damage,
        now=ledger.now(),
    )


def _has_key(ledger: Ledger, record: r.FlowRecord) -> bool:
    try:
        ledger.signing_key(record.key_id)
    except errors.InvalidToken:
        return False
    return True


def _examine_board(ledger: Ledger, jobboard: Any, report: Report) -> None:
    report.doorbells = 0
    for job in board.of(jobboard).jobs():
        report.doorbells += 1
        flow_uuid = (job.details or {}).get("flow_uuid")
        if flow_uuid is not None and ledger.flow(flow_uuid) is None:
            # Somebody else's first job for a flow has no record yet.
            try:
                is_there = ledger.detail(flow_uuid) is not None
            except errors.FlowIncident:
                is_there = True
            if not is_there:
                report.findings.append(checkup.doorbell_finding(job, flow_uuid))
