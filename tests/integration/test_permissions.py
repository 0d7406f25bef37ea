# SPDX-License-Identifier: Apache-2.0
"""Who may do what over HTTP, cell by cell: of every endpoint that there is, for everybody who may come."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Route

from lazy_engine import Client
from lazy_engine.http import Limits, make_app
from lazy_engine.http.server import Server
from tests.integration.parked import World, opened, park
from tests.integration.web import Web

KEY = "operators-key-0123456789"
LIMITS = Limits(listening_seconds=0.2, look_seconds=0.05)
RESULT = {"result": 1}
FAILURE = {"error": "no"}


@dataclasses.dataclass(frozen=True)
class Row:
    """What an endpoint answers.

    :ivar nobody: whoever knows neither a token nor a key.
    :ivar token: whoever has the token of the flow's task, and shows it wherever he can.
    :ivar key: whoever has a key, and no token.
    :ivar changes: whether who is let in changes anything.
    """

    nobody: int
    token: int
    key: int
    body: Any = None
    changes: bool = False


OPEN = Row(200, 200, 200)
SEEN = Row(401, 401, 200)

TABLE = {
    "GET /": OPEN,
    "HEAD /": OPEN,
    "GET /page/{wanted}/{name}": OPEN,
    "HEAD /page/{wanted}/{name}": OPEN,
    "GET /v1/openapi.json": OPEN,
    "HEAD /v1/openapi.json": OPEN,
    "POST /v1/tokens/{token}/complete": Row(404, 200, 404, RESULT, changes=True),
    "POST /v1/tokens/{token}/fail": Row(404, 200, 404, FAILURE, changes=True),
    "POST /v1/tokens/{token}/heartbeat": Row(404, 200, 404, {"progress": 0.5}, changes=True),
    # Each item of a batch has a status of its own: below.
    "POST /v1/deliveries": Row(404, 200, 404, "batch", changes=True),
    "GET /v1/summary": SEEN,
    "GET /v1/events": SEEN,
    "GET /v1/flows": SEEN,
    "GET /v1/delays": SEEN,
    "GET /v1/flows/{uuid}": SEEN,
    "GET /v1/flows/{uuid}/picture": SEEN,
    "POST /v1/flows/{uuid}/suspend": Row(401, 401, 200, changes=True),
    "POST /v1/flows/{uuid}/resume": Row(401, 401, 200),
    "POST /v1/flows/{uuid}/cancel": Row(401, 401, 200, changes=True),
    "POST /v1/flows/{uuid}/tasks/{name}/token": Row(401, 401, 200),
    "POST /v1/flows/{uuid}/delays/{delay_id}/token": Row(401, 401, 200),
    "POST /v1/flows/{uuid}/delays/{delay_id}/complete": Row(401, 401, 200, RESULT, changes=True),
    "POST /v1/flows/{uuid}/delays/{delay_id}/fail": Row(401, 401, 200, FAILURE, changes=True),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(f"sqlite:///{tmp_path_factory.mktemp('permissions') / 'lazy.sqlite'}") as made:
        yield made


@pytest.fixture(scope="module")
def app(store: Any) -> Any:
    return make_app(Client(store), api_keys=[KEY], limits=LIMITS)


@pytest.fixture(scope="module")
def url(app: Any) -> Iterator[str]:
    with Server(app) as server:
        yield server.url


def test_table_has_every_endpoint(app: Any) -> None:
    found = {
        f"{method} {route.path}" for route in routes(app.routes) for method in route.methods or ()
    }
    assert found == set(TABLE)


def routes(found: Any) -> Iterator[Route]:
    for route in found:
        if isinstance(route, Route):
            yield route
        else:  # FastAPI 0.165 includes a router as it is
            yield from routes(route.original_router.routes)


@pytest.mark.parametrize("name", TABLE)
def test_each_is_let_do_what_the_table_says(name: str, app: Any, url: str, store: Any) -> None:
    row, world = TABLE[name], park(store)
    for who, expected in (("nobody", row.nobody), ("token", row.token), ("key", row.key)):
        given = {"nobody": "", "token": world.token, "key": KEY}[who]
        before = world.snapshot()
        assert ask(url, name, row.body, world, given) == expected, who
        assert (world.snapshot() != before) is (expected == 200 and row.changes), who


def ask(url: str, name: str, body: Any, world: World, given: str) -> int:
    """Ask for something with a token, a key or nothing in every place that there is for one."""
    web = Web(url, Authorization=f"Bearer {given}" if given else "")
    method, path = name.split(" ")
    (delay,) = world.client.delays(flow_uuid=world.flow_uuid) or [None]
    script = web.get("/").text.partition('src="page/')[2].partition('"')[0].split("/")
    path = path.format(
        token=given or "nothing",
        uuid=world.flow_uuid,
        name=script[1] if "/page/" in path else "waits",
        wanted=script[0],
        delay_id=delay.id if delay else "gone",
    )
    if body == "batch":
        sent = {"deliveries": [{"token": given or "nothing", "result": 1}]}
        return int(web.post(path, sent).document["receipts"][0]["status"])
    if method == "POST":
        return web.post(path, body).status
    # Neither may a key stand in the address.
    return web.ask(method, path).status


def test_nothing_that_needs_a_key_is_there_without_keys(store: Any) -> None:
    found = {
        f"{method} {route.path}"
        for route in routes(make_app(Client(store)).routes)
        for method in route.methods or ()
    }
    with_token = {name for name, row in TABLE.items() if row.token != row.nobody}
    assert found == with_token | {"GET /v1/openapi.json", "HEAD /v1/openapi.json"}
