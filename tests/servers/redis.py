# SPDX-License-Identifier: Apache-2.0
"""Redis, as Debian offers it."""

from __future__ import annotations

import functools
import shutil
import socket
from collections.abc import Mapping

from tests.servers.process import Server, missing

_INSTALL = "apt-get install redis-server"


@functools.cache
def _program() -> str | None:
    return shutil.which("redis-server")


class Redis(Server):
    """One Redis server; it forgets everything when it ends, unless told to keep it.

    :param keeps: whether a write is on disk before it is acknowledged
    :param settings: more settings, as in ``redis.conf``
    """

    name = "redis"

    def __init__(
        self, *, keeps: bool = False, settings: Mapping[str, object] | None = None
    ) -> None:
        if _program() is None:
            missing(f"Redis is not installed: {_INSTALL}")
        super().__init__()
        self._settings: dict[str, object] = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.directory,
            "daemonize": "no",
            "save": '""',
            "appendonly": "yes" if keeps else "no",
            "appendfsync": "always",
            **(settings or {}),
        }

    @property
    def url(self) -> str:
        """The address to give to the command line."""
        return f"redis://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        lines = [f"{name} {value}\n" for name, value in self._settings.items()]
        (self.directory / "redis.conf").write_text("".join(lines))

    def command(self) -> list[str]:
        program = _program()
        assert program is not None
        return [program, str(self.directory / "redis.conf")]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                # NOAUTH is as good a sign of life; LOADING is none.
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False
