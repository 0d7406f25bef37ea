# SPDX-License-Identifier: Apache-2.0
"""Wake and resume through a real ZooKeeper."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from taskflow import exceptions as taskflow_exceptions
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards

from lazy_engine import Client, Disposition, Result
from tests.integration import wake_flows
from tests.integration.killed import kill_at_work
from tests.servers import ZooKeeper
from tests.waiting import wait_until


@contextlib.contextmanager
def open_board(server: ZooKeeper, path: str, persistence: Any) -> Iterator[Any]:
    conf = {"board": "zookeeper", "hosts": server.hosts, "path": path, "check_compatible": False}
    board = jobboards.fetch("tests", conf, persistence=persistence)
    board.connect()
    try:
        yield board
    finally:
        board.close()


@contextlib.contextmanager
def running(kind: str, board: Any, persistence: Any, **options: Any) -> Iterator[Any]:
    conductor = conductors.fetch(
        kind, "tests", board, persistence=persistence, engine="lazy", **options
    )
    thread = threading.Thread(target=conductor.run)
    thread.start()
    try:
        yield conductor
    finally:
        conductor.stop()
        thread.join(30)
        assert not thread.is_alive(), "the conductor did not stop"


@pytest.fixture(params=["sqlite", "postgresql", "mysql", "dir", "zookeeper"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def client_on(
    url: str, zookeeper: ZooKeeper, jobboard_path: str
) -> Iterator[Callable[[], tuple[Client, Any]]]:
    with contextlib.ExitStack() as stack:

        def make() -> tuple[Client, Any]:
            backend = Client({"connection": url}).backend
            stack.callback(backend.close)
            board = stack.enter_context(open_board(zookeeper, jobboard_path, backend))
            return Client(backend, board), board

        yield make


def parked(client: Client, count: int = 1) -> list[str]:
    uuids = [client.submit(wake_flows.one_wait) for _ in range(count)]
    wait_until(
        lambda: {client.flow(flow_uuid).state for flow_uuid in uuids} == {"DELAYED"},
        timeout_seconds=30,
    )
    return uuids


@pytest.mark.parametrize("kind", ["lazy", "blocking", "nonblocking"])
def test_every_conductor_parks_and_resumes_lazy_flows(
    client_on: Callable[[], tuple[Client, Any]], kind: str
) -> None:
    client, board = client_on()
    with running(kind, board, client.backend):
        (flow_uuid,) = parked(client)
        wait_until(lambda: board.job_count == 0, what="the board to be empty while parked")
        receipt = client.complete(client.token(flow_uuid, "ask"), 42)
        assert (receipt.disposition, receipt.woken) == (Disposition.ACCEPTED, True)
        assert client.wait(flow_uuid, timeout_seconds=30) == "SUCCESS"
        assert client.flow(flow_uuid).results["ask"] == 42


def test_parking_and_ending_are_told_apart(
    client_on: Callable[[], tuple[Client, Any]],
) -> None:
    client, board = client_on()
    told: list[tuple[str, str]] = []
    with running("lazy", board, client.backend) as conductor:
        for event in ("flow_parked", "flow_ended"):
            conductor.notifier.register(
                event, lambda event, details: told.append((event, details["flow_uuid"]))
            )
        (flow_uuid,) = parked(client)
        wait_until(lambda: told == [("flow_parked", flow_uuid)])
        client.complete(client.token(flow_uuid, "ask"), 1)
        wait_until(lambda: told[1:] == [("flow_ended", flow_uuid)])


def test_many_answers_to_one_parked_flow_ring_once(
    client_on: Callable[[], tuple[Client, Any]],
) -> None:
    client, board = client_on()
    flow_uuid = client.submit(wake_flows.one_wait)
    wait_until(lambda: board.job_count == 1)
    for job in board.iterjobs():
        board.claim(job, "tests")
        board.consume(job, "tests")
    assert client.resume(flow_uuid) == "DELAYED"
    token = client.token(flow_uuid, "ask")
    posted: list[Any] = []
    board.notifier.register("POSTED", lambda _event, details: posted.append(details["job"]))
    answers = client.deliver_many([(token, Result(1)), (token, Result(1)), (token, Result(2))])
    again = client.complete(token, 1)
    assert [answer.disposition for answer in answers] == [  # type: ignore[union-attr]
        Disposition.ACCEPTED,
        Disposition.DUPLICATE,
        Disposition.CONFLICT,
    ]
    assert again.disposition is Disposition.DUPLICATE
    assert again.woken
    wait_until(lambda: posted)
    assert board.job_count == 1
    (job,) = board.iterjobs()
    assert job.details == {"flow_uuid": flow_uuid}
    assert job.name == "one-wait"


def test_a_killed_conductor_is_taken_over(
    url: str,
    client_on: Callable[[], tuple[Client, Any]],
    zookeeper: ZooKeeper,
    jobboard_path: str,
    tmp_path: pathlib.Path,
) -> None:
    client, board = client_on()
    script = (
        "import sys, taskflow.conductors.backends as c, taskflow.jobs.backends as j\n"
        "from lazy_engine import Client\n"
        "backend = Client({'connection': sys.argv[1]}).backend\n"
        "conf = {'board': 'zookeeper', 'hosts': sys.argv[2], 'path': sys.argv[3],"
        " 'check_compatible': False, 'timeout': 2.0}\n"
        "board = j.fetch('killed', conf, persistence=backend)\n"
        "board.connect()\n"
        "c.fetch('lazy', 'killed', board, persistence=backend).run()\n"
    )
    flow_uuid = kill_at_work(client, script, [url, zookeeper.hosts, jobboard_path], tmp_path)
    with running("lazy", board, client.backend):
        assert client.wait(flow_uuid, timeout_seconds=60) == "SUCCESS"
    assert client.flow(flow_uuid).results == {"ask": "go", "hang": "ran again"}


def test_a_woken_task_runs_within_a_moment(
    client_on: Callable[[], tuple[Client, Any]],
) -> None:
    """Not a timed test: only that no poll of a second or more stands in between."""
    client, board = client_on()
    with running("lazy", board, client.backend, wait_timeout=3600.0):
        took = []
        for flow_uuid in parked(client, 5):
            token = client.token(flow_uuid, "ask")
            answered_at = time.time()
            client.complete(token, 1)
            assert client.wait(flow_uuid, timeout_seconds=30) == "SUCCESS"
            took.append(client.flow(flow_uuid).results["note"] - answered_at)
        print("answer to resumed task, milliseconds:", [round(t * 1000, 1) for t in took])


def test_closed_four_letter_words_need_the_documented_setting(url: str) -> None:
    with ZooKeeper(whitelist="srvr") as server:
        backend = Client({"connection": url}).backend
        try:
            conf = {"board": "zookeeper", "hosts": server.hosts, "path": "/closed"}
            board = jobboards.fetch("tests", conf, persistence=backend)
            conductor = conductors.fetch("lazy", "tests", board, persistence=backend)
            with pytest.raises(taskflow_exceptions.JobFailure, match="check_compatible"):
                conductor.connect()
            with open_board(server, "/closed", backend) as opened:
                assert opened.connected
        finally:
            backend.close()
