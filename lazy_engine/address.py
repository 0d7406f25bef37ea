# SPDX-License-Identifier: Apache-2.0
"""Addresses of stores, completed by what TaskFlow leaves unread in them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from lazy_engine import errors

_DIRECTORIES: Final = ("dir", "file")


def configuration(persistence: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a TaskFlow persistence backend.

    TaskFlow (6.5, ``utils/misc.py``, ``merge_uri``) reads everything of an
    address but its path. That of a directory is its path:
    ``dir:///var/lib/flows`` is what TaskFlow wants as
    ``{"connection": "dir", "path": "/var/lib/flows"}``.

    :param persistence: an address, or a configuration with one.
    :raises UnsupportedBackend: a directory that has no path, or a host.
    """
    conf = {"connection": persistence} if isinstance(persistence, str) else dict(persistence)
    connection = str(conf.get("connection", ""))
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
