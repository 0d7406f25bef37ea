# SPDX-License-Identifier: Apache-2.0
"""``lazy-engine serve`` and ``consume`` as processes of their own."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import kombu
import pytest
from taskflow import states

from lazy_engine.cli import main
from lazy_engine.cli.exit_code import ExitCode
from tests.integration import wake_flows
from tests.integration.parked import opened, park
from tests.integration.test_cli import environment
from tests.integration.test_conductor import open_board
from tests.integration.web import Web
from tests.servers import Redis, ZooKeeper
from tests.waiting import wait_until

REPOSITORY = pathlib.Path(__file__).parents[2]
KEY = "operators-key-0123456789"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('serve') / 'lazy.sqlite'}"


@pytest.fixture(scope="module")
def store(url: str) -> Iterator[Any]:
    with opened(url) as made:
        yield made


class Command:
    """A command that runs until it is told to stop."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.started = self.next()

    def next(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Return the exit code, and what was written to stderr."""
        self.process.send_signal(number)
        assert self.next()["signal"] == number.name
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@contextlib.contextmanager
def running(url: str, *words: str, **variables: str) -> Iterator[Command]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lazy_engine.cli", "--json", *words],
        cwd=REPOSITORY,
        env=environment(LAZY_ENGINE_PERSISTENCE=url, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Command(process)
    finally:
        process.kill()
        process.communicate()


def test_answer_by_http_runs_the_flow_on(url: str, store: Any) -> None:
    world, other = park(store), park(store)
    variables = {"LAZY_ENGINE_HTTP_API_KEY": KEY}
    with running(url, "serve", "--port", "0", "--resume", "--verbose", **variables) as serve:
        web = Web(serve.started["url"], Authorization=f"Bearer {KEY}")
        reply = web.post(f"/v1/tokens/{world.token}/complete", {"result": "good"})
        assert (reply.status, reply.document["woken"]) == (200, True)
        assert world.client.wait(world.flow_uuid, timeout_seconds=20) == states.SUCCESS
        issued = web.post(f"/v1/flows/{other.flow_uuid}/tasks/waits/token").document["token"]
        assert issued == other.token
        # The watchdog inside sees to what nobody delivers.
        napping = world.client.submit(wake_flows.naps, store={"seconds": 0.1})
        world.client.resume(napping)
        assert world.client.wait(napping, timeout_seconds=20) == states.SUCCESS
        with web.open(b"GET /v1/fl") as _hanging:
            code, log = serve.stop()
    assert code == ExitCode.DONE
    assert "POST /v1/tokens/{token}/complete 200" in log
    assert f"of flow '{other.flow_uuid}' issued to 127.0.0.1" in log
    assert "lz1." not in log.replace("lz1.***", "")
    assert KEY not in log


def test_request_at_work_is_finished_before_the_end(url: str, store: Any) -> None:
    world = park(store)
    with running(url, "serve", "--port", "0") as serve:
        web = Web(serve.started["url"])
        body = b'{"result": 1}'
        head = f"POST /v1/tokens/{world.token}/complete HTTP/1.1\r\nHost: x\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with web.open(head.encode() + body[:5]) as connection:
            # It has been let in when another one on a new connection is answered.
            assert web.get("/v1/openapi.json").status == 200
            serve.process.send_signal(signal.SIGINT)
            assert serve.next()["signal"] == "SIGINT"
            connection.sendall(body[5:])
            assert b" 200 OK" in connection.recv(4096)
        serve.process.communicate(timeout=20)
        assert serve.process.returncode == ExitCode.DONE
    (delay,) = world.ledger.delays_of(world.flow_uuid)
    assert delay.outcome.body == "1"


def test_with_a_job_board_it_only_rings(
    url: str, store: Any, zookeeper: ZooKeeper, jobboard_path: str
) -> None:
    world = park(store)
    address = f"zookeeper://{zookeeper.hosts}{jobboard_path}"
    words = ("serve", "--port", "0", "--resume", "--jobboard", address)
    with running(url, *words) as serve, open_board(zookeeper, jobboard_path, store) as board:
        reply = Web(serve.started["url"]).post(f"/v1/tokens/{world.token}/complete", {"result": 1})
        assert reply.document["woken"] is True
        wait_until(lambda: board.job_count == 1)
        assert serve.stop()[0] == ExitCode.DONE
    assert world.client.flow(world.flow_uuid).state == "DELAYED"


def test_consume_delivers_and_runs_the_flow_on(url: str, store: Any) -> None:
    world = park(store)
    with (
        Redis() as redis,
        running(url, "consume", "--resume", LAZY_ENGINE_QUEUE=redis.url) as consume,
    ):
        with kombu.Connection(redis.url) as connection:
            queue = connection.SimpleQueue("lazy-engine")
            queue.put({"token": world.token, "result": "good"}, serializer="json")
            queue.close()
        assert world.client.wait(world.flow_uuid, timeout_seconds=20) == states.SUCCESS
        code, log = consume.stop()
    assert (code, log) == (ExitCode.DONE, "")


def test_keys_and_addresses_that_will_not_do_are_wrong_use(
    url: str, store: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["--persistence", url, *words]) == ExitCode.WRONG_USE
        return capsys.readouterr().err

    weak, empty = tmp_path / "weak", tmp_path / "empty"
    weak.write_text("hunter2\n")
    empty.write_text("\n")
    text = refused("serve", "--port", "0", "--api-key-file", str(weak))
    assert "at least 16" in text
    assert "hunter2" not in text
    assert "no key" in refused("serve", "--api-key-file", str(empty))
    assert "cannot read" in refused("serve", "--signature-key-file", str(tmp_path / "none"))
    assert "--port" in refused("serve", "--port", "70000")
    assert "--workers" in refused("serve", "--workers", "0", "--resume")
    assert "no queue" in refused("consume")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "cannot listen" in refused("serve", "--port", port)


def test_without_its_extra_a_command_says_so() -> None:
    script = """
import sys
sys.modules.update(fastapi=None, kombu=None)
from lazy_engine.cli import main
for command in ("serve", "consume"):
    assert main([command, "--persistence", "sqlite:////nowhere/x.db"]) == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'lazy_engine[http]'" in done.stderr
    assert "pip install 'lazy_engine[mq]'" in done.stderr


def test_keys_for_looking_and_metrics_are_served(
    url: str, store: Any, tmp_path: pathlib.Path
) -> None:
    read, full = "read-key-0123456789", "full-key-0123456789"
    (tmp_path / "keys").write_text(f"{read}\n")
    words = ["serve", "--port", "0", "--read-key-file", str(tmp_path / "keys")]
    words += ["--metrics-port", "0", "--telemetry"]
    with running(url, *words, LAZY_ENGINE_HTTP_API_KEY=full) as command:
        assert command.started["event"] == "metrics"
        served = command.next()["url"]
        world = park(store)
        reader, operator = (Web(served, Authorization=f"Bearer {key}") for key in (read, full))
        Web(served).post(f"/v1/tokens/{world.token}/complete", {"result": 1})
        suspend = f"/v1/flows/{world.flow_uuid}/suspend"
        assert (reader.post(suspend).status, operator.post(suspend).status) == (403, 200)
        accepted = 'lazy_engine_deliveries_total{disposition="accepted"} 1.0'
        assert accepted in reader.get("/metrics").text
        assert accepted in Web(command.started["url"]).get("/metrics").text
        assert command.stop()[0] == ExitCode.DONE


def test_watchdog_and_conductor_have_metrics(
    url: str, store: Any, zookeeper: ZooKeeper, jobboard_path: str
) -> None:
    board = f"zookeeper://{zookeeper.hosts}{jobboard_path}"
    metrics = ("--metrics-port", "0", "--telemetry")
    with (
        running(url, "watchdog", *metrics) as watchdog,
        running(url, "conductor", *metrics, LAZY_ENGINE_JOBBOARD=board) as conductor,
    ):
        for command in (watchdog, conductor):
            assert command.started["event"] == "metrics"
            assert "lazy_engine_store_up 1.0" in Web(command.started["url"]).get("/metrics").text
