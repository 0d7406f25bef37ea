# SPDX-License-Identifier: Apache-2.0
"""The servers that other tests rely on, tried themselves."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy
from kazoo.client import KazooClient
from kazoo.handlers.threading import KazooTimeoutError

from tests.servers import Ensemble, MySQL, PostgreSQL, ZooKeeper
from tests.servers.guard import start_mark
from tests.waiting import wait_until


@contextlib.contextmanager
def kazoo_client(hosts: str) -> Iterator[KazooClient]:
    client = KazooClient(hosts, timeout=10.0)
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()


def test_zookeeper_serves_kazoo(zookeeper: ZooKeeper, jobboard_path: str) -> None:
    with kazoo_client(zookeeper.hosts) as client:
        client.create(jobboard_path, b"here", makepath=True)
        assert client.get(jobboard_path)[0] == b"here"
        assert client.server_version() >= (3, 4)


def test_zookeeper_keeps_its_data_over_stop_and_kill() -> None:
    with ZooKeeper() as server:
        with kazoo_client(server.hosts) as client:
            client.create("/before", b"stop")
        server.restart()
        with kazoo_client(server.hosts) as client:
            assert client.get("/before")[0] == b"stop"
            client.set("/before", b"kill")
        server.kill()
        assert not server.is_ready()
        server.start()
        with kazoo_client(server.hosts) as client:
            assert client.get("/before")[0] == b"kill"
    assert not server.directory.exists()


def test_paused_zookeeper_does_not_answer_until_resumed() -> None:
    with ZooKeeper() as server:
        server.pause()
        with pytest.raises(KazooTimeoutError):
            KazooClient(server.hosts, timeout=1.0).start(timeout=1.0)
        server.resume()
        assert server.is_ready()


def test_closed_whitelist_hides_the_four_letter_words() -> None:
    with ZooKeeper(whitelist="srvr") as server:
        assert "not in the whitelist" in server.ask("envi")


def test_short_sessions_are_granted(zookeeper: ZooKeeper) -> None:
    client = KazooClient(zookeeper.hosts, timeout=1.0)
    client.start()
    granted_milliseconds = client._session_timeout
    client.stop()
    client.close()
    assert granted_milliseconds == 1000


def test_ensemble_outlives_its_leader() -> None:
    with Ensemble(3) as ensemble, kazoo_client(ensemble.hosts) as client:
        client.create("/kept", b"yes")
        first = ensemble.leader
        assert first is not None and len(ensemble.followers) == 2
        first.kill()
        second = wait_until(lambda: ensemble.leader, timeout_seconds=30.0, what="a new leader")
        assert second is not first
        assert client.retry(client.get, "/kept")[0] == b"yes"


def test_postgresql_answers(postgresql_url: str) -> None:
    engine = sqlalchemy.create_engine(postgresql_url)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT 1")) == 1
    engine.dispose()


def test_databases_are_separate(postgresql: PostgreSQL, postgresql_url: str) -> None:
    other_url = postgresql.create_database()
    engine, other = sqlalchemy.create_engine(postgresql_url), sqlalchemy.create_engine(other_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE mine (id int)"))
    assert not sqlalchemy.inspect(other).has_table("mine")
    engine.dispose()
    other.dispose()
    postgresql.drop_database(other_url)
    with pytest.raises(sqlalchemy.exc.OperationalError, match="does not exist"):
        other.connect()


@pytest.mark.parametrize(
    ("kind", "names_query"),
    [(PostgreSQL, "SELECT datname FROM pg_database"), (MySQL, "SHOW DATABASES")],
)
def test_database_server_keeps_its_data_over_stop_and_kill(
    kind: type[PostgreSQL | MySQL], names_query: str
) -> None:
    with kind(fsync=False) as server:
        server.create_database()
        server.restart()
        url = server.create_database()
        server.kill()
        assert not server.is_ready()
        server.start()
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as connection:
            names = connection.scalars(sqlalchemy.text(names_query)).all()
        engine.dispose()
        assert len([name for name in names if name.startswith("lazy_")]) == 2
    assert not server.directory.exists()


def test_mysql_database_is_dropped_from_under_an_open_transaction(mysql: MySQL) -> None:
    url = mysql.create_database()
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (n int)"))
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        mysql.drop_database(url)
        connection.invalidate()
    engine.dispose()
    assert mysql.execute(f"SHOW DATABASES LIKE '{url.rpartition('/')[2]}'") == []


_STARTS_A_SERVER_AND_IS_KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("tests", sys.argv[1], submodule_search_locations=[os.path.dirname(sys.argv[1])])
sys.modules["tests"] = importlib.util.module_from_spec(spec)
from tests.servers import MySQL, PostgreSQL, ZooKeeper
for server in (ZooKeeper().start(), PostgreSQL().start(), MySQL().start()):
    print(server.pid, server.directory, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_servers_of_a_killed_process_end_soon(
    zookeeper: ZooKeeper, postgresql: PostgreSQL, mysql: MySQL
) -> None:
    package = pathlib.Path(__file__).parents[1] / "__init__.py"
    victim = subprocess.run(
        [sys.executable, "-c", _STARTS_A_SERVER_AND_IS_KILLED, str(package)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert victim.returncode == -signal.SIGKILL
    servers = [line.split() for line in victim.stdout.splitlines()]
    assert len(servers) == 3
    for pid, directory in servers:
        wait_until(lambda pid=pid: start_mark(int(pid)) is None, what=f"server {pid} to end")
        wait_until(
            lambda directory=directory: not os.path.exists(directory), what=f"{directory} to go"
        )


def test_wait_until_tells_what_it_saw_last() -> None:
    with pytest.raises(
        AssertionError, match=r"in vain for the moon; asked \d+ times, last saw \[\]"
    ):
        wait_until(list, timeout_seconds=0.02, what="the moon")
