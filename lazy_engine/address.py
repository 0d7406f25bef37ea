# SPDX-License-Identifier: Apache-2.0
"""Addresses of stores and boards, completed by what TaskFlow leaves unread in them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Collection, Mapping
from typing import Any, Final

from lazy_engine import errors

ZOOKEEPER: Final = "zookeeper"
ETCD: Final = "etcd"
REDIS: Final = "redis"
_REDIS_WITH_TLS: Final = "rediss"

_DIRECTORIES: Final = ("dir", "file")

#: How a lost ZooKeeper is looked for. Kazoo's own pauses double up to an hour,
#: for which a conductor would go on missing a server that is back.
_CONNECTION_RETRY: Final = {"max_tries": -1, "delay": 0.1, "max_delay": 5.0}

#: What TaskFlow (6.5) reads of a ZooKeeper's configuration, and an address can say.
_ZOOKEEPER_OPTIONS: Final = (
    "check_compatible",
    "timeout",
    "use_ssl",
    "certfile",
    "keyfile",
    "keyfile_password",
    "verify_certs",
    "randomize_hosts",
    "read_only",
)
#: What the command line reads of a job board's beside.
ZOOKEEPER_BOARD_OPTIONS: Final = ("auth", "ca", "check_hostname")

#: How long a Redis or etcd server may take for an answer.
_PATIENCE_SECONDS: Final = 5.0


def kind_of(address: str) -> str:
    """Return what stands before ``://``, or before the first ``+`` of it."""
    return address.partition(":")[0].partition("+")[0]


def zookeeper_conf(address: str, *, others: Collection[str] = ()) -> dict[str, Any]:
    """Return TaskFlow's configuration for ``zookeeper://host:port[,…]/path?name=value``.

    It is read here, since TaskFlow takes neither hosts nor path from an
    address. ``check_compatible`` is off unless it is asked for: TaskFlow's
    check needs a four letter word that ZooKeeper's own default forbids.

    A name that nobody reads is refused: TaskFlow would pass over ``ues_ssl=true``
    and connect without.

    :param others: names beside TaskFlow's.
    :returns: ``hosts``, ``path`` (unless it is left out), ``check_compatible``,
        ``connection_retry``, and what stands after the question mark.
    :raises ValueError: it names no host, or something that nobody reads.
    """
    place, _, query = address.partition("://")[2].partition("?")
    hosts, slash, path = place.partition("/")
    if not hosts:
        raise ValueError("it names no host: zookeeper://host:port/path")
    conf: dict[str, Any] = {
        "hosts": hosts,
        "check_compatible": False,
        "connection_retry": dict(_CONNECTION_RETRY),
    }
    if path.rstrip("/"):
        conf["path"] = slash + path.rstrip("/")
    options = urllib.parse.parse_qsl(query, keep_blank_values=True)
    known = (*_ZOOKEEPER_OPTIONS, *others)
    if unknown := [name for name, _ in options if name not in known]:
        raise ValueError(
            f"ZooKeeper's address has no option {unknown[0]!r} here; it takes {', '.join(known)}"
        )
    conf.update(urllib.parse.parse_qsl(query))
    return conf


def board_conf(address: str) -> dict[str, Any]:
    """Return TaskFlow's configuration for a job board's address.

    It is read here for the three kinds that TaskFlow (6.5) brings along: of
    ``redis://other:6379`` TaskFlow itself reads the port but not the host, and
    talks to this machine.

    :param address: ``zookeeper://…`` as for :func:`zookeeper_conf`,
        ``redis://[user:password@]host[:port][/database]`` (``rediss://`` with
        TLS) or ``etcd://host[:port][/path]``, each with ``?name=value``; any
        other is left to TaskFlow.
    :returns: ``board`` and what goes with it.
    :raises ValueError: it names no host, or what should be a number is none.
    """
    kind = kind_of(address)
    if kind == ZOOKEEPER:
        return {"board": kind, **zookeeper_conf(address, others=ZOOKEEPER_BOARD_OPTIONS)}
    if kind in (REDIS, _REDIS_WITH_TLS):
        return _redis_conf(address)
    if kind == ETCD:
        return _etcd_conf(address)
    return {"board": address}


def _redis_conf(address: str) -> dict[str, Any]:
    parts = _with_host(address)
    conf: dict[str, Any] = {
        "board": REDIS,
        "host": parts.hostname,
        "port": parts.port or 6379,
        # Older redis-py waits for ever.
        "socket_timeout": _PATIENCE_SECONDS,
        "socket_connect_timeout": _PATIENCE_SECONDS,
    }
    if database := parts.path.strip("/"):
        conf["db"] = int(database)
    if parts.username:
        conf["username"] = urllib.parse.unquote(parts.username)
    if parts.password:
        conf["password"] = urllib.parse.unquote(parts.password)
    if parts.scheme == _REDIS_WITH_TLS:
        conf["ssl"] = True
    conf.update(urllib.parse.parse_qsl(parts.query))
    if isinstance(others := conf.get("sentinel_fallbacks"), str):
        conf["sentinel_fallbacks"] = others.split(",")
    return conf


def _etcd_conf(address: str) -> dict[str, Any]:
    parts = _with_host(address)
    conf: dict[str, Any] = {
        "board": ETCD,
        "host": parts.hostname,
        "port": parts.port or 2379,
        "timeout": _PATIENCE_SECONDS,  # etcd3gw waits for ever
    }
    if path := parts.path.strip("/"):
        conf["path"] = path
    conf.update(urllib.parse.parse_qsl(parts.query))
    return conf


def _with_host(address: str) -> urllib.parse.SplitResult:
    parts = urllib.parse.urlsplit(address)
    if not parts.hostname:
        raise ValueError(f"it names no host: {parts.scheme}://host:port")
    return parts


def configuration(persistence: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a TaskFlow persistence backend.

    TaskFlow (6.5, ``utils/misc.py``, ``merge_uri``) reads everything of an
    address but its path. That of a directory is its path:
    ``dir:///var/lib/flows`` is what TaskFlow wants as
    ``{"connection": "dir", "path": "/var/lib/flows"}``. For ZooKeeper see
    :func:`zookeeper_conf`.

    :param persistence: an address, or a configuration with one.
    :raises UnsupportedBackend: a directory that has no path, or a host.
    :raises ValueError: a ZooKeeper without a host.
    """
    conf = {"connection": persistence} if isinstance(persistence, str) else dict(persistence)
    connection = str(conf.get("connection", ""))
    if kind_of(connection) == ZOOKEEPER and "://" in connection:
        return {**zookeeper_conf(connection), **conf, "connection": ZOOKEEPER}
    if connection.partition(":")[0] not in _DIRECTORIES or conf.get("path"):
        return conf
    parts = urllib.parse.urlsplit(connection)
    path = urllib.parse.unquote(parts.path) if ":" in connection else ""
    path = path or dict(urllib.parse.parse_qsl(parts.query)).get("path", "")
    if parts.netloc or not path:
        raise errors.UnsupportedBackend(
            f"{connection!r} names no directory: write dir:///path/to/flows"
        )
    return {**conf, "path": path}
