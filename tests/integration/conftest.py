# SPDX-License-Identifier: Apache-2.0
"""Stores with a parked flow in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.parked import World, opened, park
from tests.servers import PostgreSQL


@pytest.fixture(scope="module")
def _shared_database(postgresql: PostgreSQL) -> Iterator[Any]:
    # One for a whole module: making and upgrading it takes half a second, and flows do not meet.
    url = postgresql.create_database()
    with opened(url) as backend:
        yield backend
    postgresql.drop_database(url)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A persistence backend; its kind is the test's parameter."""
    if request.param == "postgresql":
        yield request.getfixturevalue("_shared_database")
        return
    url = "memory://" if request.param == "memory" else request.getfixturevalue("sqlite_url")
    with opened(url) as made:
        yield made


@pytest.fixture
def world(backend: Any) -> World:
    """A parked flow in any store: ``memory``, ``sqlite`` and ``postgresql``."""
    return park(backend)


@pytest.fixture
def json_world(backend: Any) -> World:
    """A parked flow in a store that needs JSON: ``sqlite`` and ``postgresql``."""
    return park(backend)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = set(metafunc.fixturenames)
    if "backend" in names and not _is_parametrized(metafunc):
        stores = ["sqlite", "postgresql"]
        if "json_world" not in names:
            stores.insert(0, "memory")
        metafunc.parametrize("backend", stores, indirect=True)


def _is_parametrized(metafunc: pytest.Metafunc) -> bool:
    marks = metafunc.definition.iter_markers("parametrize")
    return any("backend" in str(mark.args[0]) for mark in marks)
