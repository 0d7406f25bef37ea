# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests: real servers started at first use, fresh databases and paths, and a check for leaks."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import random
import sysconfig
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

from tests import secrecy
from tests.servers import Etcd, MySQL, PostgreSQL, Redis, ZooKeeper, owned_pids
from tests.servers.process import children_of, in_ci

_GRACE_SECONDS = 5.0
#: Property of a test's report: store, points tried, processes.
CRASH_POINTS = "crash points"
_SEED = int(os.environ.get("LAZY_ENGINE_TEST_SEED") or random.SystemRandom().randrange(2**32))
# Processes that Python's multiprocessing keeps for the life of the whole process.
_PYTHONS_OWN = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")

hypothesis.settings.register_profile("home", deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "ci", deadline=None, print_blob=True, derandomize=False, database=None
)
hypothesis.settings.load_profile("ci" if in_ci() else "home")


class SessionServers:
    """The servers that all tests of a session share, started by whoever asks first."""

    def __init__(self) -> None:
        self._zookeeper: ZooKeeper | None = None
        self._postgresql: PostgreSQL | None = None
        self._mysql: MySQL | None = None
        self._redis: Redis | None = None
        self._etcd: Etcd | None = None

    def zookeeper(self) -> ZooKeeper:
        if self._zookeeper is None:
            self._zookeeper = ZooKeeper()
            self._zookeeper.start()
        return self._zookeeper

    def postgresql(self) -> PostgreSQL:
        if self._postgresql is None:
            self._postgresql = PostgreSQL()
            self._postgresql.start()
        return self._postgresql

    def mysql(self) -> MySQL:
        if self._mysql is None:
            # Every test makes all tables anew, and each of them would wait for the disk.
            self._mysql = MySQL(fsync=False)
            self._mysql.start()
        return self._mysql

    def redis(self) -> Redis:
        if self._redis is None:
            self._redis = Redis()
            self._redis.start()
        return self._redis

    def etcd(self) -> Etcd:
        if self._etcd is None:
            self._etcd = Etcd()
            self._etcd.start()
        return self._etcd

    def close(self) -> None:
        for server in (self._zookeeper, self._postgresql, self._mysql, self._redis, self._etcd):
            if server is not None:
                server.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Fail whatever had a token printed or logged, by itself or by what it tests."""
    report = yield
    # Tests of odd text log halves of characters, which cannot be sent between processes.
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    secrecy.fail_if_leaky(report)
    return report


SESSION_SERVERS = pytest.StashKey[SessionServers]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[SESSION_SERVERS] = SessionServers()
    # At home hypothesis replays its database of failures, which a forced seed would switch off.
    if in_ci() and getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(_SEED)
    if os.environ.get("LAZY_ENGINE_TEST_INSTALLED"):
        _check_that_the_installed_package_is_tested()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SESSION_SERVERS].close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [
        f"lazy_engine: {_package_path()}",
        f"seed: {_SEED} (LAZY_ENGINE_TEST_SEED={_SEED} repeats it)",
    ]


def _package_path() -> pathlib.Path | None:
    """Return where lazy_engine would be imported from, without importing it."""
    spec = importlib.util.find_spec("lazy_engine")
    return pathlib.Path(spec.origin).resolve() if spec and spec.origin else None


def _check_that_the_installed_package_is_tested() -> None:
    found = _package_path()
    expected = pathlib.Path(sysconfig.get_path("purelib")).resolve()
    if found is None or not found.is_relative_to(expected):
        raise pytest.UsageError(f"lazy_engine is imported from {found}, not from {expected}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many crash points were tried, by every worker."""
    points: Counter[str] = Counter()
    lives: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == CRASH_POINTS:
                store, tried, lived = value
                points[store] += tried
                lives[store] += lived
    if points:
        terminalreporter.section(CRASH_POINTS)
        for store, tried in sorted(points.items()):
            terminalreporter.line(f"{store}: {tried} tried, in {lives[store]} processes")


