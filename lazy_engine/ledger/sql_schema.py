# SPDX-License-Identifier: Apache-2.0
"""The tables: the ledger's own, and TaskFlow's as the ledger sees them.

TaskFlow builds its table objects anew for every connection, which defeats
SQLAlchemy's cache of compiled statements; here they are built once for each
ledger. Columns of TaskFlow's that hold JSON are written and read as text,
since the ledger encodes a result when it is saved. A contract test compares
the columns with TaskFlow's own (``taskflow/persistence/backends/sqlalchemy/
tables.py``).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import sqlalchemy as sa
from taskflow import states
from taskflow.persistence import models

#: Version of the ledger's tables; a store with a newer one is refused.
VERSION: Final = 5

_UUID: Final = 64
_NAME: Final = 255

#: How MySQL is to keep the ledger's tables, whatever the server's defaults are:
#: with transactions, and comparing names letter by letter as every other store does.
_ON_MYSQL: Final[dict[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


class MaskedText(str):
    """Text that is not for showing: SQLAlchemy logs rows and parameters by their ``repr``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Secret(sa.types.TypeDecorator[str]):
    """A column of text that must not get into a log, whatever SQLAlchemy is told to log."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else MaskedText(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else MaskedText(value)


class JsonText(sa.types.UserDefinedType[str]):
    """A JSON column of PostgreSQL, written and read as text."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSON"

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.cast(sa.type_coerce(bindvalue, sa.Text()), self)

    def column_expression(self, column: Any) -> Any:
        return sa.cast(column, sa.Text())


@dataclasses.dataclass(frozen=True)
class Tables:
    """All tables of one ledger.

    :ivar own: metadata of the ledger's own tables; TaskFlow creates its own.
    """

    own: sa.MetaData
    flows: sa.Table
    delays: sa.Table
    keys: sa.Table
    facts: sa.Table
    logbooks: sa.Table
    flowdetails: sa.Table
    atomdetails: sa.Table


def build(dialect_name: str) -> Tables:
    """Return the tables for one SQL dialect."""
    own = sa.MetaData()
    text: Any = sa.Text() if dialect_name != "mysql" else _long_text()
    host = _host_tables(JsonText() if dialect_name == "postgresql" else text)
    return Tables(
        own=own,
        flows=_flows(own, text),
        delays=_delays(own, text),
        keys=sa.Table(
            "lazy_keys",
            own,
            sa.Column("key_id", sa.String(32), primary_key=True),
            sa.Column("secret", Secret(_NAME), nullable=False),
            sa.Column("created_at", sa.BigInteger, nullable=False),
            **_ON_MYSQL,
        ),
        facts=sa.Table(
            "lazy_facts",
            own,
            sa.Column("name", sa.String(64), primary_key=True),
            sa.Column("value", sa.String(_NAME), nullable=False),
            **_ON_MYSQL,
        ),
        **host,
    )


def _long_text() -> Any:
    from sqlalchemy.dialects import mysql

    return mysql.LONGTEXT()


