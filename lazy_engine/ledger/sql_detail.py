# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's flow and atom details, written into TaskFlow's own tables.

What is written here, TaskFlow's persistence backends read, and the other way
round; only how often and in how many transactions differs.
"""

from __future__ import annotations

import collections
import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from oslo_serialization import jsonutils
from taskflow.persistence import models

from lazy_engine import errors, garbage, host, incident
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger import storable
from lazy_engine.ledger.sql_schema import Tables
from lazy_engine.ledger.sql_statement import Statements, open_value, open_values


class DetailRows:
    """Reads and writes the details of flows.

    :param is_strict: the store refuses JSON with NaN in it.
    """

    JSON_COLUMNS = frozenset(("meta", "results", "failure", "revert_results", "revert_failure"))

    def __init__(self, tables: Tables, *, is_strict: bool) -> None:
        self._tables = tables
        self._statements = Statements()
        # As ``oslo_serialization.jsonutils.dumps``, which makes one for each value.
        self._json = json.JSONEncoder(default=jsonutils.to_primitive, allow_nan=not is_strict)

    def dumps(self, value: Any) -> str | None:
        """Encode a value as TaskFlow does (``JSONType``); ``None`` is SQL's null.

        :raises TypeError, ValueError: the value cannot be JSON here.
        """
        if value is None:
            return None
        return self._json.encode(value)

    @staticmethod
    def loads(text: str | None) -> Any:
        """Decode what :meth:`dumps` wrote."""
        return None if text is None else json.loads(text)

    def read(self, connection: sa.Connection, flow_uuid: str) -> models.FlowDetail | None:
        """Return a flow's detail with all its atoms.

        :raises FlowIncident: what is stored is damaged; nothing is recorded of that.
        """
        try:
            return self._read(connection, flow_uuid)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise errors.FlowIncident(
                incident.words(flow_uuid, "has details that cannot be read", error),
                error,
                kind=incident.STORE_CORRUPT,
                flow_uuid=flow_uuid,
            ) from error

    def _read(self, connection: sa.Connection, flow_uuid: str) -> models.FlowDetail | None:
        c = self._tables.flowdetails.c
        statement = self._statements.once(
            "read_flow",
            lambda: sa.select(c.uuid, c.name, c.state, c.meta).where(c.uuid == open_value("uuid")),
        )
        found = statement.run(connection, {"uuid": flow_uuid})
        atoms = self._tables.atomdetails
        statement = self._statements.once(
            "read_atoms",
            lambda: sa.select(atoms).where(atoms.c.parent_uuid == open_value("uuid")),
        )
        # Asked right after it, so that a server is waited for once.
        found_atoms = statement.run(connection, {"uuid": flow_uuid})
        row = next(found.mappings(), None)
        if row is None:
            return None
        row["meta"] = self.loads(row["meta"])
        detail = models.FlowDetail.from_dict(row)
        rows = list(found_atoms.mappings())
        with garbage.put_off(len(rows)):
            for atom_row in rows:
                detail.add(self._atom_from(atom_row))
        return detail

    def _atom_from(self, row: Mapping[str, Any]) -> models.AtomDetail:
        fields = {
            name: self.loads(value) if name in self.JSON_COLUMNS else value
            for name, value in row.items()
        }
        detail = models.atom_detail_class(fields.pop("atom_type")).from_dict(fields)
        return host.mend_history(detail, fields["results"])

    def times(
        self, connection: sa.Connection, flow_uuid: str
    ) -> Mapping[str, tuple[int | None, int | None]]:
        """Return of each atom, by name, when it was stored and when it last changed."""
        c = self._tables.atomdetails.c
        query = sa.select(c.name, c.created_at, c.updated_at).where(c.parent_uuid == flow_uuid)
        return {
            row.name: (_micros(row.created_at), _micros(row.updated_at))
            for row in connection.execute(query)
        }

    def delayed_uuids(self, connection: sa.Connection, after: str, limit: int) -> list[str]:
        """Return uuids greater than *after*, in order, of flows stored as ``DELAYED``."""
        c = self._tables.flowdetails.c
        query = sa.select(c.uuid).where(c.uuid > after, c.state == DELAYED)
        return list(connection.execute(query.order_by(c.uuid).limit(limit)).scalars())

    def parent(
        self, connection: sa.Connection, flow_uuid: str
    ) -> tuple[str | None, str | None] | None:
        """Return uuid and name of a flow's logbook; ``None`` without such a flow."""
        flows, books = self._tables.flowdetails, self._tables.logbooks
        statement = self._statements.once(
            "parent",
            lambda: (
                sa.select(flows.c.parent_uuid, books.c.name)
                .select_from(flows.outerjoin(books, flows.c.parent_uuid == books.c.uuid))
                .where(flows.c.uuid == open_value("uuid"))
            ),
        )
        row = statement.run(connection, {"uuid": flow_uuid}).first()
        return None if row is None else (row[0], row[1])

    def atom_states(
        self, connection: sa.Connection, atom_uuids: Iterable[str]
    ) -> Mapping[str, tuple[str, str | None, Mapping[str, Any]]]:
        """Return name, state and meta of atoms, by uuid."""
        c = self._tables.atomdetails.c
        statement = self._statements.once(
            "atom_states",
            lambda: sa.select(c.uuid, c.name, c.state, c.meta).where(
                c.uuid.in_(open_value("uuids", expanding=True))
            ),
        )
        rows = statement.run(connection, {"uuids": list(atom_uuids)}).rows
        return {row[0]: (row[1], row[2], self.loads(row[3]) or {}) for row in rows}

    def write_progress(
        self, connection: sa.Connection, atom_uuid: str, delay: r.DelayRecord
    ) -> None:
        """Write what a heartbeat said where TaskFlow keeps the progress of tasks."""
        atoms = self._tables.atomdetails
        (_name, _state, meta) = self.atom_states(connection, {atom_uuid})[atom_uuid]
        connection.execute(
            sa.update(atoms)
            .where(atoms.c.uuid == atom_uuid)
            .values(meta=self.dumps({**meta, **delay.progress_meta()}))
        )

    def insert(
        self, connection: sa.Connection, detail: models.FlowDetail, book: models.LogBook
    ) -> None:
        """Store a new flow detail (without atoms) in a logbook of its own."""
        now = _utc_now()
        self._statements.once("book", lambda: sa.insert(self._tables.logbooks)).run(
            connection,
            {
                "uuid": book.uuid,
                "name": book.name,
                "meta": self.dumps(book.meta),
                "created_at": now,
            },
        )
        self._statements.once("flow", lambda: sa.insert(self._tables.flowdetails)).run(
            connection,
            {
                "uuid": detail.uuid,
                "name": detail.name,
                "meta": self.dumps(detail.meta),
                "state": detail.state,
                "parent_uuid": book.uuid,
                "created_at": now,
            },
        )

    def write(self, connection: sa.Connection, changes: r.Changes) -> None:
        """Write a turn's changes to the flow's details."""
        now = _utc_now()
        if changes.flow_is_dirty:
            flows = self._tables.flowdetails
            statement = self._statements.once(
                "write_flow",
                lambda: (
                    sa.update(flows)
                    .where(flows.c.uuid == open_value("uuid"))
                    .values(open_values(("state", "meta", "updated_at")))
                ),
            )
            given = {
                "uuid": changes.flow.uuid,
                "state": changes.flow.state,
                "meta": self.dumps(changes.flow.meta),
                "updated_at": now,
            }
            statement.run(connection, given)
        created = [change for change in changes.atoms if change.is_new]
        if created:
            statement = self._statements.once("atoms", lambda: sa.insert(self._tables.atomdetails))
            statement.run_many(
                connection,
                [self._created_row(change, changes.flow.uuid, now) for change in created],
            )
        by_columns: dict[frozenset[str], list[r.AtomChange]] = collections.defaultdict(list)
        for change in changes.atoms:
            if not change.is_new and change.columns:
                by_columns[change.columns].append(change)
        for columns, group in by_columns.items():
            self._update(connection, sorted(columns), group, now)

    def _created_row(
        self, change: r.AtomChange, flow_uuid: str, now: datetime.datetime
    ) -> dict[str, Any]:
        detail = change.detail
        row = self._encode(change, r.ATOM_COLUMNS)
        row.update(
            uuid=detail.uuid,
            name=detail.name,
            parent_uuid=flow_uuid,
            atom_type=models.atom_detail_type(detail),
            created_at=now,
        )
        return row

    def _update(
        self,
        connection: sa.Connection,
        columns: list[str],
        changes: list[r.AtomChange],
        now: datetime.datetime,
    ) -> None:
        atoms = self._tables.atomdetails
        statement = self._statements.once(
            ("write_atoms", *columns),
            lambda: (
                sa.update(atoms)
                .where(atoms.c.uuid == open_value("uuid"))
                .values(open_values([*columns, "updated_at"]))
            ),
        )
        statement.run_many(
            connection,
            [
                {
                    "uuid": change.detail.uuid,
                    "updated_at": now,
                    **self._encode(change, columns),
                }
                for change in changes
            ],
        )

    def _encode(self, change: r.AtomChange, columns: Iterable[str]) -> dict[str, Any]:
        detail = change.detail
        readers: Mapping[str, Callable[[], Any]] = {
            "results": lambda: storable.results(detail, self.dumps),
            "failure": lambda: (
                detail.failure and storable.failure(detail.failure.to_dict(), self.dumps)
            ),
            "revert_failure": lambda: (
                detail.revert_failure
                and storable.failure(detail.revert_failure.to_dict(), self.dumps)
            ),
        }
        row: dict[str, Any] = {}
        for name in columns:
            if name == "results" and change.encoded_results is not None:
                row[name] = change.encoded_results
                continue
            value = readers[name]() if name in readers else getattr(detail, name)
            if name == "version" and value is not None and not isinstance(value, str):
                value = ".".join(str(part) for part in value)
            row[name] = self.dumps(value) if name in self.JSON_COLUMNS else value
        return row

    def delete(self, connection: sa.Connection, flow_uuid: str) -> None:
        """Delete a flow's details, and its logbook if nothing else is in it."""
        flows, atoms, books = (
            self._tables.flowdetails,
            self._tables.atomdetails,
            self._tables.logbooks,
        )
        parent = self.parent(connection, flow_uuid)
        connection.execute(sa.delete(atoms).where(atoms.c.parent_uuid == flow_uuid))
        connection.execute(sa.delete(flows).where(flows.c.uuid == flow_uuid))
        if parent is not None and parent[0] is not None:
            others = sa.select(flows.c.uuid).where(flows.c.parent_uuid == parent[0]).exists()
            connection.execute(sa.delete(books).where(books.c.uuid == parent[0]).where(~others))


def _utc_now() -> datetime.datetime:
    # TaskFlow's columns hold naive UTC.
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def _micros(instant: datetime.datetime | None) -> int | None:
    if instant is None:
        return None
    return int(instant.replace(tzinfo=datetime.UTC).timestamp() * 1e6)
