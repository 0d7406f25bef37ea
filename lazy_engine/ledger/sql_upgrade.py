# SPDX-License-Identifier: Apache-2.0
"""Making and checking the tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from lazy_engine import errors
from lazy_engine.ledger import sqlite_file
from lazy_engine.ledger.sql_connection import Transactor
from lazy_engine.ledger.sql_schema import DROPPED_INDEXES, HOST_INDEXES, VERSION, Tables

DIALECTS: Final = ("sqlite", "postgresql", "mysql")

#: How long to wait while somebody else makes the tables.
_ALONE_SECONDS: Final = 60


def require_supported(engine: sa.Engine) -> None:
    """Refuse databases in which no ledger can be kept.

    :raises UnsupportedBackend: naming those in which it can.
    """
    name = engine.dialect.name
    if name == "mariadb":
        raise errors.UnsupportedBackend(
            "TaskFlow knows MariaDB under the name of MySQL: use mysql+pymysql://…"
        )
    if name not in DIALECTS:
        raise errors.UnsupportedBackend(
            f"no ledger for a {name} database: use one of {', '.join(DIALECTS)}"
        )
    if name == "sqlite" and sqlite_file.is_in_memory(engine.url):
        raise errors.UnsupportedBackend(
            "an in-memory SQLite database lives in one connection and isolates nothing:"
            " give it a file (sqlite:////path/to/flows.db), or use the memory backend"
        )


@contextlib.contextmanager
def alone(engine: sa.Engine) -> Iterator[None]:
    """Keep other lazy_engine processes from making tables of the same database.

    MySQL ends the transaction at every CREATE and ALTER. Two processes that run
    TaskFlow's migrations at once, or one that fails in the middle, leave tables
    that no later migration can go on from. Other databases undo what failed.

    :raises StoreUnavailable: somebody else has been at it for a minute.
    """
    if engine.dialect.name != "mysql":
        yield
        return
    name = f"lazy_engine/{engine.url.database}"[:64]
    with engine.connect() as connection:
        if not connection.scalar(sa.select(sa.func.get_lock(name, _ALONE_SECONDS))):
            raise errors.StoreUnavailable(
                f"another process has been making the tables of {engine.url.database} for"
                f" {_ALONE_SECONDS} seconds: nothing was changed here; try again when it is done"
            )
        try:
            yield
        finally:
            connection.scalar(sa.select(sa.func.release_lock(name)))


def require_current(
    transactor: Transactor, tables: Tables, prepare: Callable[[sa.Connection], None]
) -> None:
    """Make the ledger's tables if there are none, add what older ones lack; check newer ones.

    :param prepare: makes what is TaskFlow's ready for them, in the same transaction.
    :raises StoreUnavailable: TaskFlow's tables are missing, the ledger's
        cannot be made, or they belong to a newer version.
    """
    found = transactor.read(lambda c: _version(c, tables))
    if found is None or found < VERSION:
        _create(transactor, tables, prepare)
        found = transactor.read(lambda c: _version(c, tables))
    if found != VERSION:
        raise errors.StoreUnavailable(
            f"the store's lazy_* tables have version {found} and this lazy_engine knows"
            f" {VERSION}: use a lazy_engine that fits the store"
        )


def _version(connection: sa.Connection, tables: Tables) -> int | None:
    existing = sa.inspect(connection)
    if not existing.has_table(tables.facts.name):
        return None
    value = connection.execute(
        sa.select(tables.facts.c.value).where(tables.facts.c.name == "schema_version")
    ).scalar_one_or_none()
    return None if value is None else int(value)


def _create(
    transactor: Transactor, tables: Tables, prepare: Callable[[sa.Connection], None]
) -> None:
    for is_last in (False, True):
        try:
            with alone(transactor.engine):
                transactor.write(lambda c: _create_in(c, tables, prepare))
        except errors.StoreUnavailable as error:
            # Two processes may make the tables at the same moment; the one
            # that comes second fails somewhere, and finds all there.
            if is_last:
                raise errors.StoreUnavailable(
                    f"cannot make or upgrade the lazy_* tables: {error}; run 'lazy-engine init' once"
                    " with an account that may create tables"
                ) from error
        else:
            return


def _create_in(
    connection: sa.Connection, tables: Tables, prepare: Callable[[sa.Connection], None]
) -> None:
    """Make the ledger's tables; the version comes last.

    On MySQL every step is durable by itself: after a crash the next one who
    comes finds no version and does again what is not there yet.
    """
    prepare(connection)
    tables.own.create_all(connection)
    _add_missing(connection, tables)
    _drop_old(connection)
    facts = tables.facts
    found = _version(connection, tables)
    if found is None:
        connection.execute(sa.insert(facts), {"name": "schema_version", "value": str(VERSION)})
    elif found < VERSION:
        if found < 2:
            _have_all_looked_at(connection, tables)
        connection.execute(
            sa.update(facts).where(facts.c.name == "schema_version").values(value=str(VERSION))
        )


def _add_missing(connection: sa.Connection, tables: Tables) -> None:
    """Add the columns and indexes that tables of an older version lack.

    Every such column may be null or has a default, so that a process of the
    older version that still runs can go on writing.
    """
    existing = sa.inspect(connection)
    for table in tables.own.sorted_tables:
        columns = {column["name"] for column in existing.get_columns(table.name)}
        for column in table.columns:
            if column.name not in columns:
                spec = sa.schema.CreateColumn(column).compile(connection)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {spec}")
        indexes = {index["name"] for index in existing.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in indexes:
                connection.execute(sa.schema.CreateIndex(index, if_not_exists=_can(connection)))


def _drop_old(connection: sa.Connection) -> None:
    """Drop the indexes that nothing uses any more."""
    existing = sa.inspect(connection)
    for name, table_name in DROPPED_INDEXES.items():
        if name in {index["name"] for index in existing.get_indexes(table_name)}:
            on = "" if _can(connection) else f" ON {table_name}"
            connection.exec_driver_sql(f"DROP INDEX {name}{on}")


def prepare_host(connection: sa.Connection, tables: Tables) -> None:
    """Give TaskFlow's tables the indexes and the room that they lack.

    They must exist: they are made by its backends' ``upgrade()`` and by
    ``lazy-engine init``.

    :raises StoreUnavailable: they do not.
    """
    existing = sa.inspect(connection)
    if not existing.has_table(tables.atomdetails.name):
        raise errors.StoreUnavailable(
            "the store has no TaskFlow tables yet: run 'lazy-engine init', or"
            " call upgrade() on a connection of the persistence backend"
        )
    for name, (table_name, column) in HOST_INDEXES.items():
        # MySQL has one already, which it makes for the foreign key.
        if column not in {index["column_names"][0] for index in existing.get_indexes(table_name)}:
            host: Any = getattr(tables, table_name)
            connection.execute(
                sa.schema.CreateIndex(
                    sa.Index(name, host.c[column]), if_not_exists=_can(connection)
                )
            )
    if connection.dialect.name == "mysql":
        _widen(connection, existing, tables)


def _widen(connection: sa.Connection, existing: sa.Inspector, tables: Tables) -> None:
    """Give TaskFlow's JSON columns room for more than 64 KB.

    TaskFlow (6.5) widens some of them itself.
    """
    for table in (tables.logbooks, tables.flowdetails, tables.atomdetails):
        narrow = [
            column["name"]
            for column in existing.get_columns(table.name)
            if isinstance(column["type"], mysql.TEXT)
        ]
        if narrow:
            steps = ", ".join(f"MODIFY {name} LONGTEXT" for name in narrow)
            connection.execute(sa.text(f"ALTER TABLE {table.name} {steps}"))


def _have_all_looked_at(connection: sa.Connection, tables: Tables) -> None:
    """Have the watchdog look at every flow that may want an owner.

    Version 1 did not note when that should be.
    """
    flows, delays = tables.flows, tables.delays
    has_news = (
        sa.select(delays.c.flow_uuid)
        .where(
            delays.c.flow_uuid == flows.c.flow_uuid,
            delays.c.outcome_kind.is_not(None),
            delays.c.absorbed_at.is_(None),
            delays.c.closed_at.is_(None),
        )
        .exists()
    )
    connection.execute(
        sa.update(flows)
        .where(
            flows.c.check_at.is_(None),
            flows.c.ended_at.is_(None),
            sa.or_(flows.c.owner.is_not(None), flows.c.rung_at.is_not(None), has_news),
        )
        .values(check_at=flows.c.changed_at)
    )


def _can(connection: sa.Connection) -> bool:
    return connection.dialect.name != "mysql"  # MySQL has no CREATE INDEX IF NOT EXISTS
