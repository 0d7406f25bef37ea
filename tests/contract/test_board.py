# SPDX-License-Identifier: Apache-2.0
"""What TaskFlow's job boards and their clients keep to themselves, and their defects that ``lazy_engine.board`` makes good.

A failure here after an upgrade says what changed. Where a defect is gone, so can be what makes it good.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import uuid
from collections.abc import Iterator
from concurrent import futures
from typing import Any
from unittest import mock

import etcd3gw
import pytest
from kazoo.exceptions import ConnectionLoss
from kazoo.protocol.states import KazooState, KeeperState
from taskflow import exceptions as taskflow_exceptions
from taskflow import states
from taskflow.jobs import backends as jobboards
from taskflow.jobs import base as jobs_base
from taskflow.jobs.backends import impl_etcd, impl_redis, impl_zookeeper
from taskflow.jobs.base import JobPriority

from lazy_engine import board
from lazy_engine.board import Board, EtcdBoard, RedisBoard, ZookeeperBoard
from tests.servers import Etcd, Redis, ZooKeeper
from tests.servers.process import free_port
from tests.waiting import wait_until


@contextlib.contextmanager
def opened(kind: str, **conf: Any) -> Iterator[Any]:
    jobboard = jobboards.fetch("tests", {"board": kind, "host": "127.0.0.1", **conf})
    with contextlib.closing(jobboard):
        board.of(jobboard).connect()
        yield jobboard


@pytest.fixture
def redis_board(redis: Redis) -> Iterator[Any]:
    with opened("redis", port=redis.port, namespace=uuid.uuid4().hex) as jobboard:
        yield jobboard


@pytest.fixture
def etcd_board(etcd: Etcd) -> Iterator[Any]:
    with opened("etcd", port=etcd.port, path=uuid.uuid4().hex) as jobboard:
        yield jobboard


@pytest.fixture(params=["redis", "etcd"])
def timed(request: pytest.FixtureRequest) -> Any:
    """A board on which claims are for a time."""
    return request.getfixturevalue(f"{request.param}_board")


def test_every_board_has_its_driver(redis_board: Any, etcd_board: Any) -> None:
    assert type(board.of(redis_board)) is RedisBoard
    assert type(board.of(etcd_board)) is EtcdBoard
    made = impl_zookeeper.ZookeeperJobBoard("board", {"path": "/jobs"}, client=mock.Mock())
    assert type(board.of(made)) is ZookeeperBoard
    assert type(board.of(object())) is Board
    for jobboard in (redis_board, etcd_board):
        assert not board.of(jobboard).notifies, "then it need not be read all the time"


# -- ZooKeeper -------------------------------------------------------------


def test_zookeeper_board_has_its_client_where_it_is_asked() -> None:
    client = mock.Mock(spec=["connected", "add_listener", "handler"], connected=False)
    client.handler = mock.Mock()
    jobboard = impl_zookeeper.ZookeeperJobBoard("board", {"path": "/jobs"}, client=client)
    assert not ZookeeperBoard(jobboard).is_connected
    client.connected = True
    assert ZookeeperBoard(jobboard).is_connected
    # The day that this holds after a lost session too, is_connected needs no driver.
    assert not jobboard.connected


def test_zookeeper_boards_client_tells_of_its_connection() -> None:
    jobboard = impl_zookeeper.ZookeeperJobBoard("board", {"path": "/jobs", "hosts": "127.0.0.1:1"})
    client = jobboard._client
    assert ZookeeperBoard(jobboard).is_closed
    noted: list[str] = []
    stop = ZookeeperBoard(jobboard).watch_connection(lambda: noted.append("changed"))
    client._session_callback(KeeperState.CONNECTED)
    assert noted == ["changed"]
    assert not ZookeeperBoard(jobboard).is_closed
    # Kazoo now looks for its server again, and holds calls back until it is there.
    client._session_callback(KeeperState.CONNECTING)
    assert noted == ["changed"] * 2
    assert not ZookeeperBoard(jobboard).is_closed
    assert not ZookeeperBoard(jobboard).is_connected
    stop()
    client._session_callback(KeeperState.CONNECTED)
    assert noted == ["changed"] * 2
    client.stop()
    client.close()


def test_calls_that_kazoo_holds_back_can_be_failed() -> None:
    jobboard = impl_zookeeper.ZookeeperJobBoard("board", {"path": "/jobs", "hosts": "127.0.0.1:1"})
    client = jobboard._client
    client.start_async()
    wait_until(lambda: client.client_state == KeeperState.CONNECTING)
    with futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.exists, "/jobs")
        wait_until(lambda: client._queue)
        assert not held.done()
        ZookeeperBoard(jobboard).fail_held_calls()
        assert isinstance(held.exception(timeout=5), ConnectionLoss)
    client.stop()
    client.close()


@pytest.fixture
def two_boards(zookeeper: ZooKeeper, jobboard_path: str) -> Iterator[tuple[Any, Any]]:
    conf = {"hosts": zookeeper.hosts, "path": f"{jobboard_path}/jobs", "check_compatible": False}
    with (
        contextlib.closing(impl_zookeeper.ZookeeperJobBoard("first", conf)) as first,
        contextlib.closing(impl_zookeeper.ZookeeperJobBoard("second", conf)) as second,
    ):
        first.connect()
        second.connect()
        yield first, second


def test_zookeeper_board_that_lost_its_watch_listens_again(two_boards: tuple[Any, Any]) -> None:
    deaf, other = two_boards
    made = ZookeeperBoard(deaf)
    made.prepare()
    # The watch is that of the look; TaskFlow's own, which is stopped, was there before.
    wait_until(lambda: made._hearing._taken_in == made._hearing._asked > 0)
    lose_watch(deaf)
    assert not ZookeeperBoard(deaf).hears_of_jobs()
    other.post("unheard of")
    wait_until(lambda: other.job_count == 1)
    assert deaf.job_count == 0
    ZookeeperBoard(deaf).listen_for_jobs()
    wait_until(lambda: ZookeeperBoard(deaf).hears_of_jobs() and deaf.job_count == 1)
    other.post("heard of")
    wait_until(lambda: deaf.job_count == 2)


def lose_watch(jobboard: Any) -> None:
    """Leave a job board as it is when kazoo takes a lost watch for an established one."""
    jobboard._client._child_watchers.clear()


def test_zookeeper_board_hears_of_all_jobs_though_taskflows_watch_is_stopped(
    two_boards: tuple[Any, Any],
) -> None:
    """What it knows without that watch, TaskFlow's own methods show."""
    hearing, other = two_boards
    with mock.patch.object(
        hearing._job_watcher, "_func", side_effect=AssertionError, autospec=True
    ) as called:
        ZookeeperBoard(hearing).prepare()
        told: list[str] = []
        end = ZookeeperBoard(hearing).attend(
            "tests", lambda job: told.append(job.name), lambda: None
        )
        for name in ("first", "second"):
            other.post(name)
        wait_until(lambda: sorted(told) == ["first", "second"])
        jobs = {job.name: job for job in hearing.iterjobs()}
        other.claim(other._known_jobs[jobs["first"].path], "somebody")
        wait_until(lambda: ZookeeperBoard(hearing)._hearing.is_claimed(jobs["first"]))
        assert [job.name for job in ZookeeperBoard(hearing).unclaimed_jobs(ensure_fresh=False)] == [
            "second"
        ]
        other.consume(jobs["first"], "somebody")
        wait_until(lambda: hearing.job_count == 1)
        end()
        other.post("third")
        wait_until(lambda: hearing.job_count == 2)
        assert not called.called
    assert sorted(told) == ["first", "second"]


