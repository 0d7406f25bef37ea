# SPDX-License-Identifier: Apache-2.0
"""Stores for subjects to keep flows in: each gets an empty one."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[2]

#: How the PostgreSQL server that is started here differs from a fresh one that
#: Debian made. Commits wait for the disk, as they do by default.
POSTGRESQL: dict[str, object] = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "wal_level": "replica",
}


@contextlib.contextmanager
def opened(name: str) -> Iterator[Callable[[], str]]:
    """Yield what makes empty stores of one kind and returns their addresses.

    :param name: ``memory``, ``sqlite`` (files), ``postgresql`` (a server is started), or the
        address of an empty database, which there is one of and which is left full.
    """
    if name == "memory":
        yield lambda: name
    elif name == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            numbers = iter(range(10**6))
            yield lambda: f"sqlite:///{directory}/{next(numbers)}.db"
    elif name == "postgresql":
        # At the end, so that the installed package is measured where there is one.
        sys.path.append(str(_ROOT))
        from tests.servers import PostgreSQL

        with PostgreSQL(settings=POSTGRESQL) as server:
            yield server.create_database
    else:
        addresses = iter([name])
        yield lambda: next(addresses)


def kind(url: str) -> str:
    """Return ``memory``, ``sqlite``, ``postgresql``, …"""
    return url.partition(":")[0].partition("+")[0]


def sizes(url: str) -> dict[str, int]:
    """Return the bytes on disk of each table and index; for a file also all of it, as ``total``."""
    if kind(url) == "sqlite":
        return _sqlite_sizes(pathlib.Path(url.removeprefix("sqlite:///")))
    return _postgresql_sizes(url)


def _sqlite_sizes(path: pathlib.Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        parts: dict[str, int] = {}
        with contextlib.suppress(sqlite3.OperationalError):  # built without dbstat
            query = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name"
            parts = dict(connection.execute(query).fetchall())
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-journal")]
    return {**parts, "total": sum(file.stat().st_size for file in files if file.exists())}


def _postgresql_sizes(url: str) -> dict[str, int]:
    import psycopg

    query = """
        SELECT relname, pg_relation_size(pg_class.oid)
            + CASE relkind WHEN 'r' THEN coalesce(pg_total_relation_size(nullif(reltoastrelid, 0)), 0)
              ELSE 0 END
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relkind IN ('r', 'i') AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    """
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        parts: dict[str, Any] = dict(connection.execute(query).fetchall())
    return {**parts, "total": sum(parts.values())}
