# SPDX-License-Identifier: Apache-2.0
"""What a wake costs a ZooKeeper job board: requests, counted and not timed; and which conductor makes them."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from taskflow.jobs import backends as jobboards

from lazy_engine import Client, board, doorbell, ledger
from lazy_engine.board import share, zookeeper_calm, zookeeper_hearing
from tests.integration import wake_flows
from tests.integration.parked import opened
from tests.integration.test_conductor import parked, running
from tests.servers import ZooKeeper
from tests.waiting import wait_until

WAKES = 6
Open = Callable[[], Any]


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Any]:
    with opened(sqlite_url) as made:
        yield made


@pytest.fixture
def open_board(zookeeper: ZooKeeper, jobboard_path: str, store: Any) -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def make() -> Any:
            conf = {
                "board": "zookeeper",
                "hosts": zookeeper.hosts,
                "path": f"{jobboard_path}/jobs",
                "check_compatible": False,
            }
            made = jobboards.fetch("tests", conf, persistence=store)
            made.connect()
            stack.callback(made.close)
            return made

        yield make


def counted(made: Any) -> collections.Counter[str]:
    """Count what a board's client asks its server for."""
    counts: collections.Counter[str] = collections.Counter()
    call = made._client._call

    def note(request: Any, result: Any) -> Any:
        counts[type(request).__name__] += 1
        return call(request, result)

    made._client._call = note
    return counts


