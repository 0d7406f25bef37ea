# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's flow and atom details, written into TaskFlow's own znodes.

What is written here, TaskFlow's persistence backend reads, and the other way
round (``taskflow/persistence/path_based.py``, taskflow 6.5).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oslo_serialization import jsonutils
from taskflow.persistence import models

from lazy_engine import host
from lazy_engine.ledger import record as r
from lazy_engine.ledger import storable
from lazy_engine.ledger.zookeeper_connection import Connection, Delete, Operation, Put
from lazy_engine.ledger.zookeeper_node import Paths


def dumps(value: object) -> str:
    """Encode a value as TaskFlow does.

    :raises TypeError, ValueError: the value cannot be JSON.
    """
    return str(jsonutils.dumps(value))


class DetailNodes:
    """Reads the details of flows, and says what is to be written of them."""

    def __init__(self, connection: Connection, paths: Paths) -> None:
        self._connection = connection
        self._paths = paths

    # -- reading ----------------------------------------------------------

    def exists(self, flow_uuid: str) -> bool:
        """Return whether a flow has details."""
        return self._connection.exist([self._paths.flow_detail(flow_uuid)])[0]

    def read(self, flow_uuid: str) -> models.FlowDetail | None:
        """Return a flow's detail with all its atoms."""
        path = self._paths.flow_detail(flow_uuid)
        found = self._connection.get(path)
        if found is None:
            return None
        detail = models.FlowDetail.from_dict(json.loads(found[0]))
        for atom in self._atoms(self._connection.children(path)):
            detail.add(atom)
        return detail

    def _atoms(self, atom_uuids: Sequence[str]) -> Iterable[models.AtomDetail]:
        found = self._connection.get_many([self._paths.atom_detail(one) for one in atom_uuids])
        for one in found:
            if one is None:
                continue  # the flow is being purged
            stored = json.loads(one[0])
            fields = stored["atom"]
            detail = models.atom_detail_class(stored["type"]).from_dict(fields)
            yield host.mend_history(detail, fields["results"])

    def atom_states(
        self, atom_uuids: Iterable[str]
    ) -> Mapping[str, tuple[str, str | None, Mapping[str, Any]]]:
        """Return name, state and meta of atoms, by uuid."""
        return {
            atom.uuid: (atom.name, atom.state, atom.meta or {})
            for atom in self._atoms(sorted(atom_uuids))
        }

    def find_book(self, flow_uuid: str) -> tuple[str | None, str | None]:
        """Return uuid and name of a flow's logbook, if it has one.

        TaskFlow links books to flows and not the other way round, so this
        asks every book.
        """
        books = self._connection.children(self._paths.books_path)
        links = [f"{self._paths.books_path}/{book}/{flow_uuid}" for book in books]
        for book, is_there in zip(books, self._connection.exist(links), strict=True):
            found = self._connection.get(f"{self._paths.books_path}/{book}") if is_there else None
            if found is not None:
                return book, json.loads(found[0])["name"]
        return None, None

    # -- what is to be written --------------------------------------------

    def insert(self, detail: models.FlowDetail, book: models.LogBook) -> list[Operation]:
        """Store a new flow detail (without atoms) in a logbook of its own."""
        book_path = f"{self._paths.books_path}/{book.uuid}"
        flow_path = self._paths.flow_detail(detail.uuid)
        return [
            Put(book_path, dumps(book.to_dict(marshal_time=True)).encode(), is_new=True),
            Put(flow_path, dumps(detail.to_dict()).encode(), is_new=True),
            Put(f"{book_path}/{detail.uuid}", b"", is_new=True),
        ]

    def change(self, changes: r.Changes) -> list[Operation]:
        """Store a turn's changes to the flow's details."""
        operations: list[Operation] = []
        flow_path = self._paths.flow_detail(changes.flow.uuid)
        if changes.flow_is_dirty:
            data = dumps(changes.flow.to_dict()).encode()
            operations.append(Put(flow_path, data, is_new=False))
        changed = [
            self._paths.atom_detail(change.detail.uuid)
            for change in changes.atoms
            if not change.is_new
        ]
        stored = dict(zip(changed, self._connection.get_many(changed), strict=True))
        for change in changes.atoms:
            path = self._paths.atom_detail(change.detail.uuid)
            found = stored.get(path)
            before = {} if found is None else json.loads(found[0])["atom"]
            data = _encode_atom(change, before).encode()
            operations.append(Put(path, data, is_new=found is None))
            if found is None:
                operations.append(Put(f"{flow_path}/{change.detail.uuid}", b"", is_new=True))
        return operations

    def progress(self, atom_uuid: str, delay: r.DelayRecord) -> list[Operation]:
        """Store what a heartbeat said where TaskFlow keeps the progress of tasks."""
        path = self._paths.atom_detail(atom_uuid)
        found = self._connection.get(path)
        if found is None:
            return []
        stored = json.loads(found[0])
        stored["atom"]["meta"] = {**(stored["atom"]["meta"] or {}), **delay.progress_meta()}
        return [Put(path, dumps(stored).encode(), is_new=False)]

    def delete(self, flow_uuid: str, book_uuid: str | None) -> list[Operation]:
        """Delete a flow's details, and its logbook if nothing else is in it."""
        operations: list[Operation] = []
        flow_path = self._paths.flow_detail(flow_uuid)
        for atom_uuid in self._connection.children(flow_path):
            operations.append(Delete(self._paths.atom_detail(atom_uuid)))
            operations.append(Delete(f"{flow_path}/{atom_uuid}"))
        operations.append(Delete(flow_path))
        if book_uuid is not None:
            book_path = f"{self._paths.books_path}/{book_uuid}"
            inside = self._connection.children(book_path)
            if flow_uuid in inside:
                operations.append(Delete(f"{book_path}/{flow_uuid}"))
            if not set(inside) - {flow_uuid}:
                operations.append(Delete(book_path))
        return operations


def _encode_atom(change: r.AtomChange, before: Mapping[str, Any]) -> str:
    """Return an atom's znode: what is stored, with what has changed put in.

    What has not changed is taken from the store and not from memory, where a
    result may have been changed since it was saved.

    Shape, TaskFlow's own: ``{"atom": AtomDetail.to_dict(), "type": str}``.
    """
    detail = change.detail
    columns = r.ATOM_COLUMNS if change.is_new or not before else sorted(change.columns)
    atom: dict[str, Any] = {**before, "uuid": detail.uuid, "name": detail.name}
    encoded = None
    for name in columns:
        if name == "results" and change.encoded_results is not None:
            encoded = change.encoded_results
            atom.pop(name, None)
        elif name == "results":
            atom[name] = storable.results(detail, dumps)
        elif name in ("failure", "revert_failure"):
            failed = getattr(detail, name)
            atom[name] = failed and storable.failure(failed.to_dict(), dumps)
        else:
            atom[name] = getattr(detail, name)
    text = dumps(atom)
    if encoded is not None:
        # Encoded when it was saved, so put in as it is.
        text = f'{text[:-1]}, "results": {encoded}}}'
    return f'{{"atom": {text}, "type": {dumps(models.atom_detail_type(detail))}}}'
