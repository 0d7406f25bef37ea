# SPDX-License-Identifier: Apache-2.0
"""Every kind of store, with a ledger and a flow in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from taskflow.persistence import backends

from lazy_engine import ledger
from lazy_engine.access import open_backend
from tests.contract.stored import (
    LEDGER_TABLES,
    SERVERS,
    STORES,
    Flow,
    Store,
    make_flow,
)


@pytest.fixture(scope="module")
def emptied(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Give the URL of a server's database with all tables and no rows; the tables are made once."""
    with contextlib.ExitStack() as stack:
        made: dict[str, tuple[str, Any]] = {}

        def get(kind: str) -> str:
            if kind not in made:
                server = request.getfixturevalue(kind)
                url = server.create_database()
                stack.callback(server.drop_database, url)
                backend = open_backend(url)
                stack.callback(backend.close)
                made[kind] = url, backend
            url, backend = made[kind]
            with backend.engine.begin() as connection:
                for table in (*LEDGER_TABLES, "atomdetails", "flowdetails", "logbooks"):
                    connection.execute(sa.text(f"DELETE FROM {table}"))
            return url

        yield get


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, emptied: Callable[[str], str]) -> Iterator[Store]:
    if "memory" in request.param:
        deep_copy = request.param == "memory"
        backend = backends.fetch({"connection": "memory://", "deep_copy": deep_copy})
        with contextlib.closing(backend):
            only = ledger.beside(backend)
            yield Store(request.param, None, backend, only, only)
        return
    if request.param in SERVERS:
        url = emptied(request.param)
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(2):
            backend = open_backend(url)
            stack.callback(backend.close)
            stack.callback(ledger.beside(backend).close)
            opened.append(backend)
        first, second = opened
        yield Store(request.param, url, first, ledger.beside(first), ledger.beside(second))


@pytest.fixture
def flow(store: Store) -> Flow:
    return make_flow(store)