class Site:
    """A client and conductors, each with a board of its own whose requests are counted."""

    def __init__(self, open_board: Open, store: Any, conductors: int) -> None:
        self.board = open_board()
        self.client = Client(store, self.board)
        self.poster = counted(self.board)
        self.boards = [open_board() for _ in range(conductors)]
        self.counts = [counted(made) for made in self.boards]
        self._store = store
        self._given_up = threading.Semaphore(0)

    @contextlib.contextmanager
    def conducting(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for made in self.boards:
                options = {"watchdog": False, "wait_timeout": 3600.0}
                conductor = stack.enter_context(running("lazy", made, self._store, **options))
                conductor.notifier.register(
                    "job_consumed", lambda *_, **__: self._given_up.release()
                )
            for made in self.boards:  # all know each other
                hearing = zookeeper_hearing.of(made)
                wait_until(
                    lambda hearing=hearing: len(hearing.conductors.names) == len(self.boards)
                )
                wait_until(lambda hearing=hearing: hearing.is_listening)
            yield

    def wake(self, flow_uuid: str) -> None:
        """Answer a flow and wait until its job is consumed."""
        self.client.complete(self.client.token(flow_uuid, "ask"), 1)
        assert self._given_up.acquire(timeout=30)

    def park(self) -> list[str]:
        uuids = parked(self.client, WAKES)
        for _ in uuids:
            assert self._given_up.acquire(timeout=30)
        # Its own first look, and nothing left over from parking.
        for made in (self.board, *self.boards):
            wait_until(lambda made=made: zookeeper_hearing.of(made)._look_at is None, what="calm")
        for counts in (self.poster, *self.counts):
            counts.clear()
        return uuids

    @property
    def conducted(self) -> collections.Counter[str]:
        """What all conductors have asked for."""
        return sum(self.counts, collections.Counter())


def test_wake_costs_six_requests(
    open_board: Open, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zookeeper_calm, "SHORTEST_SECONDS", 10.0)
    monkeypatch.setattr(zookeeper_calm, "LONGEST_SECONDS", 10.0)
    site = Site(open_board, store, 1)
    with site.conducting():
        for flow_uuid in site.park():
            site.wake(flow_uuid)
        # Post; look, read, claim, consume, look. A look that came late may have
        # told of the next job, too.
        assert site.poster == {"Create": WAKES}
        looks = site.counts[0].pop("GetChildren")
        assert looks <= 2 * WAKES
        assert site.counts[0] == {"GetData": WAKES, "Transaction": 2 * WAKES}


def test_another_conductor_costs_two_requests_and_does_not_try(
    open_board: Open, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zookeeper_calm, "SHORTEST_SECONDS", 0.3)
    monkeypatch.setattr(zookeeper_calm, "LONGEST_SECONDS", 0.3)
    monkeypatch.setattr(zookeeper_hearing, "GRACE_SECONDS", 30.0)
    site = Site(open_board, store, 2)
    with site.conducting():
        for flow_uuid in site.park():
            site.wake(flow_uuid)
        counts = site.conducted
        assert (counts["GetData"], counts["Transaction"]) == (WAKES, 2 * WAKES)
        assert counts.total() + site.poster.total() <= (6 + 2) * WAKES


def test_share_of_a_dead_conductor_is_taken_after_a_while(
    open_board: Open, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "first_of", lambda _conductors, _name: "dead")
    site = Site(open_board, store, 1)
    with site.conducting():
        uuids = site.park()
        for flow_uuid in uuids[:2]:
            site.wake(flow_uuid)
        monkeypatch.setattr(zookeeper_hearing, "GRACE_SECONDS", 3600.0)
        site.client.complete(site.client.token(uuids[2], "ask"), 1)
        wait_until(lambda: len(zookeeper_hearing.of(site.boards[0])._turns) == 1)
        assert not site._given_up.acquire(timeout=0.5), "it did not wait"
        assert site.counts[0]["GetData"] == 2, "it reads what is another's"


def test_only_lazy_conductors_of_the_same_board_share_its_jobs(
    open_board: Open, store: Any
) -> None:
    made, other = open_board(), open_board()
    registered = {"stock": {}, "elsewhere": {"shares": "/other/jobs"}, "odd": "odd"}
    place = f"{made.entity_path}/conductor"
    other._client.ensure_path(place)
    for name, metadata in registered.items():
        text = str({"metadata": metadata}).replace("'", '"').encode()
        other._client.create(f"{place}/{name}", text, ephemeral=True)
    with running("lazy", made, store) as conductor:
        hearing = zookeeper_hearing.of(made)
        label = conductor.conductor.name
        wait_until(lambda: hearing.conductors.names == {label})
        with running("lazy", other, store) as second:
            wait_until(lambda: hearing.conductors.names == {label, second.conductor.name})
        wait_until(lambda: hearing.conductors.names == {label}, what="the other to be off the list")


def test_job_that_is_given_back_is_answered_though_nobody_looks(
    open_board: Open, store: Any
) -> None:
    made, other = open_board(), open_board()
    client = Client(store, other)
    flow_uuid = client.submit(wake_flows.one_wait)
    (job,) = other.iterjobs()
    other.claim(job, "somebody")  # as TaskFlow's conductors do
    with running("lazy", made, store, wait_timeout=3600.0):
        wait_until(lambda: zookeeper_hearing.of(made)._told, what="its turn, in vain")
        other.abandon(job, "somebody")
        wait_until(lambda: client.flow(flow_uuid).state == "DELAYED")
        wait_until(lambda: made.job_count == other.job_count == 0)


def test_job_that_cooled_down_is_tried_again_before_the_next_look(
    open_board: Open, store: Any
) -> None:
    made = open_board()
    client = Client(store)
    flow_uuid = client.submit(wake_flows.one_wait)
    record = ledger.beside(store).flow(flow_uuid)
    assert record is not None
    held = client._load(client._readable_detail(flow_uuid), None).run_iter()
    next(held)
    try:
        given_back = threading.Semaphore(0)
        with running("lazy", made, store, wait_timeout=3600.0) as conductor:
            conductor.notifier.register("job_abandoned", lambda *_, **__: given_back.release())
            doorbell.ring(board.of(made), record, ledger.beside(store))
            for _ in range(2):
                assert given_back.acquire(timeout=10)
    finally:
        held.close()
