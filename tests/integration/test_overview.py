# SPDX-License-Identifier: Apache-2.0
"""What the page is made of, asked for over HTTP: the summary, pictures, answers by hand, events, files."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from taskflow import states, task
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine import Client, Delay, errors
from lazy_engine.http import Limits, make_app, page
from lazy_engine.http.server import Server
from lazy_engine.overview import Overview
from tests.integration.parked import World, make_flow_that_waits_to_undo, opened, park
from tests.integration.web import Web
from tests.waiting import wait_until

KEY = "operators-key-0123456789"
BEARER = f"Bearer {KEY}"
LIMITS = Limits(look_seconds=0.02, listening_seconds=20.0, listeners=3)


class Give(task.Task):
    default_provides = "answer"

    def execute(self, password: str, size: int) -> str:
        return f"{size} of it"


class Ask(task.Task):
    def execute(self, answer: str) -> Delay:
        return Delay(details={"who": self.name}, timeout_seconds=3600)


def make_wide_flow() -> Any:
    asks = [Ask(f"ask {number}") for number in range(12)]
    return linear_flow.Flow("wide").add(Give("give"), unordered_flow.Flow("asks").add(*asks))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(f"sqlite:///{tmp_path_factory.mktemp('overview') / 'lazy.sqlite'}") as made:
        yield made


@pytest.fixture(scope="module")
def url(store: Any) -> Iterator[str]:
    with Server(make_app(Client(store), api_keys=[KEY], limits=LIMITS)) as server:
        yield server.url


@pytest.fixture
def operator(url: str) -> Web:
    return Web(url, Authorization=BEARER)


@pytest.fixture
def world(store: Any) -> World:
    return park(store)


# -- views -----------------------------------------------------------------------------------------


def test_summary_tells_what_waits_and_what_went_wrong(tmp_path: Any) -> None:
    with opened(f"sqlite:///{tmp_path / 'lazy.sqlite'}") as store:
        client = Client(store)
        with Server(make_app(client, api_keys=[KEY])) as server:
            web = Web(server.url, Authorization=BEARER)
            empty = web.get("/v1/summary").document
            assert (empty["states"], empty["oldest"], empty["waiting_count"]) == ({}, [], 0)
            first, second = park(store), park(store)
            first.ledger.note_incident(second.flow_uuid, "factory failed", "x" * 5000)
            found = web.get("/v1/summary").document
            assert found["states"] == {"DELAYED": 2}
            assert (found["waiting_count"], found["incident_count"]) == (2, 1)
            (incident,) = found["incidents"]
            assert incident["uuid"] == second.flow_uuid
            assert len(incident["incident"]["message"]) < 2100
            oldest = [delay["flow_uuid"] for delay in found["oldest"]]
            assert oldest == [first.flow_uuid, second.flow_uuid]
            assert found["flow_names"] == dict.fromkeys(oldest, "flow")


def test_picture_shows_tasks_arguments_and_receipts_and_no_secret(
    operator: Web, store: Any
) -> None:
    client = Client(store)
    uuid = client.submit(make_wide_flow, store={"password": "hunter2", "size": 3})
    client.resume(uuid)
    client.complete(client.token(uuid, "ask 3"), {"token": client.token(uuid, "ask 4")})
    reply = operator.get(f"/v1/flows/{uuid}/picture")
    found = reply.document
    assert "hunter2" not in reply.text
    assert "lz1." not in reply.text.replace("lz1.***", "")
    assert found["arguments"] == [
        {"name": "password", "what": "text of 7 characters"},
        {"name": "size", "what": "a number"},
    ]
    tasks = {each["name"]: each for each in found["tasks"]}
    assert tasks["give"]["arguments"] == ["password", "size"]
    assert (tasks["give"]["look"], tasks["give"]["result"]) == ("done", "3 of it")
    assert (tasks["ask 3"]["look"], tasks["ask 3"]["result"]) == ("waiting", None)
    assert len(found["graph"]["edges"]) == 12
    delays = {each["task_name"]: each for each in found["delays"]}
    assert len(delays) == 12
    assert (delays["ask 3"]["is_open"], delays["ask 3"]["outcome"]) == (False, "result")
    assert delays["ask 4"]["is_open"]
    assert operator.get("/v1/flows/none/picture").status == 404


def test_picture_of_a_flow_that_never_ran_has_no_tasks(operator: Web, store: Any) -> None:
    uuid = Client(store).submit(make_wide_flow, store={"password": "x", "size": 1})
    found = operator.get(f"/v1/flows/{uuid}/picture").document
    assert (found["tasks"], found["graph"]) == ([], {"nodes": [], "edges": []})
    assert found["flow"]["state"] == "PENDING"


def test_waits_are_searched_and_sorted(operator: Web, store: Any) -> None:
    client = Client(store)
    uuid = client.submit(make_wide_flow, store={"password": "x", "size": 1})
    client.resume(uuid)
    one = f"flow_uuid={uuid}"
    found = operator.get(f"/v1/delays?{one}&search=WHO%22:%20%22ask%207").document
    assert [delay["task_name"] for delay in found["delays"]] == ["ask 7"]
    assert found["flow_names"] == {uuid: "wide"}
    seen: list[str] = []
    after = ""
    while True:
        page = operator.get(f"/v1/delays?{one}&order=due&limit=5{after}").document
        seen += [delay["due_at"] for delay in page["delays"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == sorted(seen)
    assert len(seen) == 12
    assert operator.get(f"/v1/delays?{one}&overdue=true").document["delays"] == []
    assert operator.get("/v1/delays?order=luck").status == 422
    (hit,) = operator.get(f"/v1/flows?search={uuid[:13]}").document["flows"]
    assert hit["uuid"] == uuid


# -- answers by hand -------------------------------------------------------------------------------


def test_answer_by_hand_is_recorded_and_logged_without_the_token(
    operator: Web, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    (delay,) = world.client.delays(flow_uuid=world.flow_uuid)
    path = f"/v1/flows/{world.flow_uuid}/delays/{delay.id}"
    assert operator.post(f"{path}/complete", {"resolt": 1}).status == 422
    assert (
        operator.ask(
            "POST", f"{path}/complete", b'{"result": NaN}', Content_Type="application/json"
        ).status
        == 422
    )
    world.assert_open()
    reply = operator.post(f"{path}/complete", {"result": 10**17 + 1})
    assert (reply.status, reply.document["disposition"]) == (200, "accepted")
    assert "lz1." not in reply.text
    assert world.client.resume(world.flow_uuid) == states.SUCCESS
    assert world.client.flow(world.flow_uuid).results["waits"] == 10**17 + 1
    (line,) = [each for each in caplog.records if each.name == "lazy_engine.http.audit"]
    assert "'waits'" in line.getMessage()
    assert "answered by hand from 127.0.0.1: accepted" in line.getMessage()
    # It waits no more: whoever still sees it open is told.
    assert operator.post(f"{path}/complete", {"result": 1}).status == 404


def test_answer_by_hand_is_for_the_attempt_that_was_seen(operator: Web, store: Any) -> None:
    one, other = park(store), park(store)
    (delay,) = one.client.delays(flow_uuid=one.flow_uuid)
    wrong = f"/v1/flows/{other.flow_uuid}/delays/{delay.id}"
    for verb, body in (("complete", {"result": 1}), ("fail", {"error": "x"}), ("token", None)):
        assert operator.post(f"{wrong}/{verb}", body).status == 404
    one.assert_open()
    other.assert_open()


def test_revert_that_waits_is_answered_by_hand(operator: Web, store: Any) -> None:
    world = park(store, make_flow_that_waits_to_undo)
    world.client.fail(world.token, "off")
    world.client.resume(world.flow_uuid)
    (delay,) = world.client.delays(flow_uuid=world.flow_uuid)
    assert delay.kind == "revert"
    path = f"/v1/flows/{world.flow_uuid}/delays/{delay.id}/fail"
    assert operator.post(path, {"error": "stuck", "kind": "Stuck"}).status == 200
    assert world.client.resume(world.flow_uuid) == states.FAILURE
    tasks = operator.get(f"/v1/flows/{world.flow_uuid}/picture").document["tasks"]
    (failed,) = [each for each in tasks if each["look"] == "failed"]
    assert "stuck" in failed["failure"]


# -- events ----------------------------------------------------------------------------------------


class Listener:
    """Reads events as they come."""

    def __init__(self, url: str, query: str = "", last_id: str = "") -> None:
        head = f"GET /v1/events{query} HTTP/1.1\r\nHost: x\r\nAuthorization: {BEARER}\r\n"
        head += f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        self.connection = Web(url).open(f"{head}\r\n".encode("latin-1"))
        self.connection.settimeout(10)
        self.file = self.connection.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            self.headers[name.lower()] = value

    def next(self) -> tuple[str, Any, str]:
        """Return the next event's name, content and id."""
        fields: dict[str, str] = {}
        while True:
            line = self.file.readline()
            if not line:
                return "closed", None, ""
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name in ("event", "id", "data"):
                fields[name] = value
            if len(fields) == 3:
                return fields["event"], json.loads(fields["data"]), fields["id"]

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.connection.close()


