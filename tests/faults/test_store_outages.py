# SPDX-License-Identifier: Apache-2.0
"""Stores that fail under load: what was refused is not there or is found again, what got a receipt is there."""

from __future__ import annotations

import contextlib
import pathlib
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from lazy_engine import Client, Disposition, StoreUnavailable, ledger, rules
from tests import child
from tests.faults.load import Load, conducting, open_backend, open_board
from tests.integration.parked import make_flow, opened, park
from tests.servers import PostgreSQL, ZooKeeper
from tests.servers.proxy import Proxy
from tests.waiting import wait_until

pytestmark = pytest.mark.fault

# How a delivery's transaction begins.
_DELIVERS = b"SET arrival_number"
#: The whole statement, by the first word of a URL: a transaction begins with the word COMMITTED.
_COMMITS = {"postgresql": b"COMMIT\0", "mysql": b"\x03COMMIT"}


@pytest.fixture(autouse=True)
def _quick_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the watchdog ring again after two seconds, not after a minute."""
    monkeypatch.setattr(rules, "RING_FRESH_SECONDS", 2.0)


@pytest.fixture(scope="module")
def own_postgresql() -> Iterator[PostgreSQL]:
    with PostgreSQL() as server:
        yield server


@pytest.fixture(params=["postgresql", "mysql"])
def cut_off(request: pytest.FixtureRequest) -> Iterator[tuple[str, Proxy, bytes]]:
    """The URL of an empty database, the proxy that leads there, and what a commit is there."""
    server: Any = request.getfixturevalue(
        "own_postgresql" if request.param == "postgresql" else "mysql"
    )
    with Proxy(server.port) as made:
        url = through(made, server)
        yield url, made, _COMMITS[request.param]
        server.drop_database(url)


@pytest.fixture
def proxy(own_postgresql: PostgreSQL) -> Iterator[Proxy]:
    with Proxy(own_postgresql.port) as made:
        yield made


def through(proxy: Proxy, server: Any) -> str:
    return server.create_database().replace(f":{server.port}/", f":{proxy.port}/")


@contextlib.contextmanager
def at_work(
    url: str, zookeeper: ZooKeeper, path: str, directory: pathlib.Path
) -> Iterator[tuple[Load, list[Any], Any]]:
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(open_backend(url))
        boards = [
            stack.enter_context(open_board(zookeeper.hosts, backend, name, path=path, timeout=10.0))
            for name in ("first", "second", "client")
        ]
        for board in boards[:2]:
            stack.enter_context(conducting(board, backend, board.name))
        load = stack.enter_context(Load(Client(backend, boards[2]), directory))
        load.await_progress()
        yield load, boards, backend


def test_database_is_restarted_and_killed(
    own_postgresql: PostgreSQL, zookeeper: ZooKeeper, jobboard_path: str, tmp_path: pathlib.Path
) -> None:
    url = own_postgresql.create_database()
    with at_work(url, zookeeper, jobboard_path, tmp_path) as (load, boards, _):
        for end in (own_postgresql.stop, own_postgresql.kill):
            end()
            before = load.refusals.total()
            wait_until(lambda before=before: load.refusals.total() > before)
            own_postgresql.start()
            load.await_progress()
        load.finish(boards)
        assert load.refusals["deliver: the store"] + load.refusals["submit: the store"] > 0


@pytest.mark.parametrize("is_carried_out", [True, False])
def test_connections_die_in_the_middle_of_commits(
    own_postgresql: PostgreSQL,
    proxy: Proxy,
    zookeeper: ZooKeeper,
    jobboard_path: str,
    tmp_path: pathlib.Path,
    is_carried_out: bool,
) -> None:
    url = through(proxy, own_postgresql)
    with at_work(url, zookeeper, jobboard_path, tmp_path) as (load, boards, _):
        for _number in range(30):
            proxy.lose(_COMMITS["postgresql"], is_carried_out=is_carried_out)
            wait_until(lambda: proxy.has_lost)
        load.finish(boards)


@pytest.mark.parametrize("is_carried_out", [True, False])
def test_delivery_whose_commit_was_cut_off_has_a_receipt_that_holds(
    cut_off: tuple[str, Proxy, bytes], is_carried_out: bool
) -> None:
    url, proxy, commit = cut_off
    with opened(url) as backend:
        world = park(backend)
        proxy.lose(commit, after=_DELIVERS, is_carried_out=is_carried_out)
        receipt = world.client.complete(world.token, "kept")
        assert proxy.has_lost
        # It was tried again by itself, and knows its own outcome when it finds it.
        assert receipt.disposition is Disposition.ACCEPTED
        assert world.client.complete(world.token, "kept").disposition is Disposition.DUPLICATE
        assert world.client.resume(world.flow_uuid) == "SUCCESS"
        assert world.client.flow(world.flow_uuid).results["echo"] == "kept"


@pytest.mark.parametrize("is_carried_out", [True, False])
def test_delivery_that_cannot_learn_its_commits_fate_says_so_and_may_be_repeated(
    cut_off: tuple[str, Proxy, bytes], is_carried_out: bool
) -> None:
    url, proxy, commit = cut_off
    with opened(url) as backend:
        world = park(backend)
        proxy.lose(commit, after=_DELIVERS, is_carried_out=is_carried_out, and_cut=True)
        with pytest.raises(StoreUnavailable, match="the store failed"):
            world.client.complete(world.token, "kept")
        assert proxy.has_lost
        proxy.restore()
        (delay,) = world.ledger.delays_of(world.flow_uuid)
        assert (delay.outcome is not None) is is_carried_out
        again = world.client.complete(world.token, "kept").disposition
        assert again is (Disposition.DUPLICATE if is_carried_out else Disposition.ACCEPTED)
        assert world.client.resume(world.flow_uuid) == "SUCCESS"


# -- a full disk -----------------------------------------------------------


_MANY_PAGES = 1_000_000


class Disk:
    """Says how many pages the file of an SQLite ledger may have, to each connection that writes."""

    def __init__(self, book: Any) -> None:
        self._pages = _MANY_PAGES
        transactor = book._transactor
        carry_out = transactor._carry_out

        def limit(connection: sa.Connection, work: Any) -> Any:
            raw: Any = connection.connection.dbapi_connection
            raw.execute(f"PRAGMA max_page_count = {self._pages}")
            return carry_out(connection, work)

        transactor._carry_out = limit

    def fill(self) -> None:
        """Leave no page: a limit below the file's size means the size it has now."""
        self._pages = 1

    def clear(self) -> None:
        self._pages = _MANY_PAGES


