# SPDX-License-Identifier: Apache-2.0
"""Job boards that tell of nothing by themselves and on which claims are for a time: Redis and etcd, real servers."""

from __future__ import annotations

import contextlib
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from taskflow.jobs import backends as jobboards

from lazy_engine import Client, Disposition, Result, cli, rules
from lazy_engine.board import of
from lazy_engine.cli import ExitCode
from tests.integration import wake_flows
from tests.integration.killed import kill_at_work
from tests.integration.parked import make_flow, opened, park
from tests.integration.test_conductor import parked, running
from tests.waiting import wait_until

Open = Callable[[], Any]


@pytest.fixture(params=["redis", "etcd"])
def conf(request: pytest.FixtureRequest) -> dict[str, Any]:
    server = request.getfixturevalue(request.param)
    place = {"redis": "namespace", "etcd": "path"}[request.param]
    board = {"board": request.param, "host": "127.0.0.1", "port": server.port}
    return {**board, place: uuid.uuid4().hex}


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Any]:
    with opened(sqlite_url) as made:
        yield made


@pytest.fixture
def open_board(conf: dict[str, Any], store: Any) -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def make() -> Any:
            board = jobboards.fetch("tests", conf, persistence=store)
            stack.callback(board.close)
            board.connect()
            return board

        yield make


def jobs_on(board: Any) -> list[Any]:
    return list(of(board).jobs())


@pytest.mark.parametrize(
    ("conf", "kind"),
    [("redis", "lazy"), ("redis", "blocking"), ("redis", "nonblocking"), ("etcd", "lazy")],
    indirect=["conf"],
)
def test_every_conductor_parks_and_resumes_lazy_flows(
    open_board: Open, store: Any, kind: str
) -> None:
    board = open_board()
    client = Client(store, board)
    # Nobody tells the conductor of a new job, whatever it may have been told to wait.
    with running(kind, open_board(), store, wait_timeout=3600.0 if kind == "lazy" else 0.2):
        (flow_uuid,) = parked(client)
        wait_until(lambda: not jobs_on(board), what="the board to be empty while parked")
        answered_at = time.time()
        receipt = client.complete(client.token(flow_uuid, "ask"), 42)
        assert (receipt.disposition, receipt.woken) == (Disposition.ACCEPTED, True)
        assert client.wait(flow_uuid, timeout_seconds=10) == "SUCCESS"
        results = client.flow(flow_uuid).results
        assert results["ask"] == 42
        print("answer to resumed task, seconds:", round(results["note"] - answered_at, 2))


def test_many_answers_to_one_parked_flow_ring_once(open_board: Open, store: Any) -> None:
    board = open_board()
    world = park(store, board=board)
    answers = world.client.deliver_many([(world.token, Result(1)), (world.token, Result(1))])
    assert [answer.disposition for answer in answers] == [  # type: ignore[union-attr]
        Disposition.ACCEPTED,
        Disposition.DUPLICATE,
    ]
    assert world.client.complete(world.token, 1).woken
    (job,) = jobs_on(board)
    assert job.details == {"flow_uuid": world.flow_uuid}
    assert job.name == "flow"
    with running("lazy", board, store):
        assert world.client.wait(world.flow_uuid, timeout_seconds=10) == "SUCCESS"
        wait_until(lambda: not jobs_on(board))


