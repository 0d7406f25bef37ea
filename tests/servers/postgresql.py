# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL, from whatever version Debian or the search path offers."""

from __future__ import annotations

import functools
import glob
import pathlib
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tests.servers.process import Server, missing, unprivileged_user

if TYPE_CHECKING:
    import psycopg

_INSTALL = "apt-get install postgresql"
_ROLE = "postgres"


@functools.cache
def binaries() -> pathlib.Path | None:
    """Return the directory of the newest ``postgres`` and ``initdb``, or None where there are none."""
    places = sorted(
        glob.glob("/usr/lib/postgresql/*/bin"),
        key=lambda place: [int(number) for number in re.findall(r"\d+", place)],
        reverse=True,
    )
    on_path = shutil.which("postgres")
    if on_path is not None:
        places.append(str(pathlib.Path(on_path).parent))
    for place in map(pathlib.Path, places):
        if (place / "postgres").exists() and (place / "initdb").exists():
            return place
    return None


def why_missing() -> str | None:
    """Return what is not installed and how to install it, or None when all is there."""
    return None if binaries() is not None else f"PostgreSQL is not installed: {_INSTALL}"


class PostgreSQL(Server):
    """One PostgreSQL server; everybody on this machine may connect as ``postgres``.

    :param fsync: whether a commit is on disk before it is acknowledged
    :param settings: more lines of ``postgresql.conf``
    """

    name = "postgresql"
    stop_signal = signal.SIGINT
    quit_signal = signal.SIGQUIT

    def __init__(self, *, fsync: bool = True, settings: Mapping[str, object] | None = None) -> None:
        if (reason := why_missing()) is not None:
            missing(reason)
        super().__init__(user=unprivileged_user("postgres", "nobody"))
        self.data_path = self.directory / "data"
        self._settings: dict[str, object] = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "fsync": "on" if fsync else "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
            "wal_level": "minimal",
            "max_wal_senders": 0,
            # In the data directory instead of /dev/shm, where a killed server would leave it.
            "dynamic_shared_memory_type": "mmap",
            "log_min_messages": "warning",
            **(settings or {}),
        }

    def prepare(self) -> None:
        program = [str(self._program("initdb")), "--pgdata", str(self.data_path)]
        options = [
            "--no-sync",
            "--auth=trust",
            f"--username={_ROLE}",
            "--encoding=UTF8",
            "--locale=C",
        ]
        self.run([*program, *options])

    def command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        return [str(self._program("postgres")), "-D", str(self.data_path), *settings]

    def is_ready(self) -> bool:
        import psycopg

        try:
            self.connect(connect_timeout_seconds=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(
        self, database: str = "postgres", *, connect_timeout_seconds: int = 10
    ) -> psycopg.Connection[tuple[object, ...]]:
        """Open a connection in autocommit mode; the caller closes it."""
        import psycopg

        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=_ROLE,
            dbname=database,
            autocommit=True,
            connect_timeout=connect_timeout_seconds,
        )

    def create_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"lazy_{uuid.uuid4().hex[:12]}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return f"postgresql+psycopg://{_ROLE}@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Drop the database of that URL and end its connections; nothing happens if it is gone."""
        name = url.partition("?")[0].rpartition("/")[2]
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        segments = self._shared_memory_ids()
        super().close()
        # A server that ended by SIGKILL leaves its System V segment, which would stay until the next boot.
        for segment in segments:
            subprocess.run(["ipcrm", "-m", segment], capture_output=True, check=False)

    def _execute(self, statement: str) -> None:
        with self.connect() as connection:
            connection.execute(statement.encode())

    def _program(self, name: str) -> pathlib.Path:
        place = binaries()
        assert place is not None
        return place / name

    def _shared_memory_ids(self) -> list[str]:
        # Line 7 of postmaster.pid is "KEY ID"; the file is gone after an orderly end, and so is the segment.
        if self.is_running:
            return []
        try:
            line = (self.data_path / "postmaster.pid").read_text().splitlines()[6]
        except (OSError, IndexError):
            return []
        return line.split()[1:]
