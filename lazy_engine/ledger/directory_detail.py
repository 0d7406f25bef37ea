# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's details in files, each change of which goes through a redo log.

The log is a table beside the ledger's own, so the same transaction that fences
an owner and opens its delays notes what is to be written into which file. What
is read is what the log holds; where it holds nothing, what is in the file.
Replaying writes the files and empties the log, all under the lock of one more
transaction: no other owner can commit meanwhile, so no file is ever written
with what is no longer true, however long a process sleeps in between.

A crash before the commit leaves nothing. After it, the log: whoever writes
next to the store replays it. In the middle of replaying, some files are new
and the log is still there, and replaying again changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from oslo_serialization import jsonutils
from sqlalchemy.dialects import sqlite
from taskflow.persistence import models

from lazy_engine import errors
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger.directory_file import ATOM, BOOK, FLOW, DetailFiles
from lazy_engine.ledger.sql_connection import Transactor
from lazy_engine.ledger.sql_detail import DetailRows
from lazy_engine.ledger.sql_schema import Tables

T = TypeVar("T")

LOG = logging.getLogger(__name__)

_PARENT_KINDS: Final = {FLOW: BOOK, ATOM: FLOW}

Document = dict[str, Any]


def redo_table(own: sa.MetaData) -> sa.Table:
    """Return the table of the redo log: one row for each detail to be written."""
    return sa.Table(
        "lazy_redo",
        own,
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("flow_uuid", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.Column("parent_uuid", sa.String(64)),
        # Null: the detail is to be removed.
        sa.Column("document", sa.Text),
        sa.UniqueConstraint("kind", "uuid"),
        sa.Index("lazy_redo_flow", "flow_uuid"),
    )


class RedoLog:
    """What is committed and not in its file yet."""

    def __init__(self, table: sa.Table, files: DetailFiles) -> None:
        self._table = table
        self._files = files

    def put(
        self,
        connection: sa.Connection,
        flow_uuid: str,
        kind: str,
        uuid: str,
        document: Document | None,
        parent_uuid: str | None = None,
    ) -> None:
        """Note what a detail's file is to hold, or that it is to go."""
        if not self._files.is_plain(uuid):
            raise errors.StoreUnavailable(
                f"{uuid!r} cannot be the uuid of a {kind} in a directory: nothing was written;"
                " use letters, digits, '-', '_' and '.'"
            )
        c = self._table.c
        insert = sqlite.insert(self._table).values(
            flow_uuid=flow_uuid,
            kind=kind,
            uuid=uuid,
            parent_uuid=parent_uuid,
            document=None if document is None else jsonutils.dumps(document),
        )
        parent = sa.func.coalesce(insert.excluded.parent_uuid, c.parent_uuid)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["kind", "uuid"],
                set_={"document": insert.excluded.document, "parent_uuid": parent},
            )
        )

    def of_flow(self, connection: sa.Connection, flow_uuid: str) -> list[sa.Row[Any]]:
        """Return the rows of a flow, of its atoms and of its book."""
        c = self._table.c
        rows = connection.execute(sa.select(self._table).where(c.flow_uuid == flow_uuid))
        return list(rows.all())

    def document(self, connection: sa.Connection, kind: str, uuid: str) -> Document | None:
        """Return what holds for a detail: from the log, or else from its file."""
        c = self._table.c
        row = connection.execute(
            sa.select(c.document).where(c.kind == kind, c.uuid == uuid)
        ).first()
        if row is None:
            return self._files.read(kind, uuid)
        return None if row[0] is None else jsonutils.loads(row[0])

    def is_empty(self, connection: sa.Connection) -> bool:
        """Whether every file holds what is committed."""
        return connection.execute(sa.select(self._table.c.number).limit(1)).first() is None

    def replay(self, connection: sa.Connection) -> None:
        """Write all files and empty the log; called in a writing transaction.

        :raises OSError: a file cannot be written; the log stays as it is.
        """
        rows = connection.execute(sa.select(self._table).order_by(self._table.c.number)).all()
        for row in rows:
            parent_kind = _PARENT_KINDS.get(row.kind)
            if row.document is None:
                if parent_kind is not None and row.parent_uuid is not None:
                    self._files.unlink(parent_kind, row.parent_uuid, row.uuid)
                self._files.remove(row.kind, row.uuid)
                continue
            self._files.write(row.kind, row.uuid, row.document)
            if parent_kind is not None and row.parent_uuid is not None:
                self._files.link(parent_kind, row.parent_uuid, row.kind, row.uuid)
        self._files.settle()
        connection.execute(sa.delete(self._table))


class RedoTransactor(Transactor):
    """Runs work in transactions, and replays the redo log after each that writes."""

    def __init__(self, engine: sa.Engine, log: RedoLog) -> None:
        super().__init__(engine)
        self._log = log

    def write(self, work: Callable[[sa.Connection], T], *, is_lasting: bool = True) -> T:
        # The files follow what is committed, so that always waits for the disk.
        answer = super().write(work)
        self.catch_up()
        return answer

    def catch_up(self) -> None:
        """Replay what is committed and not in its file yet, by whomever."""
        try:
            if not self.read(self._log.is_empty):
                super().write(self._log.replay)
        except (OSError, errors.StoreUnavailable) as error:
            # The work itself is committed and nobody who asks the ledger sees
            # that the files are behind. The next writer tries again.
            LOG.warning("TaskFlow's files are behind what is committed: %s", error)


