# SPDX-License-Identifier: Apache-2.0
"""Who may do what over HTTP, cell by cell: each sort of caller at each endpoint that there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Route

from lazy_engine import Client
from lazy_engine.http import Limits, make_app
from lazy_engine.http.server import Server
from lazy_engine.metrics import Metrics
from tests.integration.parked import World, opened, park
from tests.integration.web import Web

ACT_KEY = "full-key-0123456789abcd"
READ_KEY = "read-key-0123456789abcd"

NOBODY, FORGER, WITH_TOKEN, READER, OPERATOR = CALLERS = (
    "nobody",
    "who has a key of elsewhere",
    "who has a token",
    "who has a read-only key",
    "who has a full key",
)
#: What is answered to whom: the first that is let in, and what those before it are told.
LETS_IN_ANYBODY = dict.fromkeys(CALLERS, 200)
LETS_IN_TOKENS = {NOBODY: 404, FORGER: 404, WITH_TOKEN: 200, READER: 404, OPERATOR: 404}
LETS_IN_READERS = {NOBODY: 401, FORGER: 401, WITH_TOKEN: 401, READER: 200, OPERATOR: 200}
LETS_IN_OPERATORS = {NOBODY: 401, FORGER: 401, WITH_TOKEN: 401, READER: 403, OPERATOR: 200}

TABLE: dict[tuple[str, str], dict[str, int]] = {
    ("post", "/v1/tokens/{token}/complete"): LETS_IN_TOKENS,
    ("post", "/v1/tokens/{token}/fail"): LETS_IN_TOKENS,
    ("post", "/v1/tokens/{token}/heartbeat"): LETS_IN_TOKENS,
    # Each delivery of a batch has a permission of its own; see below.
    ("post", "/v1/deliveries"): LETS_IN_ANYBODY,
    # The page itself, which has no data in it.
    ("get", "/"): LETS_IN_ANYBODY,
    ("get", "/page/{wanted}/{name}"): LETS_IN_ANYBODY,
    ("get", "/v1/openapi.json"): LETS_IN_ANYBODY,
    ("get", "/v1/key"): LETS_IN_READERS,
    ("get", "/v1/summary"): LETS_IN_READERS,
    ("get", "/v1/events"): LETS_IN_READERS,
    ("get", "/v1/flows"): LETS_IN_READERS,
    ("get", "/v1/delays"): LETS_IN_READERS,
    ("get", "/v1/flows/{uuid}/picture"): LETS_IN_READERS,
    ("get", "/v1/flows/{uuid}"): LETS_IN_READERS,
    ("get", "/metrics"): LETS_IN_READERS,
    ("post", "/v1/flows/{uuid}/suspend"): LETS_IN_OPERATORS,
    ("post", "/v1/flows/{uuid}/resume"): LETS_IN_OPERATORS,
    ("post", "/v1/flows/{uuid}/cancel"): LETS_IN_OPERATORS,
    ("post", "/v1/flows/{uuid}/tasks/{name}/token"): LETS_IN_OPERATORS,
    ("post", "/v1/flows/{uuid}/delays/{delay_id}/token"): LETS_IN_OPERATORS,
    ("post", "/v1/flows/{uuid}/delays/{delay_id}/complete"): LETS_IN_OPERATORS,
    ("post", "/v1/flows/{uuid}/delays/{delay_id}/fail"): LETS_IN_OPERATORS,
}
BODIES: dict[str, Any] = {"complete": {"result": 1}, "fail": {"error": "no"}}
CELLS = [(who, *endpoint) for endpoint in TABLE for who in CALLERS]
MAY_CHANGE = {
    endpoint: OPERATOR if cells is LETS_IN_OPERATORS else WITH_TOKEN
    for endpoint, cells in TABLE.items()
    if endpoint[0] != "get"
}
OPERATION = [endpoint for endpoint in TABLE if TABLE[endpoint][NOBODY] == 401]
PAGE = [endpoint for endpoint in TABLE if endpoint[1] == "/" or endpoint[1].startswith("/page/")]
LIMITS = Limits(listening_seconds=0.2, look_seconds=0.05)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(f"sqlite:///{tmp_path_factory.mktemp('permission') / 'lazy.sqlite'}") as made:
        yield made


@pytest.fixture(scope="module")
def app(store: Any) -> Any:
    client = Client(store)
    return make_app(
        client, api_keys=[ACT_KEY], read_keys=[READ_KEY], metrics=Metrics(client), limits=LIMITS
    )


@pytest.fixture(scope="module")
def server(app: Any) -> Iterator[Server]:
    with Server(app) as running:
        yield running


@pytest.fixture(scope="module")
def keyless(store: Any) -> Iterator[Server]:
    client = Client(store)
    with Server(make_app(client, metrics=Metrics(client))) as running:
        yield running


@pytest.fixture(scope="module")
def untouched(store: Any) -> World:
    """A flow that all share who are to change nothing."""
    return park(store)


@pytest.fixture
def world(store: Any) -> World:
    return park(store)


def ask(server: Server, world: World, who: str, method: str, path: str) -> Any:
    """Ask as somebody would who has all that he could have, and uses it wherever it might do."""
    secret = {FORGER: ACT_KEY + "x", WITH_TOKEN: world.token, READER: READ_KEY, OPERATOR: ACT_KEY}
    bearer = f"Bearer {secret[who]}" if who in secret else None
    web = Web(server.url)
    wanted, asset = "", "waits"
    if "/page/" in path:
        script = web.get("/").text.partition('src="page/')[2].partition('"')[0]
        wanted, _, asset = script.partition("/")
    (delay,) = world.client.delays(flow_uuid=world.flow_uuid)
    named = path.format(
        token=secret.get(who, "token"),
        uuid=world.flow_uuid,
        name=asset,
        wanted=wanted,
        delay_id=delay.id,
    )
    body = BODIES.get(path.rpartition("/")[2])
    if path == "/v1/deliveries":
        body = {"deliveries": [{"token": secret.get(who, "token"), "result": 1}]}
    if method == "get":
        return web.get(named, Authorization=bearer)
    return web.post(named, body, Authorization=bearer)


@pytest.mark.parametrize(("who", "method", "path"), CELLS)
def test_each_caller_may_do_what_the_table_says_and_nothing_else(
    server: Server, store: Any, untouched: World, who: str, method: str, path: str
) -> None:
    may_change = who == MAY_CHANGE.get((method, path))
    world = park(store) if may_change else untouched
    before = world.snapshot()
    reply = ask(server, world, who, method, path)
    assert reply.status == TABLE[method, path][who]
    if path == "/v1/deliveries":
        (receipt,) = reply.document["receipts"]
        assert receipt["status"] == (200 if may_change else 404)
    if not may_change:
        assert world.snapshot() == before


def test_key_is_told_what_it_may_do(server: Server) -> None:
    for key, may_act in ((READ_KEY, False), (ACT_KEY, True)):
        reply = Web(server.url).get("/v1/key", Authorization=f"Bearer {key}")
        assert reply.document == {"may_act": may_act}


def test_table_has_every_endpoint(app: Any) -> None:
    found = {
        (method.lower(), route.path)
        for route in routes(app.routes)
        for method in route.methods or ()
    }
    assert {(method, path) for method, path in found if method != "head"} == set(TABLE)


def routes(found: Any) -> Iterator[Route]:
    for route in found:
        if isinstance(route, Route):
            yield route
        else:  # FastAPI 0.165 includes a router as it is
            yield from routes(route.original_router.routes)


@pytest.mark.parametrize(("method", "path"), [*OPERATION, *PAGE])
def test_without_any_key_nothing_is_there(
    keyless: Server, untouched: World, method: str, path: str
) -> None:
    for who in CALLERS:
        assert ask(keyless, untouched, who, method, path).status == 404


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "ODD"])
def test_no_other_method_gets_anywhere(server: Server, untouched: World, method: str) -> None:
    before = untouched.snapshot()
    for _, path in OPERATION:
        named = path.format(uuid=untouched.flow_uuid, name="waits", delay_id="any")
        for key in (READ_KEY, ACT_KEY):
            assert Web(server.url).ask(method, named, Authorization=f"Bearer {key}").status == 405
    assert untouched.snapshot() == before


def test_with_read_only_keys_alone_nobody_can_act(world: World) -> None:
    with Server(make_app(world.client, read_keys=[READ_KEY])) as server:
        assert ask(server, world, READER, "get", "/v1/flows").status == 200
        assert ask(server, world, READER, "post", "/v1/flows/{uuid}/cancel").status == 403
        assert ask(server, world, OPERATOR, "post", "/v1/flows/{uuid}/cancel").status == 401


def test_several_keys_of_each_sort_hold_at_once(world: World) -> None:
    others = [READ_KEY, "other-read-key-0123456789"], [ACT_KEY, "other-full-key-0123456789"]
    app = make_app(world.client, read_keys=others[0], api_keys=others[1])
    with Server(app) as server:
        for keys, wanted in zip(others, (403, 200), strict=True):
            for key in keys:
                web = Web(server.url, Authorization=f"Bearer {key}")
                assert web.post(f"/v1/flows/{world.flow_uuid}/suspend").status == wanted
                assert web.get("/v1/flows").status == 200


def test_key_of_both_sorts_and_one_that_can_be_guessed_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="must not be one for acting") as refusal:
        make_app(world.client, api_keys=[ACT_KEY], read_keys=[ACT_KEY])
    assert ACT_KEY not in str(refusal.value)
    with pytest.raises(ValueError, match="at least 16"):
        make_app(world.client, read_keys=["short"])
