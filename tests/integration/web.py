# SPDX-License-Identifier: Apache-2.0
"""A small HTTP client that logs nothing: others print the paths they ask for, with tokens in them."""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import urllib.parse
from collections.abc import Mapping
from typing import Any

JSON = {"Content-Type": "application/json"}


@dataclasses.dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)


class Web:
    """Asks one server, on a new connection each time."""

    def __init__(self, url: str, **headers: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.address = (str(parts.hostname), int(parts.port or 0))
        self.headers = headers

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str | None
    ) -> Reply:
        sent = {**self.headers, **headers}
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            named = {name.replace("_", "-"): value for name, value in sent.items() if value}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read().decode())
        finally:
            connection.close()

    def get(self, path: str, **headers: str | None) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, value: Any = None, **headers: str | None) -> Reply:
        body = None if value is None else json.dumps(value).encode()
        kind = None if value is None else "application/json"
        return self.ask("POST", path, body, **{"Content_Type": kind, **headers})

    def open(self, sent: bytes = b"") -> socket.socket:
        """Return a connection on which something was sent."""
        connection = socket.create_connection(self.address, timeout=20)
        connection.sendall(sent)
        return connection


def status_on(connection: socket.socket) -> int | None:
    """Return the status of the next answer on a connection, or None if it was closed."""
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
        answer.read()
    except (ConnectionError, http.client.RemoteDisconnected):
        return None
    finally:
        answer.close()
    return answer.status
