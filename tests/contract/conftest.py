# SPDX-License-Identifier: Apache-2.0
"""Every kind of store, with a ledger and a flow in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from taskflow.persistence import backends

from lazy_engine import ledger
from tests.contract.stored import STORES, Flow, Store, make_flow, open_backend


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if "memory" in request.param:
        deep_copy = request.param == "memory"
        backend = backends.fetch({"connection": "memory://", "deep_copy": deep_copy})
        with contextlib.closing(backend):
            only = ledger.beside(backend)
            yield Store(request.param, None, backend, only, only)
        return
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
