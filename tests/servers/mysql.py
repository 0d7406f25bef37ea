# SPDX-License-Identifier: Apache-2.0
"""MariaDB, as Debian offers it, which stands in for MySQL."""

from __future__ import annotations

import functools
import shutil
import uuid
from collections.abc import Mapping
from typing import Any

from tests.servers.process import Server, missing, unprivileged_user

_INSTALL = "apt-get install mariadb-server"
_PLACES = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"


@functools.cache
def _program(name: str) -> str | None:
    # /usr/sbin, where Debian has the server, is not on everybody's search path.
    return shutil.which(name) or shutil.which(name, path=_PLACES)


def why_missing() -> str | None:
    """Return what is not installed and how to install it, or None when all is there."""
    if _program("mariadbd") is None or _program("mariadb-install-db") is None:
        return f"MariaDB is not installed: {_INSTALL}"
    return None


class MySQL(Server):
    """One MariaDB server; everybody on this machine may connect as ``root``.

    :param fsync: whether a commit is on disk before it is acknowledged
    :param settings: more settings, as in ``my.cnf``
    """

    name = "mysql"

    def __init__(self, *, fsync: bool = True, settings: Mapping[str, object] | None = None) -> None:
        if (reason := why_missing()) is not None:
            missing(reason)
        super().__init__(user=unprivileged_user("mysql", "nobody"))
        self.data_path = self.directory / "data"
        self._settings: dict[str, object] = {
            "datadir": self.data_path,
            "port": self.port,
            "bind-address": "127.0.0.1",
            "socket": self.directory / "socket",
            "pid-file": self.directory / "pid",
            "tmpdir": self.directory,
            "skip-name-resolve": "ON",
            "skip-log-bin": "ON",
            "max-connections": 200,
            "innodb-buffer-pool-size": "32M",
            "innodb-log-file-size": "16M",
            "innodb-flush-method": "fsync" if fsync else "nosync",
            **(settings or {}),
        }

    def prepare(self) -> None:
        program = _program("mariadb-install-db")
        assert program is not None
        # --no-defaults must come first, or the machine's own my.cnf is read.
        self.run(
            [
                program,
                "--no-defaults",
                f"--datadir={self.data_path}",
                # A server that starts deletes what others have of their temporary tables in its own one.
                f"--tmpdir={self.directory}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--innodb-flush-method=nosync",
                *([] if self._user is None else [f"--user={self._user}"]),
            ]
        )

    def command(self) -> list[str]:
        program = _program("mariadbd")
        assert program is not None
        return [
            program,
            "--no-defaults",
            *(f"--{name}={value}" for name, value in self._settings.items()),
        ]

    def is_ready(self) -> bool:
        import pymysql

        try:
            self.connect(connect_timeout_seconds=2).close()
        except pymysql.OperationalError:
            return False
        return True

    def connect(self, *, connect_timeout_seconds: int = 10) -> Any:
        """Open a connection of PyMySQL in autocommit mode; the caller closes it."""
        import pymysql

        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            autocommit=True,
            connect_timeout=connect_timeout_seconds,
        )

    def create_database(self, charset: str = "utf8mb4") -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"lazy_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET {charset}")
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Drop the database of that URL; nothing happens if it is gone.

        Whoever still has a transaction open in it is thrown out: it would hold the drop up for ever.
        """
        name = url.partition("?")[0].rpartition("/")[2]
        for (connection_id,) in self.execute(
            f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"
        ):
            self.execute(f"KILL SOFT {connection_id}")
        self.execute(f"DROP DATABASE IF EXISTS {name}")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute one statement on a connection of its own and return its rows."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()
