# SPDX-License-Identifier: Apache-2.0
"""Names and contents of the ledger's znodes; pure.

Everything of the ledger lies in ``lazy`` beside TaskFlow's ``books``,
``flow_details`` and ``atom_details``, under the backend's path. Contents are
JSON with a ``format``; see ``doc/reference/znodes.rst`` for every field.
"""

from __future__ import annotations

import dataclasses
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from lazy_engine.ledger import record as r
from lazy_engine.outcome import Encoded
from lazy_engine.terms import Timers
from lazy_engine.token import DelayKey

#: Version of the layout of znodes; kept in the ledger's root node.
LAYOUT: Final = 1

_STORED_FIELDS: Final = tuple(
    name for name in r.FlowRecord.__dataclass_fields__ if name != "lease_expires_at"
)
_PLAIN_DELAY_FIELDS: Final = (
    "task_name",
    "opened_at",
    "arrived_at",
    "arrival_number",
    "delivery_id",
    "absorbed_at",
    "closed_at",
    "close_reason",
    "late_at",
    "due_at",
    "alerted_at",
    "progress",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowNode:
    """A flow's own znode.

    :ivar record: without ``lease_expires_at``, which only an observer can tell.
    :ivar version: of the znode as read; -1 for one that is not there yet.
    :ivar lease_seconds: length of the owner's lease, or ``None`` with no owner.
    :ivar sign: counts the owner's signs of life.
    :ivar commit_id: names the call that made the flow or that last committed to
        it, so that this call knows its own work again after a lost connection.
    :ivar redo_id: names a redo that must be carried out before anything else
        is done to the flow, or ``None``.
    :ivar redo_chunks: how many chunks it has.
    :ivar is_gone: the flow is purged once the redo is carried out.
    """

    record: r.FlowRecord
    version: int = -1
    lease_seconds: float | None = None
    sign: int = 0
    commit_id: str | None = None
    redo_id: str | None = None
    redo_chunks: int = 0
    is_gone: bool = False


class Paths:
    """Where things lie.

    :param root: the path of TaskFlow's backend.
    """

    def __init__(self, root: str) -> None:
        root = root.rstrip("/")
        self.books_path = f"{root}/books"
        self.flow_details_path = f"{root}/flow_details"
        self.atom_details_path = f"{root}/atom_details"
        self.ledger_path = f"{root}/lazy"
        self.flows_path = f"{root}/lazy/flows"
        self.waiting_path = f"{root}/lazy/waiting"
        self.ended_path = f"{root}/lazy/ended"
        self.due_path = f"{root}/lazy/due"
        self.redo_path = f"{root}/lazy/redo"
        self.keys_path = f"{root}/lazy/keys"

    def flow(self, flow_uuid: str) -> str:
        """Return the path of a flow's own znode."""
        return f"{self.flows_path}/{quote(flow_uuid)}"

    def delays(self, flow_uuid: str) -> str:
        """Return the path below which a flow's delays lie."""
        return f"{self.flow(flow_uuid)}/delays"

    def arrived(self, flow_uuid: str) -> str:
        """Return the path below which outcomes that are not absorbed are noted."""
        return f"{self.flow(flow_uuid)}/arrived"

    def delay(self, key: DelayKey) -> str:
        """Return the path of a delay."""
        return f"{self.delays(key.flow_uuid)}/{delay_name(key)}"

    def chunk(self, flow_uuid: str, redo_id: str, number: int) -> str:
        """Return the path of a chunk of a redo."""
        return f"{self.redo_path}/{quote(flow_uuid)}.{redo_id}.{number}"

    def flow_detail(self, flow_uuid: str) -> str:
        """Return the path of TaskFlow's flow detail."""
        return f"{self.flow_details_path}/{flow_uuid}"

    def atom_detail(self, atom_uuid: str) -> str:
        """Return the path of one of TaskFlow's atom details."""
        return f"{self.atom_details_path}/{atom_uuid}"


def quote(part: str) -> str:
    """Return text as a part of a dotted name, with neither dots nor slashes in it."""
    return urllib.parse.quote(part, safe="").replace(".", "%2E")


def unquote(part: str) -> str:
    """Return the text that :func:`quote` made a part of."""
    return urllib.parse.unquote(part)


def delay_name(key: DelayKey) -> str:
    """Return the name of a delay's znode: ``<atom uuid>.<kind>.<attempt>``."""
    return f"{quote(key.atom_uuid)}.{quote(key.kind)}.{key.attempt}"


def read_delay_name(flow_uuid: str, name: str) -> DelayKey:
    """Return the key that a delay's znode stands for."""
    atom_uuid, kind, attempt = name.split(".")
    return DelayKey(
        flow_uuid=flow_uuid,
        atom_uuid=unquote(atom_uuid),
        kind=unquote(kind),
        attempt=int(attempt),
    )


def arrival_name(number: int, key: DelayKey) -> str:
    """Return the name that notes an outcome: ``<arrival number>.<delay's name>``."""
    return f"{number:010d}.{delay_name(key)}"


def read_arrival_name(flow_uuid: str, name: str) -> DelayKey:
    """Return the key that such a name stands for."""
    return read_delay_name(flow_uuid, name.partition(".")[2])


def dumps(value: object) -> bytes:
    """Encode a znode of the ledger."""
    return json.dumps(value, separators=(",", ":")).encode()


def encode_flow(node: FlowNode) -> bytes:
    """Return the contents of a flow's own znode."""
    body: dict[str, Any] = {name: getattr(node.record, name) for name in _STORED_FIELDS}
    body.update(
        format=r.FORMAT,
        lease_seconds=node.lease_seconds,
        sign=node.sign,
        commit_id=node.commit_id,
        redo_id=node.redo_id,
        redo_chunks=node.redo_chunks,
        is_gone=node.is_gone,
    )
    return dumps(body)


def decode_flow(data: bytes, version: int) -> FlowNode:
    """Return what a flow's own znode says.

    :param version: the znode's version.
    """
    body = json.loads(data)
    return FlowNode(
        record=r.FlowRecord(**{name: body[name] for name in _STORED_FIELDS}),
        version=version,
        lease_seconds=body["lease_seconds"],
        sign=body["sign"],
        commit_id=body["commit_id"],
        redo_id=body["redo_id"],
        redo_chunks=body["redo_chunks"],
        is_gone=body["is_gone"],
    )


def encode_delay(delay: r.DelayRecord) -> bytes:
    """Return the contents of a delay's znode; outcomes lie in znodes below it."""
    body: dict[str, Any] = {name: getattr(delay, name) for name in _PLAIN_DELAY_FIELDS}
    body.update(
        format=r.FORMAT,
        details=delay.details_text,
        terms=delay.terms_text,
        timeout_at=delay.timers.timeout_at,
        heartbeat_at=delay.timers.heartbeat_at,
        probe_at=delay.timers.probe_at,
        probe_state=delay.probe_state_text,
        progress_details=delay.progress_text,
        outcome=_head(delay.outcome),
        late=_head(delay.late),
        traceparent=delay.traceparent,
    )
    return dumps(body)


def decode_delay(key: DelayKey, data: bytes) -> r.DelayRecord:
    """Return what a delay's znode says; outcomes have no body yet."""
    body = json.loads(data)
    return r.DelayRecord(
        key=key,
        details_text=body["details"],
        terms_text=body["terms"],
        timers=Timers(
            timeout_at=body["timeout_at"],
            heartbeat_at=body["heartbeat_at"],
            probe_at=body["probe_at"],
        ),
        probe_state_text=body["probe_state"],
        progress_text=body["progress_details"],
        outcome=_outcome(body["outcome"]),
        late=_outcome(body["late"]),
        traceparent=body.get("traceparent"),  # older ones have none
        **{name: body[name] for name in _PLAIN_DELAY_FIELDS},
    )


def _head(encoded: Encoded | None) -> Mapping[str, str] | None:
    return None if encoded is None else {"kind": encoded.kind, "digest": encoded.digest}


def _outcome(head: Mapping[str, str] | None) -> Encoded | None:
    return None if head is None else Encoded(head["kind"], None, head["digest"])