def test_changes_are_told_as_they_come(url: str, world: World) -> None:
    with Listener(url, f"?flow_uuid={world.flow_uuid}") as listener:
        assert listener.headers["content-type"].startswith("text/event-stream")
        assert listener.headers["x-accel-buffering"] == "no"
        name, summary, _ = listener.next()
        assert (name, summary["states"]["DELAYED"] >= 1) == ("summary", True)
        assert listener.next()[0] == "flow"
        world.client.heartbeat(world.token, progress=0.5)
        while (told := listener.next())[0] != "flow":
            pass
        assert told[1] == {"flow_uuid": world.flow_uuid}
        ended = summary["states"].get("SUCCESS", 0)
        world.client.complete(world.token, 1)
        world.client.resume(world.flow_uuid)
        while True:
            name, content, last_id = listener.next()
            if name == "summary" and content["states"].get("SUCCESS", 0) > ended:
                break
    # Whoever comes again with what he saw last is told nothing that he knows.
    with Listener(url, "", last_id.split("/")[0] + "/") as again:
        again.connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            again.next()


@pytest.mark.parametrize("last_id", ["\u00e9vil", "a/b/c", "0123456789abcdef0/", "x" * 90])
def test_nothing_odd_is_sent_back_as_an_events_id(url: str, last_id: str) -> None:
    with Listener(url, last_id=last_id) as listener:
        name, _, event_id = listener.next()
    assert name == "summary"
    assert re.fullmatch("[0-9a-f]{16}/", event_id)


