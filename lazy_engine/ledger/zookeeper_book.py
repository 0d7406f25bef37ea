# SPDX-License-Identifier: Apache-2.0
"""What every part of the ZooKeeper ledger works with.

A transaction on a flow is optimistic: read the flow's own znode, read what
else is needed, work out what is to be written, and write all of it in one
ZooKeeper transaction that is guarded by the version of the flow's znode.
Everybody who writes to a flow writes that znode, so if the guard holds,
nothing that was read has changed since; if it does not, nothing was written
and the work begins anew.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lazy_engine import errors
from lazy_engine.ledger import record as r
from lazy_engine.ledger import zookeeper_index as index
from lazy_engine.ledger import zookeeper_node as node
from lazy_engine.ledger.zookeeper_connection import (
    NODE_BYTES,
    PACKET_BYTES,
    Connection,
    Delete,
    Guard,
    Operation,
    Put,
    size_of,
)
from lazy_engine.ledger.zookeeper_delay import DelayNodes
from lazy_engine.ledger.zookeeper_detail import DetailNodes
from lazy_engine.ledger.zookeeper_observer import Observer, wall_clock
from lazy_engine.ledger.zookeeper_redo import Redo

LOG = logging.getLogger(__name__)

T = TypeVar("T")


class ZooKeeperBook:
    """Znodes, time and transactions of one ZooKeeper store.

    :param client: TaskFlow's own kazoo client, started.
    :param root_path: the path of TaskFlow's backend.
    """

    def __init__(self, client: Any, root_path: str) -> None:
        self._paths = node.Paths(root_path)
        self._connection = Connection(client, self._paths.flow_details_path)
        self._details = DetailNodes(self._connection, self._paths)
        self._delays = DelayNodes(self._connection, self._paths)
        self._redo = Redo(self._connection, self._paths)
        #: Moves the clock, for tests: see :mod:`lazy_engine.testing`.
        self.clock_offset_seconds = 0.0
        self._observer = Observer(self.now, self._elapsed_seconds)

    def now(self) -> int:
        return wall_clock() + int(self.clock_offset_seconds * 1e6)

    def _elapsed_seconds(self) -> float:
        return time.monotonic() + self.clock_offset_seconds

    # -- reading ----------------------------------------------------------

    def _read(self, work: Callable[[], T]) -> T:
        """Run *work*, which only reads, on what is newest."""

        def caught_up() -> T:
            self._connection.catch_up()
            return work()

        return self._connection.repeat(caught_up)

    def _load(self, flow_uuid: str) -> node.FlowNode | None:
        """Return a flow's own znode, after carrying out what was left undone in it.

        :raises Changed: somebody else was at it just now.
        """
        path = self._paths.flow(flow_uuid)
        found = self._connection.get(path)
        if found is None:
            # Perhaps this server has not heard of it yet.
            self._connection.catch_up()
            found = self._connection.get(path)
        if found is None:
            self._observer.forget(flow_uuid)
            return None
        flow = node.decode_flow(*found)
        if flow.redo_id is None:
            return flow
        return self._redo.carry_out(flow)

    def _seen(self, flow: node.FlowNode) -> r.FlowRecord:
        """Return a flow's record, with its lease as this observer sees it."""
        record = flow.record
        if record.owner is None:
            self._observer.forget(record.flow_uuid)
            return record
        expires_at = self._observer.expires_at(
            record.flow_uuid, (record.epoch, flow.sign), flow.lease_seconds or 0.0
        )
        return dataclasses.replace(record, lease_expires_at=expires_at)

    # -- writing ----------------------------------------------------------

    def _write(
        self, before: node.FlowNode, after: node.FlowNode, operations: Sequence[Operation]
    ) -> node.FlowNode:
        """Commit one transaction on a flow.

        :param before: the flow's own znode as it was read.
        :param after: the same as it is to be.
        :returns: the flow's own znode as it is then.
        :raises Changed: it was not what was read; nothing was written.
        :raises ResultNotStorable: a znode would be too large; nothing was written.
        """
        operations = [*operations, *self._entries(before.record, after.record)]
        for operation in operations:
            if size_of(operation) > NODE_BYTES:
                raise _too_large(operation, after.record.flow_uuid)
        path = self._paths.flow(after.record.flow_uuid)
        guard = Guard(path, before.version, node.encode_flow(after))
        if operations and sum(map(size_of, operations)) + size_of(guard) > PACKET_BYTES:
            large = dataclasses.replace(after, version=before.version)
            committed = self._redo.commit(large, operations)
            self._carry_out(after.record.flow_uuid)
            return dataclasses.replace(committed, redo_id=None, redo_chunks=0)
        if after.is_gone:
            self._connection.write([Guard(path, before.version)], [*operations, Delete(path)])
            return after
        answers = self._connection.write([guard], operations)
        version = 0 if before.version < 0 else answers[0].version
        return dataclasses.replace(after, version=version)

    def _carry_out(self, flow_uuid: str) -> None:
        try:
            self._connection.repeat(lambda: self._load(flow_uuid))
        except errors.StoreUnavailable as error:
            # It is committed; whoever looks at the flow next carries it out.
            LOG.info("flow %s: its last commit is still to be spread: %s", flow_uuid, error)

    def _entries(self, before: r.FlowRecord, after: r.FlowRecord) -> list[Operation]:
        """Move a flow in the indexes by time."""
        name = node.quote(after.flow_uuid)
        entries: list[Operation] = []
        for index_path, old_at, new_at in (
            (self._paths.ended_path, before.ended_at, after.ended_at),
            (self._paths.due_path, before.check_at, after.check_at),
        ):
            if old_at is not None and old_at != new_at:
                entries.append(Delete(index.entry_path(index_path, old_at, name)))
            if new_at is not None and old_at != new_at:
                path = index.entry_path(index_path, new_at, name)
                entries.append(Put(path, b"", is_new=True, makes_parent=True))
        return entries

    def _new_flow(
        self, record: r.FlowRecord, operations: Sequence[Operation], **fields: Any
    ) -> None:
        """Make a flow's own znode.

        :raises Changed: there is one.
        """
        empty = node.FlowNode(record=dataclasses.replace(record, ended_at=None, check_at=None))
        below = [
            Put(self._paths.delays(record.flow_uuid), b"", is_new=True),
            Put(self._paths.arrived(record.flow_uuid), b"", is_new=True),
        ]
        self._write(empty, node.FlowNode(record=record, **fields), [*below, *operations])

    def _set(self, flow_uuid: str, **values: Any) -> r.FlowRecord | None:
        return self._edit(flow_uuid, lambda record: dataclasses.replace(record, **values))

    def _edit(
        self, flow_uuid: str, edit: Callable[[r.FlowRecord], r.FlowRecord]
    ) -> r.FlowRecord | None:
        """Change a flow's record; safe to repeat."""

        def work() -> r.FlowRecord | None:
            before = self._load(flow_uuid)
            if before is None:
                return None
            record = edit(self._seen(before))
            after = dataclasses.replace(
                before,
                # When the lease ends is what this observer sees, and not stored.
                record=dataclasses.replace(record, lease_expires_at=None),
                lease_seconds=None if record.owner is None else before.lease_seconds,
            )
            return self._seen(self._write(before, after, ()))

        return self._connection.repeat(work)


def new_commit_id() -> str:
    """Return a name for a call that commits."""
    return uuid.uuid4().hex


def _too_large(operation: Operation, flow_uuid: str) -> errors.ResultNotStorable:
    return errors.ResultNotStorable(
        f"flow {flow_uuid}: {operation.path} would have {size_of(operation)} bytes and ZooKeeper"
        f" takes {NODE_BYTES}; nothing was written: keep large data elsewhere, and a reference"
        " to it in the flow",
        flow_uuid=flow_uuid,
    )