def test_full_disk_refuses_and_holds_what_it_took(
    zookeeper: ZooKeeper, jobboard_path: str, sqlite_url: str, tmp_path: pathlib.Path
) -> None:
    with at_work(sqlite_url, zookeeper, jobboard_path, tmp_path) as (load, boards, backend):
        disk = Disk(ledger.beside(backend))
        disk.fill()
        wait_until(lambda: load.refusals.total() >= 10, what="ten refusals")
        disk.clear()
        load.await_progress()
        load.finish(boards)


def test_delivery_to_a_full_disk_leaves_the_delay_open(sqlite_url: str) -> None:
    with opened(sqlite_url) as backend:
        world = park(backend)
        disk = Disk(world.ledger)
        before = world.snapshot()
        disk.fill()
        with pytest.raises(StoreUnavailable, match="database or disk is full"):
            world.client.complete(world.token, "x" * 500_000)
        with pytest.raises(StoreUnavailable, match="database or disk is full"):
            world.client.submit(make_flow, store={"much": "x" * 500_000})
        assert world.snapshot() == before
        world.assert_open()
        disk.clear()
        world.assert_goes_on()


_FILLS_ITS_DISK = """
import sys
from lazy_engine import Client, StoreUnavailable
url, token = sys.argv[1:]
client = Client({"connection": url})
taken = 0
for number in range(1000):
    try:
        client.submit("tests.integration.parked.make_flow", flow_uuid=f"flow-{number}", store={"much": "x" * 20_000})
    except StoreUnavailable as error:
        print(number, error)
        break
try:
    print(client.complete(token, "y" * 950_000).disposition)
except StoreUnavailable as error:
    print("refused")
"""


def test_file_that_may_not_grow_refuses_and_holds_what_it_took(
    sqlite_url: str, tmp_path: pathlib.Path
) -> None:
    """The system refuses a write, in the middle of SQLite's own files."""
    with opened(sqlite_url) as backend:
        world = park(backend)
        before = world.snapshot()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))

    done = subprocess.run(
        [sys.executable, "-c", _FILLS_ITS_DISK, sqlite_url, world.token],
        cwd=tmp_path,
        env=child.environment(),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=True,
    )
    count, _, message = done.stdout.splitlines()[0].partition(" ")
    assert "the store failed" in message
    assert done.stdout.splitlines()[-1] == "refused", done.stdout
    with opened(sqlite_url) as backend:
        client = Client(backend)
        assert [flow.uuid for flow in client.flows(limit=1000) if flow.state == "PENDING"]
        for number in range(int(count)):
            assert client.flow(f"flow-{number}").state == "PENDING"
        world.backend, world.client = backend, client
        assert world.snapshot() == before
        world.assert_goes_on()
