# SPDX-License-Identifier: Apache-2.0
"""Addresses of stores and job boards, as TaskFlow's backends want them."""

from __future__ import annotations

import urllib.parse
from typing import Any, Final

ZOOKEEPER: Final = "zookeeper"


def kind_of(address: str) -> str:
    """Return what stands before ``://``, or before the first ``+`` of it."""
    return address.partition(":")[0].partition("+")[0]


def zookeeper_conf(address: str) -> dict[str, Any]:
    """Return TaskFlow's configuration for ``zookeeper://host:port[,…]/path?name=value``.

    It is read here, since TaskFlow takes neither hosts nor path from an
    address. ``check_compatible`` is off unless it is asked for: TaskFlow's
    check needs a four letter word that ZooKeeper's own default forbids.

    :returns: ``hosts``, ``path`` (unless it is left out), ``check_compatible``,
        and what stands after the question mark.
    :raises ValueError: it names no host.
    """
    place, _, query = address.partition("://")[2].partition("?")
    hosts, slash, path = place.partition("/")
    if not hosts:
        raise ValueError("it names no host: zookeeper://host:port/path")
    conf: dict[str, Any] = {"hosts": hosts, "check_compatible": False}
    if path.rstrip("/"):
        conf["path"] = slash + path.rstrip("/")
    conf.update(urllib.parse.parse_qsl(query))
    return conf
