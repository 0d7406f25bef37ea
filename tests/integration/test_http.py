# SPDX-License-Identifier: Apache-2.0
"""Answers over HTTP: a real server on SQLite, asked by somebody who knows a token or a key, or neither."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from taskflow import states, task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay, errors, token
from lazy_engine.http import Limits, Signature, make_app
from lazy_engine.http.server import Server
from lazy_engine.token import DelayKey
from tests.integration.parked import World, make_flow, opened, park
from tests.integration.web import JSON, Web, status_on
from tests.waiting import wait_until

KEY = "operators-key-0123456789"
LIMITS = Limits(body_bytes=4096, body_seconds=0.4)
OPERATION = [
    ("GET", "/v1/flows"),
    ("GET", "/v1/delays"),
    ("GET", "/v1/flows/{flow}"),
    ("POST", "/v1/flows/{flow}/suspend"),
    ("POST", "/v1/flows/{flow}/resume"),
    ("POST", "/v1/flows/{flow}/cancel"),
    ("POST", "/v1/flows/{flow}/tasks/waits/token"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(f"sqlite:///{tmp_path_factory.mktemp('http') / 'lazy.sqlite'}") as made:
        yield made


@pytest.fixture(scope="module")
def server(store: Any) -> Iterator[Server]:
    with Server(make_app(Client(store), api_keys=[KEY], limits=LIMITS)) as running:
        yield running


@pytest.fixture
def web(server: Server) -> Web:
    return Web(server.url)


@pytest.fixture
def operator(server: Server) -> Web:
    return Web(server.url, Authorization=f"Bearer {KEY}")


@pytest.fixture
def world(store: Any) -> World:
    return park(store)


@contextlib.contextmanager
def serving(client: Any, *, server: dict[str, Any] | None = None, **options: Any) -> Iterator[Web]:
    with Server(make_app(client, **options), **(server or {})) as running:
        yield Web(running.url)


# -- what a token permits --------------------------------------------------------------------------


def test_status_and_receipt_tell_what_became_of_a_delivery(web: Web, world: World) -> None:
    path = f"/v1/tokens/{world.token}"
    first = web.post(f"{path}/complete", {"result": {"n": 1}})
    assert first.status == 200
    assert first.headers["cache-control"] == "no-store"
    assert first.document == {
        "disposition": "accepted",
        "flow_uuid": world.flow_uuid,
        "task_name": "waits",
        "attempt": 1,
        "woken": False,
    }
    again = web.post(f"{path}/complete", {"result": {"n": 1}})
    assert (again.status, again.document["disposition"]) == (200, "duplicate")
    other = web.post(f"{path}/fail", {"error": "no", "kind": "Nope", "details": [1]})
    assert (other.status, other.document["disposition"]) == (409, "conflict")
    assert world.client.resume(world.flow_uuid) == states.SUCCESS
    assert world.client.flow(world.flow_uuid).results["waits"] == {"n": 1}
    late = web.post(f"{path}/complete", {"result": 2})
    assert (late.status, late.document["disposition"]) == (410, "late")


def test_failure_reaches_the_task_with_its_kind(web: Web, world: World) -> None:
    sent = {"error": "no stock", "kind": "OutOfStock", "details": {"left": 0}}
    assert web.post(f"/v1/tokens/{world.token}/fail", sent).status == 200
    assert world.client.resume(world.flow_uuid) == states.REVERTED
    (delay,) = world.ledger.delays_of(world.flow_uuid)
    assert json.loads(delay.outcome.body)["kind"] == "OutOfStock"


def test_answer_that_comes_before_the_delay_is_early(server: Server, store: Any) -> None:
    seen = []

    class Hasty(task.Task):
        def execute(self) -> Delay:
            delay = Delay()
            reply = Web(server.url).post(f"/v1/tokens/{delay.token}/complete", {"result": 7})
            seen.append((reply.status, reply.document["disposition"]))
            return delay

    client = Client(store)
    engine = client._load(_stored(client), linear_flow.Flow("flow").add(Hasty("waits")))
    assert engine.run() == states.SUCCESS
    assert seen == [(200, "early")]
    assert engine.storage.get("waits") == 7


def _stored(client: Client) -> Any:
    return client._ledger.detail(client.submit(make_flow))


def test_heartbeat_tells_whether_to_go_on(web: Web, world: World) -> None:
    path = f"/v1/tokens/{world.token}/heartbeat"
    assert web.post(path, {"progress": 0.25, "details": {"page": 3}}).document == {
        "cancelled": False
    }
    assert world.client.delays(flow_uuid=world.flow_uuid)[0].progress == 0.25
    assert web.post(path).document == {"cancelled": False}
    world.client.cancel(world.flow_uuid, "off")
    assert web.post(path, {}).document == {"cancelled": True}


@pytest.mark.parametrize("progress", [1.5, -0.1, "0.5", True])
def test_progress_is_a_number_between_0_and_1(web: Web, world: World, progress: Any) -> None:
    assert web.post(f"/v1/tokens/{world.token}/heartbeat", {"progress": progress}).status == 422


def test_batch_answers_for_each_delivery_in_order(web: Web, store: Any) -> None:
    one, two = park(store), park(store)
    items = [
        {"token": one.token, "result": 1},
        {"token": "lz1.no.such.token", "result": 1},
        {"token": two.token, "error": "broken", "kind": "Broken"},
        {"token": one.token, "result": 2},
        {"token": two.token, "error": "broken", "kind": "x" * 256},
    ]
    assert web.post("/v1/deliveries", {"deliveries": items}).status == 422
    reply = web.post("/v1/deliveries", {"deliveries": items[:4]})
    assert reply.status == 200
    found = reply.document["receipts"]
    assert [item["status"] for item in found] == [200, 404, 200, 409]
    assert found[0]["receipt"]["flow_uuid"] == one.flow_uuid
    assert found[1]["problem"]["error"] == "invalid_token"
    assert found[2]["receipt"]["disposition"] == "accepted"


@pytest.mark.parametrize("verb", ["complete", "heartbeat"])
def test_purged_flow_and_forged_token_look_the_same(web: Web, world: World, verb: str) -> None:
    key = world.ledger.signing_key()
    gone = token.sign(DelayKey(flow_uuid="gone", atom_uuid="a", kind="execute", attempt=1), key)
    forged = world.token[:-4] + "AAAA"
    body = {"result": 1} if verb == "complete" else {}
    replies = [web.post(f"/v1/tokens/{each}/{verb}", body) for each in (gone, forged, "x", "%00")]
    assert {reply.status for reply in replies} == {404}
    assert len({reply.text for reply in replies}) == 1
    world.assert_open()


@pytest.mark.parametrize(
    "body",
    [
        b'{"result": NaN}',
        b'{"result": -Infinity}',
        b'{"result": 1e999}',
        b'{"result": 1, "result": 2}',
        b'{"result": {"a": 1, "a": 1}}',
        b'{"result": 1, "resolt": 2}',
        b"{}",
        b"",
        b"[1]",
        b'{"result": "\xff"}',
        b'{"result": 1} x',
        '{"result": 1}'.encode("utf-16"),
        b'{"result": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"result": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_not_a_result_in_strict_json_is_refused(
    web: Web, world: World, body: bytes
) -> None:
    reply = web.ask(
        "POST", f"/v1/tokens/{world.token}/complete", body, Content_Type="application/json"
    )
    assert (reply.status, reply.document["error"]) == (422, "invalid")
    world.assert_open()


def test_refusal_repeats_nothing_of_what_was_sent(web: Web, world: World) -> None:
    sent = {"error": ["secret-in-value"], "kind": 5}
    reply = web.post(f"/v1/tokens/{world.token}/fail", sent)
    assert reply.status == 422
    assert "secret-in-value" not in reply.text
    assert "body.error" in reply.document["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": None},
        {"Content_Type": "application/json; charset=latin-1"},
        {"Content_Type": "application/json", "Content_Encoding": "gzip"},
    ],
    ids=str,
)
def test_body_must_say_that_it_is_plain_json(
    web: Web, world: World, headers: dict[str, str | None]
) -> None:
    path = f"/v1/tokens/{world.token}/complete"
    assert web.ask("POST", path, b'{"result": 1}', **headers).status == 415
    world.assert_open()


def test_kinds_of_json_are_json(web: Web, world: World) -> None:
    path = f"/v1/tokens/{world.token}/complete"
    kind = "application/cloudevents+json; charset=UTF-8"
    assert web.ask("POST", path, b'{"result": 1}', Content_Type=kind).status == 200


def test_store_that_takes_less_refuses_with_413(store: Any) -> None:
    world = park(store)
    with serving(world.client) as web:
        sent = {"result": "x" * (1024 * 1024 + 1)}
        reply = web.post(f"/v1/tokens/{world.token}/complete", sent)
    assert (reply.status, reply.document["error"]) == (413, "too_large")
    world.assert_open()


class _Away(Client):
    def complete(self, token: str, result: Any = None) -> Any:
        raise errors.StoreUnavailable("no route to host db.internal")


def test_store_that_is_away_asks_to_come_again(store: Any) -> None:
    with serving(_Away(store)) as web:
        reply = web.post("/v1/tokens/x/complete", {"result": 1})
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert "db.internal" not in reply.text


class _Defective(Client):
    def complete(self, token: str, result: Any = None) -> Any:
        raise RuntimeError(f"defect with {token}")


def test_defect_is_answered_and_logged_without_the_token(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world = park(store)
    with serving(_Defective(store)) as web:
        reply = web.post(f"/v1/tokens/{world.token}/complete", {"result": 1})
    assert (reply.status, reply.document["error"]) == (500, "failed")
    assert "defect with lz1.***" in caplog.text
    assert world.token not in reply.text + caplog.text


class _Slow(Client):
    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def complete(self, token: str, result: Any = None) -> Any:
        self.begun.release()
        self.go.wait(20)
        return super().complete(token, result)


def test_more_requests_than_can_wait_are_told_to_come_again(store: Any) -> None:
    client = _Slow(store)
    limits = Limits(delivery_threads=1, waiting=1, waiting_seconds=0.2)
    head = b"POST /v1/tokens/x/complete HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = head + b'Content-Length: 13\r\n\r\n{"result": 1}'
    with serving(client, limits=limits) as web, contextlib.ExitStack() as closing:
        working = closing.enter_context(web.open(request))
        assert client.begun.acquire(timeout=10)
        others = [closing.enter_context(web.open(request)) for _ in range(4)]
        # Three find no room, and one waits in vain.
        assert [status_on(other) for other in others] == [503] * 4
        client.go.set()
        assert status_on(working) == 404


# -- bodies and connections ------------------------------------------------------------------------


def test_body_that_is_announced_too_long_is_refused_unread(web: Web) -> None:
    head = b"POST /v1/deliveries HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with web.open(head + b"Content-Length: 1000000000000\r\n\r\n") as connection:
        assert status_on(connection) == 413


def test_body_in_chunks_is_refused_as_soon_as_it_is_too_long(web: Web) -> None:
    head = b"POST /v1/deliveries HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with web.open(head + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
        for _ in range(5):
            connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        # It never ends.
        assert status_on(connection) == 413


def test_body_in_chunks_is_read(web: Web, world: World) -> None:
    head = f"POST /v1/tokens/{world.token}/complete HTTP/1.1\r\nHost: x\r\n".encode()
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with web.open(head + b'6\r\n{"resu\r\n7\r\nlt": 1}\r\n0\r\n\r\n') as connection:
        assert status_on(connection) == 200


def test_body_shorter_than_announced_is_not_waited_for_long(web: Web, world: World) -> None:
    head = f"POST /v1/tokens/{world.token}/complete HTTP/1.1\r\nHost: x\r\n".encode()
    head += b'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"result": 1}'
    with web.open(head) as connection:
        assert status_on(connection) == 408
        assert status_on(connection) is None
    world.assert_open()


def test_body_longer_than_announced_is_cut_there(web: Web, world: World) -> None:
    head = f"POST /v1/tokens/{world.token}/complete HTTP/1.1\r\nHost: x\r\n".encode()
    head += b'Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{"result": 1}'
    with web.open(head) as connection:
        assert status_on(connection) == 422
    world.assert_open()


def test_two_lengths_are_refused(web: Web, world: World) -> None:
    head = f"POST /v1/tokens/{world.token}/complete HTTP/1.1\r\nHost: x\r\n".encode()
    head += b"Content-Length: 13\r\nContent-Length: 14\r\n\r\n"
    with web.open(head + b'{"result": 1}') as connection:
        assert status_on(connection) == 400
    world.assert_open()


def test_whoever_leaves_in_the_middle_is_forgotten(web: Web, world: World) -> None:
    head = f"POST /v1/tokens/{world.token}/complete HTTP/1.1\r\nHost: x\r\n".encode()
    with web.open(head + b"Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{"):
        pass
    assert web.post(f"/v1/tokens/{world.token}/heartbeat").status == 200
    world.assert_open()


def test_three_hundred_hanging_connections_stop_no_answer(web: Web, world: World) -> None:
    begun = f"POST /v1/tokens/{world.token}/complete HTTP/1.1\r\nHo".encode()
    with contextlib.ExitStack() as closing:
        for number in range(300):
            closing.enter_context(web.open(begun if number % 2 else b""))
        started = time.monotonic()
        assert web.post(f"/v1/tokens/{world.token}/complete", {"result": 1}).status == 200
        assert time.monotonic() - started < 2


def test_connections_that_only_wait_give_way_to_others(world: World) -> None:
    # Nobody is hung up on here for having waited long.
    options = {"connections": 20, "head_seconds": 3600.0}
    with serving(world.client, server=options) as web, contextlib.ExitStack() as closing:
        hanging = [closing.enter_context(web.open(b"GET /")) for _ in range(60)]
        assert web.post(f"/v1/tokens/{world.token}/complete", {"result": 1}).status == 200
        hanging[0].settimeout(5)  # who has waited longest
        assert status_on(hanging[0]) is None
        hanging[-1].sendall(b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_on(hanging[-1]) == 404


@pytest.mark.parametrize("sent", [b"", b"GET /v1/openapi.json HTTP/1.1\r\nHo"])
def test_head_that_does_not_come_ends_the_connection(world: World, sent: bytes) -> None:
    with serving(world.client, server={"head_seconds": 0.3}) as web, web.open(sent) as connection:
        for _ in range(3):
            # However it trickles in.
            connection.sendall(b"s" if sent else b"")
        assert status_on(connection) is None


def test_connection_is_used_again_and_closed_after_waiting(world: World) -> None:
    request = b"POST /v1/tokens/x/heartbeat HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        serving(world.client, server={"head_seconds": 0.3}) as web,
        web.open(request) as connection,
    ):
        assert status_on(connection) == 404
        connection.sendall(request)
        assert status_on(connection) == 404
        assert status_on(connection) is None


def test_whoever_reads_no_answer_is_hung_up_on(store: Any) -> None:
    request = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        Server(make_app(Client(store)), head_seconds=0.3) as running,
        Web(running.url).open() as connection,
    ):
        connection.sendall(request * 2000)  # tens of megabytes of answers
        wait_until(lambda: running.open_connections == 1)
        wait_until(lambda: running.open_connections == 0)


# -- what a key permits ----------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), OPERATION)
def test_operators_endpoints_need_the_key(
    web: Web, operator: Web, world: World, method: str, path: str
) -> None:
    before = world.snapshot()
    path = path.format(flow=world.flow_uuid)
    for header in (None, f"Bearer {KEY}x", "Bearer ", f"Basic {KEY}", KEY, "Bearer \u00e4\u00f6"):
        reply = web.ask(method, path, Authorization=header)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert world.snapshot() == before
    assert operator.ask(method, path).status == 200


def test_without_keys_there_are_no_operators_endpoints(world: World) -> None:
    with serving(world.client) as web:
        for method, path in OPERATION:
            path = path.format(flow=world.flow_uuid)
            assert web.ask(method, path, Authorization=f"Bearer {KEY}").status == 404
        assert "/v1/flows" not in web.get("/v1/openapi.json").text


def test_key_does_not_deliver_and_token_does_not_look(
    web: Web, operator: Web, world: World
) -> None:
    assert operator.post(f"/v1/tokens/{KEY}/complete", {"result": 1}).status == 404
    assert web.get("/v1/flows", Authorization=f"Bearer {world.token}").status == 401


@pytest.mark.parametrize("key", ["short", "ä" * 20, ""])
def test_key_that_can_be_guessed_is_refused(store: Any, key: str) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        make_app(Client(store), api_keys=[KEY, key])


def test_lists_come_in_pages(operator: Web, store: Any) -> None:
    worlds = {park(store).flow_uuid for _ in range(3)}
    for name, field in (("flows", "uuid"), ("delays", "flow_uuid")):
        found, after, pages = set(), "", 0
        while True:
            page = operator.get(f"/v1/{name}?limit=2{after}").document
            found |= {each[field] for each in page[name]}
            pages += 1
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert worlds <= found
        assert pages > 1
        assert operator.get(f"/v1/{name}?after=nonsense").status == 422
        assert operator.get(f"/v1/{name}?limit=0").status == 422
    assert operator.get("/v1/flows?state=SLEEPING").status == 422
    assert operator.get("/v1/delays?task_name=a&task_name=b").status == 422
    # Misspelt, it must not list everything.
    assert operator.get("/v1/flows?stat=FAILURE").status == 422


def test_lists_are_filtered(operator: Web, world: World) -> None:
    (delay,) = operator.get(f"/v1/delays?flow_uuid={world.flow_uuid}").document["delays"]
    assert (delay["task_name"], delay["details"]) == ("waits", {"who": "asks"})
    assert operator.get("/v1/delays?task_name=nobody").document == {
        "delays": [],
        "next": None,
        "flow_names": {},
    }
    assert operator.get("/v1/flows?state=FAILURE").document["flows"] == []


def test_flow_is_shown(operator: Web, world: World) -> None:
    shown = operator.get(f"/v1/flows/{world.flow_uuid}").document
    assert (shown["state"], shown["tasks"]["waits"]) == ("DELAYED", "DELAYED")
    assert shown["delays"][0]["task_name"] == "waits"
    assert operator.get("/v1/flows/none").status == 404


def test_halves_of_characters_and_tokens_in_details_can_be_shown(
    operator: Web, web: Web, world: World
) -> None:
    odd = {"half": "\ud800", "token": world.token}
    assert web.post(f"/v1/tokens/{world.token}/complete", {"result": odd}).status == 200
    assert world.client.resume(world.flow_uuid) == states.SUCCESS
    reply = operator.get(f"/v1/flows/{world.flow_uuid}")
    assert reply.document["results"]["echo"] == {"half": "\ud800", "token": "lz1.***"}


def test_no_list_shows_tokens_and_issuing_one_is_logged_without_it(
    operator: Web, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/v1/flows", "/v1/delays", f"/v1/flows/{world.flow_uuid}"):
        assert "lz1." not in operator.get(path).text
    path = f"/v1/flows/{world.flow_uuid}/tasks/waits/token"
    issued = operator.post(path).document
    assert issued["token"] == world.token
    (record,) = [each for each in caplog.records if each.name == "lazy_engine.http.audit"]
    assert world.flow_uuid in record.getMessage()
    assert world.token not in caplog.text
    assert operator.post(f"/v1/flows/{world.flow_uuid}/tasks/echo/token").status == 404


def test_requests_are_logged_by_their_route(
    web: Web, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web.post(f"/v1/tokens/{world.token}/complete", {"result": 1})
    web.get(f"/v1/tokens/{world.token}/nothing?{world.token}")

    def logged() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.name.endswith("http.access")]

    lines = wait_until(lambda: logged() if len(logged()) == 2 else [])
    assert " POST /v1/tokens/{token}/complete 200 " in lines[0]
    assert " GET - 404 " in lines[1]
    assert world.token not in caplog.text


def test_suspend_and_cancel_are_wishes(operator: Web, store: Any) -> None:
    world = park(store)
    path = f"/v1/flows/{world.flow_uuid}"
    asked = operator.post(f"{path}/suspend", {"reason": "audit"})
    assert (asked.status, asked.document["suspended"]) == (200, True)
    assert world.client.flow(world.flow_uuid).wish_reason == "audit"
    assert world.client.flow(world.flow_uuid).state == states.SUSPENDED
    # Nobody here runs flows: there is no job board, and no resumer.
    assert operator.post(f"{path}/resume").document["woken"] is False
    assert world.client.flow(world.flow_uuid).state == "DELAYED"
    assert operator.post(f"{path}/cancel", {"reason": "over"}).document["cancelled"] is True
    assert operator.post(f"{path}/cancel").document["cancelled"] is False
    assert operator.post(f"{path}/suspend").document["suspended"] is False
    for verb in ("suspend", "resume", "cancel"):
        assert operator.post(f"/v1/flows/none/{verb}").status == 404


# -- signatures ------------------------------------------------------------------------------------


class Signed:
    """Signs as the documentation says, by itself."""

    SECRET = "callers-secret-0123456789"

    def __init__(self, now: int) -> None:
        self.now = now

    def headers(self, named: str, body: bytes, at: int | None = None) -> dict[str, str]:
        timestamp = str(self.now if at is None else at)
        message = f"{timestamp}.{named}.".encode() + body
        made = hmac.new(self.SECRET.encode(), message, hashlib.sha256).hexdigest()
        return {**JSON, "X-Lazy-Timestamp": timestamp, "X-Lazy-Signature": made}


def test_signature_is_checked_beside_the_token(store: Any) -> None:
    world, other = park(store), park(store)
    signed = Signed(1_000_000)
    rotated = Signature(
        secrets=["the-next-secret-0123456789", Signed.SECRET], clock=lambda: 1_000_100.0
    )
    body = b'{"result": 1}'
    path = f"/v1/tokens/{world.token}/complete"
    good = signed.headers(world.token, body)
    with serving(world.client, signature=rotated) as web:

        def ask(headers: dict[str, str], text: bytes = body, where: str = path) -> int:
            named = {name.replace("-", "_"): value for name, value in headers.items()}
            return web.ask("POST", where, text, **named).status

        assert ask(JSON) == 401
        assert ask({**good, "X-Lazy-Signature": "0" * 64}) == 401
        assert ask({**good, "X-Lazy-Timestamp": "1000001"}) == 401
        assert ask({**good, "X-Lazy-Timestamp": "x"}) == 401
        assert ask(good, b'{"result": 2}') == 401
        assert ask(good, where=f"/v1/tokens/{other.token}/complete") == 401
        assert ask(signed.headers(world.token, body, at=1_000_100 - 301)) == 401
        assert ask(signed.headers(world.token, body, at=1_000_100 + 301)) == 401
        world.assert_open()
        assert ask(good) == 200
        assert ask(good) == 200  # the very same again is a duplicate
        batch = json.dumps({"deliveries": [{"token": other.token, "result": 1}]}).encode()
        assert ask(JSON, batch, "/v1/deliveries") == 401
        assert ask(signed.headers("", batch), batch, "/v1/deliveries") == 200


def test_signature_of_another_convention_is_checked() -> None:
    secret = "8f742231b10e8888abcd99yyyzzz85a5"
    signature = Signature(
        secrets=[secret],
        header="X-Slack-Signature",
        timestamp_header="X-Slack-Request-Timestamp",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        clock=lambda: 1531420618.0,
    )
    made = hmac.new(secret.encode(), b"v0:1531420618:{}", hashlib.sha256).hexdigest()
    headers = {"x-slack-request-timestamp": "1531420618", "x-slack-signature": f"v0={made}"}
    assert signature.allows(headers, "", b"{}")
    assert not signature.allows(headers, "", b"[]")
    assert not signature.allows({**headers, "x-slack-signature": made}, "", b"{}")


@pytest.mark.parametrize(
    "wrong",
    [{"secrets": []}, {"secrets": ["short"]}, {"signed": "{body}"}, {"signed": "{timestamp}"}],
)
def test_signature_that_proves_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"secret|at least 16|timestamp"):
        Signature(**{"secrets": [Signed.SECRET], **wrong})


# -- in other apps ---------------------------------------------------------------------------------


def test_app_is_mounted_into_an_asgi_app(world: World) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    whole = Starlette(routes=[Mount("/lazy", app=make_app(world.client, limits=LIMITS))])
    with Server(whole) as running:
        web = Web(running.url)
        path = f"/lazy/v1/tokens/{world.token}/complete"
        assert web.ask("POST", path, b"x" * 5000, Content_Type="application/json").status == 413
        assert web.post(path, {"result": 1}).document["disposition"] == "accepted"
        assert web.get("/lazy/v1/openapi.json").status == 200
        assert web.get("/v1/openapi.json").status == 404


def test_app_is_called_from_wsgi(world: World) -> None:
    from a2wsgi import ASGIMiddleware

    app = ASGIMiddleware(make_app(world.client))
    body = b'{"result": 1}'
    found: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/lazy",
        "PATH_INFO": f"/v1/tokens/{world.token}/complete",
        "QUERY_STRING": "",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
    }
    parts = app(environ, lambda status, *_: found.append(status))  # type: ignore[arg-type]
    answer = b"".join(parts)
    assert (found, json.loads(answer)["disposition"]) == (["200 OK"], "accepted")
