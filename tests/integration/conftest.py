# SPDX-License-Identifier: Apache-2.0
"""Stores with a parked flow in them.

A test that asks for a store runs in memory and in two of the five durable kinds, which its name decides; so every
kind gets its share. ``LAZY_ENGINE_STORES=all`` runs each test in all of them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from lazy_engine import Client
from tests.integration.parked import World, opened, park
from tests.integration.timed import Timed
from tests.servers import MySQL, PostgreSQL

_DURABLE = ("sqlite", "postgresql", "mysql", "dir", "zookeeper")
_SERVERS = ("postgresql", "mysql")


# One database for a whole module: making and upgrading it takes half a second, and flows do not meet.


@pytest.fixture(scope="module")
def _shared_postgresql(postgresql: PostgreSQL) -> Iterator[Any]:
    yield from _database_of(postgresql)


@pytest.fixture(scope="module")
def _shared_mysql(mysql: MySQL) -> Iterator[Any]:
    yield from _database_of(mysql)


def _database_of(server: PostgreSQL | MySQL) -> Iterator[Any]:
    url = server.create_database()
    with opened(url) as backend:
        yield backend
    server.drop_database(url)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A persistence backend; its kind is the test's parameter."""
    if request.param in _SERVERS:
        yield request.getfixturevalue(f"_shared_{request.param}")
        return
    is_memory = request.param == "memory"
    url = "memory://" if is_memory else request.getfixturevalue(f"{request.param}_url")
    with opened(url) as made:
        yield made


@pytest.fixture
def world(backend: Any) -> World:
    """A parked flow in any store."""
    return park(backend)


@pytest.fixture
def json_world(backend: Any) -> World:
    """A parked flow in a store that needs JSON: any but ``memory``."""
    return park(backend)


@pytest.fixture
def timed(backend: Any) -> Iterator[Timed]:
    """A store whose clock the test moves."""
    made = Timed(Client(backend), [])
    yield made
    made.ledger.clock_offset_seconds = 0.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = set(metafunc.fixturenames)
    if "backend" in names and not _is_parametrized(metafunc):
        stores = _share_of(metafunc.definition.nodeid)
        if "json_world" not in names:
            stores = ["memory", *stores]
        metafunc.parametrize("backend", stores, indirect=True)


def _share_of(test: str) -> Sequence[str]:
    if os.environ.get("LAZY_ENGINE_STORES") == "all":
        return _DURABLE
    first = zlib.crc32(test.encode()) % len(_DURABLE)
    return [_DURABLE[first], _DURABLE[(first + 1) % len(_DURABLE)]]


def _is_parametrized(metafunc: pytest.Metafunc) -> bool:
    marks = metafunc.definition.iter_markers("parametrize")
    return any("backend" in str(mark.args[0]) for mark in marks)
