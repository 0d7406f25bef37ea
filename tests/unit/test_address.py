# SPDX-License-Identifier: Apache-2.0
"""What is read from a store's address."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from taskflow.jobs import backends as jobboards
from taskflow.persistence import backends

from lazy_engine import Client, errors
from lazy_engine.address import board_conf, configuration, kind_of, zookeeper_conf


@pytest.mark.parametrize(
    "persistence",
    [
        "dir:///var/lib/my%20flows",
        "file:///var/lib/my%20flows",
        "dir://?path=/var/lib/my%20flows",
        {"connection": "dir", "path": "/var/lib/my flows"},
        {"connection": "dir:///elsewhere", "path": "/var/lib/my flows"},
        {"connection": "dir:///var/lib/my%20flows", "max_cache_size": 10},
    ],
)
def test_path_of_a_directory_is_what_its_backend_gets(persistence: Any) -> None:
    conf = configuration(persistence)
    assert backends.fetch(conf).path == "/var/lib/my flows"


@pytest.mark.parametrize("persistence", ["dir:", "dir://", "dir", "dir://var/lib/flows"])
def test_directory_without_a_path_is_refused(persistence: str) -> None:
    with pytest.raises(errors.UnsupportedBackend, match="dir:///path"):
        configuration(persistence)


@pytest.mark.parametrize(
    "persistence", ["sqlite:////a/b.db", "postgresql+psycopg://me@host/flows?sslmode=require"]
)
def test_other_addresses_are_left_as_they_are(persistence: str) -> None:
    assert configuration(persistence) == {"connection": persistence}


def test_configuration_that_was_given_is_not_changed() -> None:
    given = {"connection": "dir:///a"}
    configuration(given)
    assert given == {"connection": "dir:///a"}


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("zookeeper://one:2181/flows", "zookeeper"),
        ("postgresql+psycopg://user@host/database", "postgresql"),
        ("sqlite:////flows.db", "sqlite"),
        ("memory", "memory"),
    ],
)
def test_kind_stands_before_the_first_colon_or_plus(address: str, kind: str) -> None:
    assert kind_of(address) == kind


@pytest.mark.parametrize(
    ("address", "conf"),
    [
        (
            "zookeeper://one:2181,two:2181/a/flows/",
            {"hosts": "one:2181,two:2181", "path": "/a/flows", "check_compatible": False},
        ),
        ("zookeeper://one", {"hosts": "one", "check_compatible": False}),
        ("zookeeper://one/", {"hosts": "one", "check_compatible": False}),
        (
            "zookeeper://one/flows?check_compatible=true&timeout=5",
            {"hosts": "one", "path": "/flows", "check_compatible": "true", "timeout": "5"},
        ),
    ],
)
def test_hosts_path_and_options_are_read(address: str, conf: dict[str, object]) -> None:
    found = zookeeper_conf(address)
    assert found.pop("connection_retry")["max_delay"] == 5.0
    assert found == conf


def test_address_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="names no host"):
        zookeeper_conf("zookeeper:///flows")


@pytest.mark.parametrize("query", ["ues_ssl=true", "timeout=3&tmeout=", "auth=digest:a:b", "ca=x"])
def test_option_of_a_zookeeper_store_that_nobody_reads_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match=r"has no option '.*' here; it takes check_compatible, "):
        configuration(f"zookeeper://one/flows?{query}")


def test_option_of_a_zookeeper_board_that_nobody_reads_is_refused() -> None:
    assert board_conf("zookeeper://one/app?auth=digest:a:b&ca=x")["ca"] == "x"
    with pytest.raises(ValueError, match=r"no option 'ues_ssl' here; it takes .*, check_hostname$"):
        board_conf("zookeeper://one/app?ues_ssl=true")


def test_configuration_of_a_zookeeper_is_completed_and_keeps_what_it_says() -> None:
    given = {"connection": "zookeeper://one/flows", "path": "/elsewhere"}
    found = configuration(given)
    assert (found["connection"], found["hosts"]) == ("zookeeper", "one")
    assert found["path"] == "/elsewhere"
    plain = {"connection": "zookeeper", "hosts": "one"}
    assert configuration(plain) == plain


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("redis://one", {"host": "one", "port": 6379}),
        ("redis://one:7000/3", {"host": "one", "port": 7000, "db": 3}),
        ("redis://:s%2Fcret@one", {"password": "s/cret"}),
        ("redis://me:secret@one", {"username": "me", "password": "secret"}),
        ("rediss://one?ssl_ca_certs=/ca.pem", {"ssl": True, "ssl_ca_certs": "/ca.pem"}),
        ("redis://one?namespace=app&socket_timeout=1", {"namespace": "app", "socket_timeout": "1"}),
        (
            "redis://one:26379?sentinel=main&sentinel_fallbacks=two:26379,three:26379",
            {"sentinel": "main", "sentinel_fallbacks": ["two:26379", "three:26379"]},
        ),
        ("etcd://one", {"board": "etcd", "host": "one", "port": 2379}),
        ("etcd://one:1/app/jobs?ttl=9", {"path": "app/jobs", "ttl": "9"}),
        ("zookeeper://one,two/app", {"hosts": "one,two", "path": "/app"}),
        ("other://one?a=b", {"board": "other://one?a=b"}),
    ],
)
def test_what_is_read_from_a_job_boards_address(address: str, expected: dict[str, Any]) -> None:
    conf = board_conf(address)
    assert {name: conf[name] for name in expected} == expected


@pytest.mark.parametrize("address", ["redis://", "redis:///3", "etcd://", "zookeeper://"])
def test_job_board_without_a_host_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="names no host"):
        board_conf(address)


@pytest.mark.parametrize("address", ["redis://one/three", "redis://one:port"])
def test_what_should_be_a_number_in_a_job_boards_address_is_one(address: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|Port could not be cast"):
        board_conf(address)


def test_redis_address_is_enough_for_taskflow() -> None:
    board = jobboards.fetch("tests", board_conf("redis://:secret@one:7000/3"))
    settings = board._client.connection_pool.connection_kwargs
    assert (settings["host"], settings["port"], settings["db"]) == ("one", 7000, 3)
    assert settings["password"] == "secret"


@pytest.mark.parametrize(
    ("kind", "module", "remedy"),
    [
        ("mysql", "MySQLdb", r"install lazy_engine\[mysql\], and write mysql\+pymysql://"),
        ("postgresql+psycopg", "psycopg", r"lazy_engine\[postgresql\], and write postgresql"),
        ("sqlite+aiosqlite", "aiosqlite", "install it$"),
    ],
)
def test_missing_driver_is_named_with_its_remedy(
    kind: str, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.UnsupportedBackend, match=remedy):
        Client(f"{kind}://host/database")


def test_driver_that_does_not_exist_is_told_with_one_that_does() -> None:
    with pytest.raises(
        errors.UnsupportedBackend,
        match=r"'postgresql\+psycop': write postgresql\+psycopg://",
    ):
        Client("postgresql+psycop://host/database")
