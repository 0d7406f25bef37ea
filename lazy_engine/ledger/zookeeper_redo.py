# SPDX-License-Identifier: Apache-2.0
"""Transactions that do not fit into one packet.

Theory of operation
===================

ZooKeeper's transactions end at ``jute.maxbuffer``. A larger one is first
written down, as *chunks*: znodes that say what is to be written. They mean
nothing until the flow's own znode names them (``redo_id``). That is one small
transaction, guarded by that znode's version like any other, and by the chunks'
being there. That is the moment at which all of it is
committed. Then the chunks are carried out in order, each one a transaction of
its own, and at last the flow's znode forgets them.

Whoever reads a flow's znode and finds a redo in it carries it out before
anything else, so nobody of this package sees half of it. Each step is guarded
by the version of the flow's znode: who fell asleep over a redo that others
finished cannot write any more. To carry a chunk out twice is to carry it out
once.

Chunks that no flow names are what a crash left before that moment. They are
dropped by whoever takes the flow's lease next, and by its purge.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator, Sequence

from lazy_engine.ledger.zookeeper_connection import (
    PACKET_BYTES,
    Changed,
    Connection,
    Delete,
    Guard,
    Operation,
    Put,
    size_of,
)
from lazy_engine.ledger.zookeeper_node import FlowNode, Paths, encode_flow, quote


def split(operations: Sequence[Operation], room: int) -> Iterator[list[Operation]]:
    """Cut operations, in order, into pieces of at most *room* bytes each."""
    piece: list[Operation] = []
    size = 0
    for operation in operations:
        if piece and size + size_of(operation) > room:
            yield piece
            piece, size = [], 0
        piece.append(operation)
        size += size_of(operation)
    if piece:
        yield piece


def encode(operations: Sequence[Operation]) -> bytes:
    """Return the contents of a chunk.

    Shape: a line of JSON, ``[[path], [path, length, is_new, makes_parent], …]``,
    a path alone for what is to be deleted; then the data of all, one after the
    other.
    """
    head = [
        [one.path]
        if isinstance(one, Delete)
        else [one.path, len(one.data), one.is_new, one.makes_parent]
        for one in operations
    ]
    body = b"".join(one.data for one in operations if isinstance(one, Put))
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + body


def decode(data: bytes) -> list[Operation]:
    """Return what a chunk says."""
    head, _, body = data.partition(b"\n")
    operations: list[Operation] = []
    start = 0
    for path, *put in json.loads(head):
        if not put:
            operations.append(Delete(path))
        else:
            length, is_new, makes_parent = put
            operations.append(Put(path, body[start : start + length], is_new, makes_parent))
            start += length
    return operations


class Redo:
    """Writes, carries out and drops redos."""

    def __init__(self, connection: Connection, paths: Paths) -> None:
        self._connection = connection
        self._paths = paths

    def commit(self, flow: FlowNode, operations: Sequence[Operation]) -> FlowNode:
        """Commit more than fits into one packet.

        A crash before the last step here leaves chunks that mean nothing;
        after it, the whole is committed, and carried out by who comes next.

        :param flow: the flow's znode as it will be, and its version now.
        :returns: the znode as it is then; the redo is still to be carried out.
        :raises Changed: the flow's znode is not what it was.
        """
        redo_id = uuid.uuid4().hex
        flow_uuid = flow.record.flow_uuid
        chunk_paths = []
        for number, piece in enumerate(split(operations, PACKET_BYTES)):
            path = self._paths.chunk(flow_uuid, redo_id, number)
            self._connection.write([], [Put(path, encode(piece), is_new=True)])
            chunk_paths.append(path)
        committed = dataclasses.replace(flow, redo_id=redo_id, redo_chunks=len(chunk_paths))
        try:
            self._connection.write(
                [
                    Guard(self._paths.flow(flow_uuid), flow.version, encode_flow(committed)),
                    # Somebody who took the lease meanwhile may have dropped them.
                    *(Guard(path, -1) for path in chunk_paths),
                ],
                [],
            )
        except Changed:
            self._connection.discard(chunk_paths)
            raise
        return committed

    def carry_out(self, flow: FlowNode) -> FlowNode | None:
        """Carry a committed redo out; return the flow's znode without it.

        :returns: ``None`` if the flow is gone with it.
        :raises Changed: somebody else did something to the flow meanwhile.
        """
        assert flow.redo_id is not None
        path = self._paths.flow(flow.record.flow_uuid)
        chunk_paths = [
            self._paths.chunk(flow.record.flow_uuid, flow.redo_id, number)
            for number in range(flow.redo_chunks)
        ]
        for chunk_path in chunk_paths:
            found = self._connection.get(chunk_path)
            if found is None:
                raise Changed
            self._connection.write([Guard(path, flow.version)], decode(found[0]))
        drops = [Delete(chunk_path) for chunk_path in chunk_paths]
        if flow.is_gone:
            self._connection.write([Guard(path, flow.version)], [*drops, Delete(path)])
            return None
        done = dataclasses.replace(flow, redo_id=None, redo_chunks=0)
        answers = self._connection.write([Guard(path, flow.version, encode_flow(done))], drops)
        return dataclasses.replace(done, version=answers[0].version)

    def drop_strays(self, flow_uuid: str) -> None:
        """Delete a flow's chunks that were never committed.

        Those that were must have been carried out.
        """
        prefix = f"{quote(flow_uuid)}."
        self._connection.discard(
            f"{self._paths.redo_path}/{name}"
            for name in self._connection.children(self._paths.redo_path)
            if name.startswith(prefix)
        )

    def pending(self) -> set[str]:
        """Return the quoted uuids of flows that may have a redo to carry out."""
        names = self._connection.children(self._paths.redo_path)
        return {name.partition(".")[0] for name in names}
