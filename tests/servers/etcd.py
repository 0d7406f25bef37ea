# SPDX-License-Identifier: Apache-2.0
"""etcd, as Debian offers it."""

from __future__ import annotations

import functools
import shutil
import urllib.error
import urllib.request

from tests.servers.process import Server, free_port, missing

_INSTALL = "apt-get install etcd-server"


@functools.cache
def _program() -> str | None:
    return shutil.which("etcd")


class Etcd(Server):
    """One etcd server."""

    name = "etcd"

    def __init__(self) -> None:
        if _program() is None:
            missing(f"etcd is not installed: {_INSTALL}")
        super().__init__()
        self._peer_port = free_port()

    @property
    def url(self) -> str:
        """The address to give to the command line."""
        return f"etcd://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        (self.directory / "data").mkdir(mode=0o700)

    def command(self) -> list[str]:
        program = _program()
        assert program is not None
        own, peers = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._peer_port}"
        return [
            program,
            "--name=only",
            f"--data-dir={self.directory / 'data'}",
            f"--listen-client-urls={own}",
            f"--advertise-client-urls={own}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=only={peers}",
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=warn",
        ]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/health", timeout=1
            ) as answer:
                return b'"true"' in answer.read()
        except (OSError, urllib.error.URLError):
            return False