class FileDetails(DetailRows):
    """Reads and writes the details of flows that TaskFlow keeps in files."""

    def __init__(self, tables: Tables, log: RedoLog, files: DetailFiles) -> None:
        super().__init__(tables, is_strict=False)
        self._log = log
        self._files = files

    def _read(self, connection: sa.Connection, flow_uuid: str) -> models.FlowDetail | None:
        document = self._log.document(connection, FLOW, flow_uuid)
        if document is None:
            return None
        detail = models.FlowDetail.from_dict(document)
        for uuid in self._atoms(connection, flow_uuid):
            atom = self._log.document(connection, ATOM, uuid)
            if atom is not None:
                detail.add(models.atom_detail_class(atom["type"]).from_dict(atom["atom"]))
        return detail

    def times(
        self, connection: sa.Connection, flow_uuid: str
    ) -> Mapping[str, tuple[int | None, int | None]]:
        return {}

    def delayed_uuids(self, connection: sa.Connection, after: str, limit: int) -> list[str]:
        found: list[str] = []
        for uuid in sorted(uuid for uuid in self._files.uuids(FLOW) if uuid > after):
            document = self._log.document(connection, FLOW, uuid)
            if document is not None and document["state"] == DELAYED:
                found.append(uuid)
            if len(found) == limit:
                break
        return found

    def _atoms(self, connection: sa.Connection, flow_uuid: str) -> Iterable[str]:
        pending = [row.uuid for row in self._log.of_flow(connection, flow_uuid) if row.kind == ATOM]
        return dict.fromkeys([*self._files.members(FLOW, flow_uuid), *pending])

    def parent(
        self, connection: sa.Connection, flow_uuid: str
    ) -> tuple[str | None, str | None] | None:
        if self._log.document(connection, FLOW, flow_uuid) is None:
            return None
        uuids = [
            row.parent_uuid
            for row in self._log.of_flow(connection, flow_uuid)
            if row.kind == FLOW and row.parent_uuid is not None
        ]
        uuid = uuids[0] if uuids else self._files.book_of(flow_uuid)
        if uuid is None:
            return None, None
        book = self._log.document(connection, BOOK, uuid)
        return uuid, None if book is None else book["name"]

    def atom_states(
        self, connection: sa.Connection, atom_uuids: Iterable[str]
    ) -> Mapping[str, tuple[str, str | None, Mapping[str, Any]]]:
        found = {}
        for uuid in atom_uuids:
            document = self._log.document(connection, ATOM, uuid)
            if document is not None:
                atom = document["atom"]
                found[uuid] = (atom["name"], atom["state"], atom["meta"] or {})
        return found

    def insert(
        self, connection: sa.Connection, detail: models.FlowDetail, book: models.LogBook
    ) -> None:
        self._log.put(connection, detail.uuid, BOOK, book.uuid, book.to_dict(marshal_time=True))
        self._log.put(connection, detail.uuid, FLOW, detail.uuid, detail.to_dict(), book.uuid)

    def write(self, connection: sa.Connection, changes: r.Changes) -> None:
        flow_uuid = changes.flow.uuid
        if changes.flow_is_dirty:
            self._log.put(connection, flow_uuid, FLOW, flow_uuid, changes.flow.to_dict())
        for change in changes.atoms:
            uuid = change.detail.uuid
            stored = None if change.is_new else self._log.document(connection, ATOM, uuid)
            if stored is not None:
                columns: Iterable[str] = change.columns
                atom = stored["atom"]
            else:
                columns = r.ATOM_COLUMNS
                atom = {"uuid": uuid, "name": change.detail.name}
            for name, value in self._encode(change, columns).items():
                atom[name] = self.loads(value) if name in self.JSON_COLUMNS else value
            document = {"atom": atom, "type": models.atom_detail_type(change.detail)}
            self._log.put(connection, flow_uuid, ATOM, uuid, document, flow_uuid)

    def write_progress(
        self, connection: sa.Connection, atom_uuid: str, delay: r.DelayRecord
    ) -> None:
        stored = self._log.document(connection, ATOM, atom_uuid)
        if stored is not None:
            stored["atom"]["meta"] = {**(stored["atom"]["meta"] or {}), **delay.progress_meta()}
            flow_uuid = delay.key.flow_uuid
            self._log.put(connection, flow_uuid, ATOM, atom_uuid, stored, flow_uuid)

    def delete(self, connection: sa.Connection, flow_uuid: str) -> None:
        parent = self.parent(connection, flow_uuid)
        book_uuid = None if parent is None else parent[0]
        atoms = list(self._atoms(connection, flow_uuid))
        self._log.put(connection, flow_uuid, FLOW, flow_uuid, None, book_uuid)
        for uuid in atoms:
            self._log.put(connection, flow_uuid, ATOM, uuid, None)
        if book_uuid is None:
            return
        others = (uuid for uuid in self._files.members(BOOK, book_uuid) if uuid != flow_uuid)
        if all(self._log.document(connection, FLOW, uuid) is None for uuid in others):
            self._log.put(connection, flow_uuid, BOOK, book_uuid, None)
