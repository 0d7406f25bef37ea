# SPDX-License-Identifier: Apache-2.0
"""Addresses of ZooKeeper: several hosts, a path, options."""

from __future__ import annotations

import pytest

from lazy_engine.address import kind_of, zookeeper_conf


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
    assert zookeeper_conf(address) == conf


def test_address_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="names no host"):
        zookeeper_conf("zookeeper:///flows")