def test_no_more_listen_than_may_and_who_leaves_makes_room(url: str, operator: Web) -> None:
    with contextlib.ExitStack() as closing:
        many = [closing.enter_context(Listener(url)) for _ in range(LIMITS.listeners)]
        assert {listener.next()[0] for listener in many} == {"summary"}
        refused = operator.get("/v1/events")
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    wait_until(lambda: _may_listen(url))


def _may_listen(url: str) -> bool:
    with Listener(url) as listener:
        return listener.status == 200


def test_all_who_listen_cost_the_store_one_look(store: Any) -> None:
    looks = []

    class Counting(Overview):
        def summary(self) -> Any:
            looks.append(1)
            return super().summary()

    limits = Limits(look_seconds=60.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lazy_engine.http.overview.overview_module.Overview", Counting)
        app = make_app(Client(store), api_keys=[KEY], limits=limits)
    with Server(app) as server, contextlib.ExitStack() as closing:
        many = [closing.enter_context(Listener(server.url)) for _ in range(8)]
        assert {listener.next()[0] for listener in many} == {"summary"}
        assert len(looks) == 1


def test_store_that_is_away_is_told_and_so_is_its_return(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Any) -> Any:
        raise errors.StoreUnavailable("no route to db.internal")

    app = make_app(Client(store), api_keys=[KEY], limits=LIMITS)
    with Server(app) as server, Listener(server.url) as listener:
        assert listener.next()[0] == "summary"
        with monkeypatch.context() as patch:
            patch.setattr(Overview, "summary", fail)
            name, problem, _ = listener.next()
            assert (name, problem["error"]) == ("away", "unavailable")
            assert "db.internal" not in problem["message"]
        assert listener.next()[0] == "summary"


def test_listener_is_sent_away_after_its_time(store: Any) -> None:
    limits = Limits(listening_seconds=0.1, look_seconds=0.02)
    with Server(make_app(Client(store), api_keys=[KEY], limits=limits)) as server:
        with Listener(server.url) as listener:
            names = [listener.next()[0] for _ in range(2)]
        assert names == ["summary", "end"]


def test_listeners_do_not_keep_a_server_from_stopping(store: Any) -> None:
    app = make_app(Client(store), api_keys=[KEY], limits=LIMITS)
    with contextlib.ExitStack() as closing:
        server = closing.enter_context(Server(app))
        listener = closing.enter_context(Listener(server.url))
        assert listener.next()[0] == "summary"
        begun = time.monotonic()
        server.stop()
        # Answers at work are given 30 seconds.
        assert time.monotonic() - begun < 8
        assert listener.next()[0] == "end"


# -- the page's files ------------------------------------------------------------------------------


def test_files_of_the_page_are_kept_by_whoever_has_them(url: str) -> None:
    web = Web(url)
    index = web.get("/")
    assert (index.headers["cache-control"], index.status) == ("no-cache", 200)
    assert web.get("/", If_None_Match=index.headers["etag"]).status == 304
    names = re.findall(r'(?:src|href)="(page/[^"]+)"', index.text)
    assert len(names) == 4
    for name in names:
        reply = web.get(f"/{name}")
        assert (reply.status, "immutable" in reply.headers["cache-control"]) == (200, True)
        assert reply.headers["x-content-type-options"] == "nosniff"
    wrong = names[0].replace(names[0].split("/")[1], "0" * 16)
    for path in (wrong, f"page/{names[0].split('/')[1]}/..%2fpage.py", "page/x/y", "page/"):
        assert web.get(f"/{path}").status == 404


def test_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(url: str) -> None:
    web = Web(url)
    index = web.get("/")
    policy = dict(
        part.split(" ", 1) for part in index.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert not re.search(r"<style|<script>|\sstyle=|\son\w+=|https?:", index.text)
    for name, content in page._read().items():
        text = content.decode().replace("http://www.w3.org/", "")
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacent|eval\(", text), name
    data = web.get("/v1/summary")
    assert data.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in data.headers["content-security-policy"]


def test_files_are_small_enough_to_be_read_by_people() -> None:
    for name, content in page._read().items():
        assert content.count(b"\n") < 400, name


def test_mounted_below_a_path_the_page_finds_its_files(store: Any) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = Starlette(routes=[Mount("/lazy", make_app(Client(store), api_keys=[KEY]))])
    with Server(app) as server:
        web = Web(server.url)
        script = re.search(r'src="([^"]+)"', web.get("/lazy/").text)
        assert script is not None
        assert web.get(f"/lazy/{script[1]}").status == 200
