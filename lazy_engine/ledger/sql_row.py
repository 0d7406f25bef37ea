# SPDX-License-Identifier: Apache-2.0
"""Rows of ``lazy_flows`` and ``lazy_delays`` to records and back."""

from __future__ import annotations

import json
import operator
import time
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from lazy_engine.ledger import record as r
from lazy_engine.outcome import Encoded
from lazy_engine.terms import Timers
from lazy_engine.token import DelayKey

_FLOW_FIELDS = tuple(name for name in r.FlowRecord.__dataclass_fields__ if name != "incident")

_flow_values = operator.attrgetter(*_FLOW_FIELDS)


def clock(dialect: str, offset_seconds: Callable[[], float]) -> sa.ColumnElement[int]:
    """Return the SQL expression for the store's time when a statement is executed.

    Microseconds since 1970 UTC. SQLite has no clock of its own; its users are
    all on one machine, whose clock serves.

    :param offset_seconds: by how much the clock is moved then, for tests.
    """

    def offset() -> int:
        return micros(offset_seconds())

    def wall_clock() -> int:
        return time.time_ns() // 1000 + offset()

    if dialect == "sqlite":
        return sa.bindparam("lazy_now", type_=sa.BigInteger, callable_=wall_clock)
    moved: sa.ColumnElement[int] = sa.bindparam(
        "lazy_offset", type_=sa.BigInteger, callable_=offset
    )
    if dialect == "postgresql":
        epoch = sa.func.extract("epoch", sa.func.clock_timestamp())
        return sa.cast(epoch * 1000000, sa.BigInteger) + moved
    # UNIX_TIMESTAMP() would read the local time, of which one hour comes twice a
    # year. This one stands still within a statement: an UPDATE that waited for
    # its row judges leases by the time before, so it takes one too late, never
    # too early.
    return (
        sa.literal_column(
            "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))", sa.BigInteger
        )
        + moved
    )


def micros(seconds: float) -> int:
    """Return a duration in microseconds."""
    return int(seconds * 1e6)


def to_flow(row: Mapping[Any, Any]) -> r.FlowRecord:
    """Return the record for a row of ``lazy_flows``."""
    return r.FlowRecord(
        **{name: row[name] for name in _FLOW_FIELDS},
        incident=json.loads(row["incident"]) if row["incident"] else None,
    )


def from_flow(record: r.FlowRecord) -> dict[str, Any]:
    """Return the row of ``lazy_flows`` for a record."""
    row = {name: getattr(record, name) for name in _FLOW_FIELDS}
    row["incident"] = json.dumps(record.incident) if record.incident else None
    row["format"] = r.FORMAT
    return row


def changed(before: r.FlowRecord, after: r.FlowRecord) -> dict[str, Any]:
    """Return the columns of ``lazy_flows`` in which two records differ."""
    row = {
        name: value
        for name, value, was in zip(
            _FLOW_FIELDS, _flow_values(after), _flow_values(before), strict=True
        )
        if value != was
    }
    if after.incident != before.incident:
        row["incident"] = json.dumps(after.incident) if after.incident else None
    return row


def to_delay(row: Mapping[Any, Any]) -> r.DelayRecord:
    """Return the record for a row of ``lazy_delays``."""
    return r.DelayRecord(
        key=DelayKey(
            flow_uuid=row["flow_uuid"],
            atom_uuid=row["atom_uuid"],
            kind=row["kind"],
            attempt=row["attempt"],
        ),
        task_name=row["task_name"],
        opened_at=row["opened_at"],
        details_text=row["details"],
        outcome=_encoded(row, "outcome"),
        arrived_at=row["arrived_at"],
        arrival_number=row["arrival_number"],
        delivery_id=row["delivery_id"],
        absorbed_at=row["absorbed_at"],
        closed_at=row["closed_at"],
        close_reason=row["close_reason"],
        late=_encoded(row, "late"),
        late_at=row["late_at"],
        terms_text=row["terms"],
        timers=Timers(
            timeout_at=row["timeout_at"],
            heartbeat_at=row["heartbeat_at"],
            probe_at=row["probe_at"],
        ),
        due_at=row["due_at"],
        alerted_at=row["alerted_at"],
        probe_state_text=row["probe_state"],
        progress=row["progress"],
        progress_text=row["progress_details"],
        traceparent=row["traceparent"],
    )


def _encoded(row: Mapping[Any, Any], prefix: str) -> Encoded | None:
    kind = row[f"{prefix}_kind"]
    if kind is None:
        return None
    return Encoded(kind, row[f"{prefix}_body"], row[f"{prefix}_digest"])


def from_delay(record: r.DelayRecord) -> dict[str, Any]:
    """Return the row of ``lazy_delays`` for a record."""
    row: dict[str, Any] = {
        "flow_uuid": record.key.flow_uuid,
        "atom_uuid": record.key.atom_uuid,
        "kind": record.key.kind,
        "attempt": record.key.attempt,
        "task_name": record.task_name,
        "opened_at": record.opened_at,
        "waiting_at": record.opened_at if record.is_open else None,
        "details": record.details_text,
        "arrived_at": record.arrived_at,
        "arrival_number": record.arrival_number,
        "delivery_id": record.delivery_id,
        "absorbed_at": record.absorbed_at,
        "closed_at": record.closed_at,
        "close_reason": record.close_reason,
        "late_at": record.late_at,
        "terms": record.terms_text,
        "timeout_at": record.timers.timeout_at,
        "heartbeat_at": record.timers.heartbeat_at,
        "probe_at": record.timers.probe_at,
        "due_at": record.due_at if record.is_open else None,
        "alerted_at": record.alerted_at,
        "probe_state": record.probe_state_text,
        "progress": record.progress,
        "progress_details": record.progress_text,
        "traceparent": record.traceparent,
    }
    for prefix, encoded in (("outcome", record.outcome), ("late", record.late)):
        row[f"{prefix}_kind"] = encoded.kind if encoded else None
        row[f"{prefix}_body"] = encoded.body if encoded else None
        row[f"{prefix}_digest"] = encoded.digest if encoded else None
    return row