def test_zookeeper_job_posted_during_a_look_is_not_taken_for_gone(
    two_boards: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, other = two_boards
    made = ZookeeperBoard(looking)
    made.prepare()
    wait_until(made.hears_of_jobs)
    gone: list[Any] = []
    looking.notifier.register(jobs_base.REMOVAL, lambda _e, details: gone.append(details["job"]))
    hearing, late = made._hearing, []
    take_in = hearing._take_in

    def overtaken(*answer: Any, **options: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            late.append((answer, options))  # what the server says later is heard later
            return
        looking.post("job")
        take_in(*answer, **options)

    with monkeypatch.context() as patched:
        patched.setattr(hearing, "_take_in", overtaken)
        hearing.look_and_wait()
        assert (gone, looking.job_count) == ([], 1)
        wait_until(lambda: late)
    for answer, options in late:
        take_in(*answer, **options)
    wait_until(lambda: other.job_count == 1)
    (job,) = other.iterjobs()
    other.claim(job, "somebody")
    other.consume(job, "somebody")
    wait_until(lambda: [job.name for job in gone] == ["job"])
    assert looking.job_count == 0


def test_zookeeper_job_that_could_not_be_read_is_read_at_the_next_look(
    two_boards: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hearing, other = two_boards
    made = ZookeeperBoard(hearing)
    told: list[str] = []
    end = made.attend("tests", lambda job: told.append(job.name), lambda: None)
    wait_until(lambda: made.hears_of_jobs())
    with monkeypatch.context() as patched:
        failed = threading.Event()

        def fail(_path: str, request: Any, quiet: bool = True) -> None:
            failed.set()

        patched.setattr(hearing, "_process_child", fail)
        other.post("job")
        assert failed.wait(10)
    assert hearing.job_count == 0
    made.listen_for_jobs()
    wait_until(lambda: told == ["job"])
    end()


def test_zookeeper_job_claimed_here_is_claimed_for_taskflow(two_boards: tuple[Any, Any]) -> None:
    ours, theirs = two_boards
    made = ZookeeperBoard(ours)
    job, kept = ours.post("job"), ours.post("kept")
    wait_until(lambda: theirs.job_count == 2)
    (same, same_kept) = sorted(theirs.iterjobs())
    made.claim(job, "me")
    assert theirs.find_owner(same) == "me"
    assert same.state == states.CLAIMED
    for claim in (theirs.claim, ZookeeperBoard(theirs).claim):
        with pytest.raises(taskflow_exceptions.UnclaimableJob):
            claim(same, "other")
    with pytest.raises(taskflow_exceptions.JobFailure, match="not owned by other"):
        ZookeeperBoard(theirs).consume(same, "other")
    made.consume(job, "me")
    assert same.state == states.COMPLETE
    with pytest.raises(taskflow_exceptions.NotFound):
        ZookeeperBoard(theirs).claim(same, "other")
    with pytest.raises(taskflow_exceptions.NotFound):
        made.consume(job, "me")
    made.claim(kept, "me")
    made.abandon(kept, "me")
    assert same_kept.state == states.UNCLAIMED
    theirs.claim(same_kept, "other")
    theirs.consume(same_kept, "other")


def test_zookeeper_claim_made_elsewhere_or_in_another_session_is_asked_about(
    two_boards: tuple[Any, Any],
) -> None:
    """A lock that this session did not make may have become somebody else's."""
    ours, theirs = two_boards
    made = ZookeeperBoard(ours)
    job = ours.post("job")
    made.claim(job, "me")
    who, session = made._made[job.path]
    assert (who, session) == ("me", ours._client.client_id)
    made._made[job.path] = (who, ("another", b""))
    theirs._client.delete(job.lock_path)
    theirs._client.create(job.lock_path, b'{"owner": "other"}', ephemeral=True)
    with pytest.raises(taskflow_exceptions.JobFailure, match="not owned by me"):
        made.consume(job, "me")
    assert theirs._client.exists(job.path)


def test_zookeeper_claims_are_forgotten_with_the_session_that_made_them(
    two_boards: tuple[Any, Any],
) -> None:
    """Or their conductor would take a job for its own for ever."""
    ours, theirs = two_boards
    made = ZookeeperBoard(ours)
    made.prepare()
    job = ours.post("job")
    made.claim(job, "me")
    assert made._hearing.is_claimed(job)
    ours._client._session_callback(KeeperState.EXPIRED_SESSION)
    assert not made._hearing.is_claimed(job)
    ours._client.restart()  # which closes the session, and with it goes the lock
    wait_until(lambda: made.is_connected and theirs.find_owner(job) is None)
    made.claim(job, "me again")
    assert list(made._made) == [job.path]
    made.consume(job, "me again")
    assert not theirs._client.exists(job.path)


def test_zookeeper_job_that_was_changed_is_claimed_as_it_is_read(
    two_boards: tuple[Any, Any],
) -> None:
    ours, theirs = two_boards
    made = ZookeeperBoard(ours)
    job = ours.post("job")
    data, _ = theirs._client.get(job.path)
    theirs._client.set(job.path, data)
    made.claim(job, "me")
    assert made.owner_of(job) == "me"
    made.consume(job, "me")
    assert not theirs._client.exists(job.path)


def test_unclaimed_jobs_are_not_asked_for_over_a_lost_connection() -> None:
    jobboard = impl_zookeeper.ZookeeperJobBoard("board", {"path": "/jobs"}, client=mock.Mock())
    jobboard._last_states.append(KazooState.CONNECTED)
    jobboard._client.connected = False
    for ensure_fresh in (False, True):
        with pytest.raises(taskflow_exceptions.JobFailure, match="not connected"):
            next(ZookeeperBoard(jobboard).unclaimed_jobs(ensure_fresh=ensure_fresh))


# -- Redis and etcd --------------------------------------------------------


def test_jobs_are_handed_out_in_turn(timed: Any) -> None:
    made = board.of(timed)
    for number, priority in enumerate(("LOW", "HIGH", "NORMAL", "HIGH")):
        made.post(f"job-{number}", priority=JobPriority[priority])
    in_turn = ["job-1", "job-3", "job-2", "job-0"]
    assert [job.name for job in made.unclaimed_jobs(ensure_fresh=True)] == in_turn
    assert [job.name for job in made.jobs()] == in_turn
    own = [job.name for job in timed.iterjobs(ensure_fresh=True)]
    assert own != in_turn, "TaskFlow's own order has been mended"


def test_claims_end_unless_renewed(timed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(board.of(timed)), "claim_seconds", 1.0)
    made = board.of(timed)
    made.post("job")
    (job,) = made.unclaimed_jobs(ensure_fresh=True)
    made.claim(job, "first")
    assert (
        0 <= job.expires_in() <= 2
    )  # etcd counts in whole seconds, and lets no lease be shorter than two
    assert made.owner_of(job) == "first"
    assert list(made.unclaimed_jobs(ensure_fresh=True)) == []
    assert made.renew(job, "first")
    assert not made.renew(job, "second")
    with pytest.raises(taskflow_exceptions.UnclaimableJob):
        made.claim(job, "second")
    wait_until(lambda: list(made.unclaimed_jobs(ensure_fresh=True)), what="the claim's end")
    assert made.owner_of(job) is None
    assert not made.renew(job, "first")
    made.claim(job, "second")
    with pytest.raises(taskflow_exceptions.JobFailure, match="not owned by first"):
        made.consume(job, "first")
    made.consume(job, "second")
    assert list(made.jobs()) == []


def test_etcd_claim_on_a_job_that_was_claimed_before_is_renewed(etcd_board: Any) -> None:
    made = EtcdBoard(etcd_board)
    made.post("job")
    (job,) = made.jobs()
    made.claim(job, "first")
    assert job.extend_expiry(15)
    made.abandon(job, "first")
    made.claim(job, "second")
    lease_id = etcd_board.get_owner_data(job)["lease_id"]
    assert job.lease.id != lease_id, "renew() can ask the job itself"
    with mock.patch.object(etcd3gw.Lease, "refresh", autospec=True, return_value=15) as refresh:
        assert made.renew(job, "second")
    assert [call.args[0].id for call in refresh.call_args_list] == [lease_id]


def test_boards_whose_server_is_away_fail_soon_and_in_taskflows_words(timed: Any) -> None:
    server = (Redis if isinstance(timed, impl_redis.RedisJobBoard) else Etcd)()
    name = "namespace" if isinstance(server, Redis) else "path"
    with server, opened(server.name, port=server.port, **{name: "away"}) as jobboard:
        made = board.of(jobboard)
        made.post("job")
        (job,) = made.jobs()
        server.stop()
        assert not made.is_connected
        assert not made.is_closed
        for call in (
            lambda: list(made.jobs()),
            lambda: list(made.unclaimed_jobs(ensure_fresh=True)),
            lambda: made.post("job"),
            lambda: made.claim(job, "me"),
            lambda: made.renew(job, "me"),
            lambda: made.owner_of(job),
            lambda: made.consume(job, "me"),
            lambda: made.abandon(job, "me"),
        ):
            with pytest.raises(taskflow_exceptions.JobFailure):
                call()
        server.start()
        assert made.is_connected
        list(made.jobs())
    assert made.is_closed


@pytest.mark.parametrize("kind", ["redis", "etcd"])
def test_board_that_never_reached_its_server_is_closed(kind: str) -> None:
    jobboard = jobboards.fetch("tests", {"board": kind, "host": "127.0.0.1", "port": free_port()})
    with pytest.raises(taskflow_exceptions.JobFailure):
        board.of(jobboard).connect()
    assert board.of(jobboard).is_closed
    assert not board.of(jobboard).is_connected


def test_redis_client_of_the_boards_own_does_not_try_ten_times(redis: Redis) -> None:
    jobboard = jobboards.fetch("tests", {"board": "redis", "host": "127.0.0.1", "port": redis.port})
    with contextlib.closing(jobboard):
        jobboard.connect()
        assert jobboard._client.get_retry().get_retries() > 1, "prepare() can go"
        board.of(jobboard).prepare()
        assert jobboard._client.get_retry().get_retries() == 1
        other = impl_redis.RedisJobBoard("other", {}, client=jobboard._client)
        assert not other._owns_client


def test_redis_claim_that_was_asked_for_twice_is_made(redis_board: Any) -> None:
    made = RedisBoard(redis_board)
    made.post("job")
    (job,) = made.jobs()
    redis_board.claim(job, "me")
    with pytest.raises(taskflow_exceptions.UnclaimableJob):
        redis_board.claim(job, "me")
    made.claim(job, "me")  # as redis-py asks again whose answer was lost


def test_unreadable_jobs_on_redis_are_passed_over_one_by_one(redis_board: Any) -> None:
    made = RedisBoard(redis_board)
    made.post("job")
    for key, value in (("bad", b"\xff"), ("worse", b"\x80")):
        redis_board._client.hset(redis_board.listings_key, key, value)
    for _ in range(2):
        with pytest.raises(taskflow_exceptions.JobFailure):
            list(made.unclaimed_jobs(ensure_fresh=True))
    assert [job.name for job in made.unclaimed_jobs(ensure_fresh=True)] == ["job"]


def test_redis_board_does_not_know_who_has_a_job_that_nobody_has(redis_board: Any) -> None:
    job = redis_board.post("job")
    with pytest.raises(TypeError):  # the day this is gone, owner_of can ask TaskFlow
        redis_board.find_owner(job)
    assert RedisBoard(redis_board).owner_of(job) is None


def test_claims_of_taskflows_own_making_have_no_end(redis_board: Any) -> None:
    job = redis_board.post("job")
    redis_board.claim(job, "me")
    assert job.expires_in() == -1
    assert inspect.signature(impl_redis.RedisJobBoard.claim).parameters["expiry"].default is None
    assert inspect.signature(impl_etcd.EtcdJobBoard.claim).parameters["expiry"].default is None