def _flows(own: sa.MetaData, text: Any) -> sa.Table:
    return sa.Table(
        "lazy_flows",
        own,
        sa.Column("flow_uuid", sa.String(_UUID), primary_key=True),
        sa.Column("flow_name", sa.String(_NAME), nullable=False),
        sa.Column("format", sa.Integer, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String(_NAME)),
        sa.Column("lease_expires_at", sa.BigInteger),
        sa.Column("rung_at", sa.BigInteger),
        sa.Column("rings", sa.Integer, nullable=False, server_default="0"),
        sa.Column("check_at", sa.BigInteger),
        sa.Column("wish", sa.String(16)),
        sa.Column("wish_reason", text),
        sa.Column("incident", text),
        sa.Column("state", sa.String(_NAME), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("arrival_number", sa.BigInteger, nullable=False),
        sa.Column("has_factory", sa.Boolean, nullable=False),
        sa.Column("job_name", sa.String(_NAME)),
        sa.Column("job_priority", sa.String(16)),
        sa.Column("book_uuid", sa.String(_UUID)),
        sa.Column("book_name", sa.String(_NAME)),
        sa.Column("open_delays", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Index("lazy_flows_ended", "ended_at"),
        # Of columns that commits leave alone: a list may be sorted by them, and
        # no commit has to move the flow in an index.
        sa.Index("lazy_flows_created", "created_at", "flow_uuid"),
        sa.Index("lazy_flows_state_created", "state", "created_at", "flow_uuid"),
        _index_of_set("lazy_flows_incident", "incident", "created_at", "flow_uuid"),
        _index_of_set("lazy_flows_check", "check_at"),
        _index_of_set("lazy_flows_wish", "wish", "wish", "created_at", "flow_uuid"),
        **_ON_MYSQL,
    )


def _delays(own: sa.MetaData, text: Any) -> sa.Table:
    return sa.Table(
        "lazy_delays",
        own,
        sa.Column("flow_uuid", sa.String(_UUID), primary_key=True),
        sa.Column("atom_uuid", sa.String(_UUID), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("task_name", sa.String(_NAME), nullable=False),
        sa.Column("opened_at", sa.BigInteger),
        # Equals opened_at while the delay waits, and is null otherwise, so
        # that an index over it holds what waits and nothing else.
        sa.Column("waiting_at", sa.BigInteger),
        sa.Column("details", text),
        sa.Column("outcome_kind", sa.String(16)),
        sa.Column("outcome_body", text),
        sa.Column("outcome_digest", sa.String(64)),
        sa.Column("arrived_at", sa.BigInteger),
        sa.Column("arrival_number", sa.BigInteger),
        sa.Column("delivery_id", sa.String(_UUID)),
        sa.Column("absorbed_at", sa.BigInteger),
        sa.Column("closed_at", sa.BigInteger),
        sa.Column("close_reason", sa.String(32)),
        sa.Column("late_kind", sa.String(16)),
        sa.Column("late_body", text),
        sa.Column("late_digest", sa.String(64)),
        sa.Column("late_at", sa.BigInteger),
        sa.Column("terms", text),
        sa.Column("timeout_at", sa.BigInteger),
        sa.Column("heartbeat_at", sa.BigInteger),
        sa.Column("probe_at", sa.BigInteger),
        # When the watchdog is to look at it; null unless it waits.
        sa.Column("due_at", sa.BigInteger),
        sa.Column("alerted_at", sa.BigInteger),
        sa.Column("probe_state", text),
        sa.Column("progress", sa.Float(53)),
        sa.Column("progress_details", text),
        sa.Column("traceparent", sa.String(64)),
        _index_of_set("lazy_delays_due", "due_at"),
        # With the task's name what waits can be counted by task from the index alone.
        sa.Index(
            "lazy_delays_open",
            "waiting_at",
            "flow_uuid",
            "atom_uuid",
            "kind",
            "attempt",
            "task_name",
        ),
        **_ON_MYSQL,
    )


def _index_of_set(name: str, column: str, *columns: str) -> sa.Index:
    """Return an index of the rows in which a column is not null, where there is such a thing.

    :param columns: the columns it has, if it is not that one alone.
    """
    is_set = sa.text(f"{column} IS NOT NULL")
    return sa.Index(name, *(columns or (column,)), postgresql_where=is_set, sqlite_where=is_set)


def _host_tables(json_text: Any) -> dict[str, sa.Table]:
    host = sa.MetaData()
    return {
        "logbooks": sa.Table(
            "logbooks",
            host,
            sa.Column("created_at", sa.DateTime),
            sa.Column("updated_at", sa.DateTime),
            sa.Column("meta", json_text),
            sa.Column("name", sa.String(_NAME)),
            sa.Column("uuid", sa.String(_UUID), primary_key=True),
        ),
        "flowdetails": sa.Table(
            "flowdetails",
            host,
            sa.Column("created_at", sa.DateTime),
            sa.Column("updated_at", sa.DateTime),
            sa.Column("parent_uuid", sa.String(_UUID)),
            sa.Column("meta", json_text),
            sa.Column("name", sa.String(_NAME)),
            sa.Column("state", sa.String(_NAME)),
            sa.Column("uuid", sa.String(_UUID), primary_key=True),
        ),
        "atomdetails": sa.Table(
            "atomdetails",
            host,
            sa.Column("created_at", sa.DateTime),
            sa.Column("updated_at", sa.DateTime),
            sa.Column("meta", json_text),
            sa.Column("parent_uuid", sa.String(_UUID)),
            sa.Column("name", sa.String(_NAME)),
            sa.Column("version", sa.String(64)),
            sa.Column("state", sa.String(_NAME)),
            sa.Column("uuid", sa.String(_UUID), primary_key=True),
            sa.Column("failure", json_text),
            sa.Column("results", json_text),
            sa.Column("revert_results", json_text),
            sa.Column("revert_failure", json_text),
            sa.Column("atom_type", sa.Enum(*models.ATOM_TYPES, name="atom_types")),
            sa.Column("intention", sa.Enum(*states.INTENTIONS, name="intentions")),
        ),
    }


#: Indexes that TaskFlow's own tables lack: without them, reading one flow
#: scans every flow. Name → (table, column).
HOST_INDEXES: Final = {
    "lazy_atomdetails_parent": ("atomdetails", "parent_uuid"),
    "lazy_flowdetails_parent": ("flowdetails", "parent_uuid"),
}

#: Indexes that older versions of the ledger's own tables had, and their tables.
DROPPED_INDEXES: Final = {
    "lazy_flows_state": "lazy_flows",
    "lazy_delays_waiting": "lazy_delays",
}