@pytest.fixture(scope="session")
def zookeeper(request: pytest.FixtureRequest) -> ZooKeeper:
    """A ZooKeeper server that all tests share; whoever stops or pauses one makes one of their own."""
    return request.config.stash[SESSION_SERVERS].zookeeper()


@pytest.fixture(scope="session")
def postgresql(request: pytest.FixtureRequest) -> PostgreSQL:
    """A PostgreSQL server that all tests share; whoever stops or pauses one makes one of their own."""
    return request.config.stash[SESSION_SERVERS].postgresql()


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database, dropped after the test."""
    url = postgresql.create_database()
    yield url
    postgresql.drop_database(url)


@pytest.fixture(scope="session")
def mysql(request: pytest.FixtureRequest) -> MySQL:
    """A MariaDB server that all tests share; whoever stops or pauses one makes one of their own."""
    return request.config.stash[SESSION_SERVERS].mysql()


@pytest.fixture
def mysql_url(mysql: MySQL) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database, dropped after the test."""
    url = mysql.create_database()
    yield url
    mysql.drop_database(url)


@pytest.fixture(scope="session")
def redis(request: pytest.FixtureRequest) -> Redis:
    """A Redis server that all tests share; whoever stops or pauses one makes one of their own."""
    return request.config.stash[SESSION_SERVERS].redis()


@pytest.fixture(scope="session")
def etcd(request: pytest.FixtureRequest) -> Etcd:
    """An etcd server that all tests share; whoever stops or pauses one makes one of their own."""
    return request.config.stash[SESSION_SERVERS].etcd()


@pytest.fixture
def sqlite_url(tmp_path: pathlib.Path) -> str:
    """The SQLAlchemy URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'lazy.sqlite'}"


@pytest.fixture
def dir_url(tmp_path: pathlib.Path) -> str:
    """The address of a directory for TaskFlow's directory backend that does not exist yet."""
    return f"dir://?path={tmp_path / 'lazy.dir'}"


@pytest.fixture
def zookeeper_url(zookeeper: ZooKeeper, jobboard_path: str) -> str:
    """The address of a store without anything in it, removed after the test."""
    return f"zookeeper://{zookeeper.hosts}{jobboard_path}/store"


@pytest.fixture
def jobboard_path(zookeeper: ZooKeeper) -> Iterator[str]:
    """A path of its own in the shared ZooKeeper, removed with all below it after the test."""
    from kazoo.client import KazooClient

    path = f"/lazy-engine-tests/{uuid.uuid4().hex}"
    yield path
    client = KazooClient(zookeeper.hosts)
    client.start()
    try:
        client.delete(path, recursive=True)
    finally:
        client.stop()
        client.close()


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that follow from the session's printed seed and the test's name alone."""
    return random.Random(f"{_SEED}:{request.node.nodeid}")


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test whose threads or child processes live on; they get five seconds to end."""
    threads_before = set(threading.enumerate())
    children_before = set(children_of(os.getpid()))
    yield
    deadline = time.monotonic() + _GRACE_SECONDS
    while found := _new_threads(threads_before) + _new_children(children_before):
        if time.monotonic() > deadline:
            pytest.fail(f"the test leaves behind: {', '.join(found)}", pytrace=False)
        time.sleep(0.02)  # not wait_until, which would tell of itself and not of the test


def _new_threads(before: set[threading.Thread]) -> list[str]:
    return [
        f"thread {thread.name}"
        for thread in set(threading.enumerate()) - before
        if not thread.daemon or thread.name.startswith("lazy-engine")
    ]


def _new_children(before: set[int]) -> list[str]:
    found = []
    for pid in set(children_of(os.getpid())) - before - owned_pids():
        try:
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if not any(name in command for name in _PYTHONS_OWN):
            found.append(f"process {pid} ({command.decode(errors='replace').strip()})")
    return found