def test_claim_is_renewed_while_its_flow_is_at_work_and_given_up_then(
    open_board: Open,
    store: Any,
    conf: dict[str, Any],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board, other = open_board(), open_board()
    # etcd knows no shorter claims.
    driver = type(of(board))
    monkeypatch.setattr(driver, "claim_seconds", 1.0 if conf["board"] == "redis" else 2.0)
    renewals: list[str] = []
    plain = driver.renew

    def renew(self: Any, job: Any, who: str) -> bool:
        renewals.append(who)
        return plain(self, job, who)

    monkeypatch.setattr(driver, "renew", renew)
    client = Client(store, board)
    with running("lazy", board, store):
        flow_uuid = client.submit(wake_flows.goes_step_by_step, store={"directory": str(tmp_path)})
        wait_until((tmp_path / "begun").exists)
        (job,) = jobs_on(other)
        claimant = of(other).owner_of(job)
        assert claimant is not None
        # There are three in the life of a claim that nobody renews.
        wait_until(lambda: len(renewals) > 4)
        # Another claim of the same conductor would have another name.
        assert of(other).owner_of(job) == claimant
        (tmp_path / "go").touch()
        assert client.wait(flow_uuid, timeout_seconds=10) == "SUCCESS"
        wait_until(lambda: not jobs_on(other))


def test_killed_conductor_is_taken_over(
    open_board: Open, store: Any, sqlite_url: str, conf: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    board = open_board()
    client = Client(store, board)
    script = (
        "import ast, sys, taskflow.conductors.backends as c, taskflow.jobs.backends as j\n"
        "from lazy_engine import Client\n"
        "from lazy_engine.board import of\n"
        "backend = Client({'connection': sys.argv[1]}).backend\n"
        "board = j.fetch('killed', ast.literal_eval(sys.argv[2]), persistence=backend)\n"
        "of(board).connect()\n"
        "type(of(board)).claim_seconds = 2.0\n"
        "options = {'lease_seconds': 1.0}\n"
        "c.fetch('lazy', 'killed', board, persistence=backend, engine_options=options).run()\n"
    )
    flow_uuid = kill_at_work(client, script, [sqlite_url, repr(conf)], tmp_path)
    with running("lazy", board, store, watchdog=False):  # only its job leads to the flow
        assert client.wait(flow_uuid, timeout_seconds=30) == "SUCCESS"
        wait_until(lambda: not jobs_on(board))
    assert client.flow(flow_uuid).results == {"ask": "go", "hang": "ran again"}


def test_board_that_forgot_its_jobs_is_rung_again(
    open_board: Open, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "RING_FRESH_SECONDS", 1.0)
    board = open_board()
    world = park(store, board=board)
    assert world.client.complete(world.token, "kept").woken
    for job in jobs_on(board):
        of(board).claim(job, "the tests")
        of(board).consume(job, "the tests")
    with running("lazy", board, store):
        assert world.client.wait(world.flow_uuid, timeout_seconds=10) == "SUCCESS"


def test_command_line_takes_the_boards_address(
    conf: dict[str, Any],
    open_board: Open,
    store: Any,
    sqlite_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = {"redis": "namespace", "etcd": "path"}[conf["board"]]
    address = f"{conf['board']}://127.0.0.1:{conf['port']}?{place}={conf[place]}"
    words = ["--persistence", sqlite_url, "--jobboard", address]
    assert cli.main(["submit", "tests.integration.parked.make_flow", *words]) == ExitCode.DONE
    flow_uuid = capsys.readouterr().out.strip()
    board = open_board()
    (job,) = jobs_on(board)
    assert job.details == {"flow_uuid": flow_uuid}
    assert cli.main(["doctor", *words]) == ExitCode.DONE
    with running("lazy", board, store):
        client = Client(store)
        wait_until(lambda: client.flow(flow_uuid).state == "DELAYED")
        answer = ["complete", "--flow", flow_uuid, "--task", "waits", "--result", "1"]
        assert cli.main([*answer, *words]) == ExitCode.DONE
        assert client.wait(flow_uuid, timeout_seconds=10) == "SUCCESS"


def test_first_come_is_first_served(open_board: Open, store: Any) -> None:
    board = open_board()
    client = Client(store, board)
    uuids = [client.submit(make_flow) for _ in range(4)]
    served: list[str] = []
    with running("lazy", board, store, max_simultaneous_jobs=1) as conductor:
        conductor.notifier.register(
            "flow_parked", lambda _event, details: served.append(details["flow_uuid"])
        )
        wait_until(lambda: len(served) >= 4)
    # The first one may have been claimed before anybody listened.
    assert [flow_uuid for flow_uuid in uuids if flow_uuid in served] == served[:4]
