# SPDX-License-Identifier: Apache-2.0
"""Parked flows by the million: copies of the rows of one that was parked by an engine."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from lazy_engine.ledger import sql_schema

#: So far apart are the deadlines of copies, in microseconds.
_STEP = 1000
_CHUNK = 100_000

Rows = list[tuple[sa.Table, Mapping[str, Any]]]


def rows_of(engine: sa.Engine, tables: sql_schema.Tables, flow_uuid: str) -> Rows:
    """Return all that is stored of a flow, parents first."""
    details, atoms = tables.flowdetails, tables.atomdetails
    book = sa.select(details.c.parent_uuid).where(details.c.uuid == flow_uuid).scalar_subquery()
    wanted = {
        tables.logbooks: tables.logbooks.c.uuid == book,
        details: details.c.uuid == flow_uuid,
        atoms: atoms.c.parent_uuid == flow_uuid,
        tables.flows: tables.flows.c.flow_uuid == flow_uuid,
        tables.delays: tables.delays.c.flow_uuid == flow_uuid,
    }
    with engine.connect() as connection:
        return [
            (table, dict(row._mapping))
            for table, condition in wanted.items()
            for row in connection.execute(sa.select(table).where(condition))
        ]


def renamed(row: Mapping[str, Any], fresh: dict[str, str]) -> dict[str, Any]:
    """Return a copy of a row with other uuids.

    :param fresh: the new ones by the old ones, for all rows of a flow; it grows.
    """

    def name_of(column: str, value: Any) -> Any:
        if value is None or not column.endswith("uuid"):
            return value
        return fresh.setdefault(value, str(uuid.uuid4()))

    return {column: name_of(column, value) for column, value in row.items()}


def multiply(engine: sa.Engine, flow_uuid: str, count: int) -> None:
    """Park so many flows more, each a copy of that one but for its uuids and its deadline.

    The server does it by itself: uuids are random, as those of real flows are, so that
    indexes grow as they do by use.
    """
    tables = sql_schema.build(engine.dialect.name)
    rows = rows_of(engine, tables, flow_uuid)
    is_sqlite = engine.dialect.name == "sqlite"
    names = {
        value: f"u{number}"
        for number, value in enumerate(
            sorted(
                {
                    value
                    for _, row in rows
                    for name, value in row.items()
                    if name.endswith("uuid") and value is not None
                }
            )
        )
    }
    fresh = ", ".join(f"{_uuid(is_sqlite)} AS {column}" for column in names.values())
    for first in range(0, count, _CHUNK):
        last = min(first + _CHUNK, count)
        numbers = (
            f"WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL"
            f" SELECT n + 1 FROM numbers WHERE n + 1 < {last}) SELECT n, {fresh} FROM numbers"
            if is_sqlite
            else f"SELECT n, {fresh} FROM generate_series({first}, {last - 1}) AS numbers(n)"
        )
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE TEMPORARY TABLE fresh AS {numbers}")
            for table, row in rows:
                connection.execute(_copy(table, row, names))
            connection.exec_driver_sql("DROP TABLE fresh")
    _settle(engine)


def _uuid(is_sqlite: bool) -> str:
    if not is_sqlite:
        return "gen_random_uuid()::text"
    part = "lower(hex(randomblob({})))"
    return " || '-' || ".join(part.format(size) for size in (4, 2, 2, 2, 6))


def _copy(table: sa.Table, row: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    values = []
    for name, value in row.items():
        column = table.c[name]
        if name.endswith("uuid") and value is not None:
            values.append(sa.literal_column(f"fresh.{names[value]}"))
        elif name in ("timeout_at", "due_at") and value is not None:
            values.append(
                sa.literal(value, sa.BigInteger) + sa.literal_column(f"fresh.n * {_STEP}")
            )
        elif value is None:
            values.append(sa.null())
        else:
            values.append(sa.literal(value, column.type))
    return sa.insert(table).from_select(list(row), sa.select(*values).select_from(sa.text("fresh")))


def _settle(engine: sa.Engine) -> None:
    """Have done what a store does by itself in time, so that it does not do it while something is measured."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")
