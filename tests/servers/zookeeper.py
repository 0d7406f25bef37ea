# SPDX-License-Identifier: Apache-2.0
"""ZooKeeper, alone or as an ensemble, from the jars that Debian's ``zookeeper`` package installs."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import pathlib
import shutil
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Self

from tests.servers.process import Server, free_port, missing

_INSTALL = "apt-get install zookeeper default-jre-headless"
_JAR_PLACES = ("/usr/share/java", "/usr/share/zookeeper/lib", "/opt/zookeeper/lib")

# Start-up time over peak speed. Without UsePerfData nothing is left in /tmp after a SIGKILL.
_JVM_OPTIONS = (
    "-Xmx256m",
    "-Xshare:auto",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
    "-Dzookeeper.jmx.log4j.disable=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


@functools.cache
def classpath() -> str | None:
    """Return ZooKeeper's class path, or None where its jars are not installed.

    Debian's ``zookeeper.jar`` names the jars that it needs in its manifest; only a logging backend is missing there, and
    some of Netty, which a server needs for TLS. A tarball from upstream has everything in one directory.
    """
    home = os.environ.get("ZOOKEEPER_HOME")
    for place in ([f"{home}/lib"] if home else []) + list(_JAR_PLACES):
        jar = pathlib.Path(place, "zookeeper.jar")
        if jar.exists():
            names = ("slf4j-simple.jar", "netty-codec.jar", "netty-handler.jar")
            extras = [pathlib.Path(place, name) for name in names]
            return ":".join(str(path) for path in [jar, *extras] if path.exists())
        if glob.glob(f"{place}/zookeeper-[0-9]*.jar"):
            return f"{place}/*"
    return None


@functools.cache
def java() -> str | None:
    """Return the Java program, or None where there is none."""
    home = os.environ.get("JAVA_HOME")
    return (shutil.which(f"{home}/bin/java") if home else None) or shutil.which("java")


def why_missing() -> str | None:
    """Return what is not installed and how to install it, or None when all is there."""
    if java() is None or classpath() is None:
        return f"ZooKeeper or Java is not installed: {_INSTALL}"
    return None


class ZooKeeper(Server):
    """One ZooKeeper server.

    :param tick_milliseconds: sessions live at least two ticks
    :param whitelist: ``4lw.commands.whitelist``; ZooKeeper's own default is ``srvr``, and TaskFlow's version check
        needs ``envi``
    :param force_sync: whether a transaction is on disk before it is acknowledged
    :param settings: more lines of ``zoo.cfg``
    """

    name = "zookeeper"

    def __init__(
        self,
        *,
        tick_milliseconds: int = 500,
        whitelist: str = "*",
        force_sync: bool = True,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        if (reason := why_missing()) is not None:
            missing(reason)
        super().__init__()
        self.data_path = self.directory / "data"
        self.server_id = 1
        self._settings: dict[str, object] = {
            "dataDir": self.data_path,
            "clientPort": self.port,
            "clientPortAddress": "127.0.0.1",
            "tickTime": tick_milliseconds,
            "minSessionTimeout": 2 * tick_milliseconds,
            "maxSessionTimeout": 60_000,
            "initLimit": 20,
            "syncLimit": 10,
            "maxClientCnxns": 0,
            "preAllocSize": 1024,
            "forceSync": "yes" if force_sync else "no",
            "admin.enableServer": "false",
            "4lw.commands.whitelist": whitelist,
            **(settings or {}),
        }

    @property
    def hosts(self) -> str:
        """The address to give to a client."""
        return f"127.0.0.1:{self.port}"

    def configure(self, settings: Mapping[str, object]) -> None:
        """Add or change lines of ``zoo.cfg``, for the next start."""
        self._settings.update(settings)
        self._write_settings()

    def prepare(self) -> None:
        self.data_path.mkdir(exist_ok=True)
        (self.data_path / "myid").write_text(f"{self.server_id}\n")
        self._write_settings()

    def command(self) -> list[str]:
        program, jars = java(), classpath()
        assert program is not None and jars is not None
        return [
            program,
            *_JVM_OPTIONS,
            f"-Djava.io.tmpdir={self.directory}",
            f"-XX:ErrorFile={self.directory}/crash.log",
            "-cp",
            jars,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(self.directory / "zoo.cfg"),
        ]

    def is_ready(self) -> bool:
        """Open and close a session; that is a write, so an ensemble's member is ready once there is a quorum."""
        hello = struct.pack("!iqiqi16s?", 0, 0, 5000, 0, 16, b"", False)
        goodbye = struct.pack("!ii", 1, -11)
        try:
            # A server that is just starting may accept the connection and lose what is sent: ask again soon.
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(struct.pack("!i", len(hello)) + hello)
                if len(connection.recv(4)) < 4:
                    return False
                connection.sendall(struct.pack("!i", len(goodbye)) + goodbye)
                while connection.recv(4096):
                    pass
                return True
        except OSError:
            return False

    def ask(self, word: str) -> str:
        """Send a four letter word and return the answer.

        :raises OSError: the server is down
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as connection:
            connection.sendall(word.encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    @property
    def mode(self) -> str | None:
        """``standalone``, ``leader`` or ``follower``, or None while the server serves nobody."""
        with contextlib.suppress(OSError):
            for line in self.ask("srvr").splitlines():
                if line.startswith("Mode: "):
                    return line.removeprefix("Mode: ")
        return None

    def _write_settings(self) -> None:
        lines = [f"{name}={value}\n" for name, value in self._settings.items()]
        (self.directory / "zoo.cfg").write_text("".join(lines))


class Ensemble:
    """Several ZooKeeper servers that elect a leader.

    :param size: how many servers; the ensemble works while more than half of them do
    :param options: as for :class:`ZooKeeper`
    """

    def __init__(self, size: int = 3, **options: object) -> None:
        self.members: Sequence[ZooKeeper] = [ZooKeeper(**options) for _ in range(size)]  # type: ignore[arg-type]  # passed on as they came
        peers = {
            f"server.{number}": f"127.0.0.1:{free_port()}:{free_port()}"
            for number in range(1, size + 1)
        }
        for number, member in enumerate(self.members, start=1):
            member.server_id = number
            member.configure(peers)

    @property
    def hosts(self) -> str:
        """All members' addresses, as clients want them."""
        return ",".join(member.hosts for member in self.members)

    @property
    def leader(self) -> ZooKeeper | None:
        """The member that leads now, if one does; needs ``srvr`` in the whitelist."""
        return next((member for member in self.members if member.mode == "leader"), None)

    @property
    def followers(self) -> list[ZooKeeper]:
        """The members that follow a leader now."""
        return [member for member in self.members if member.mode == "follower"]

    def start(self) -> Self:
        """Start all members and return when each of them serves clients."""
        for member in self.members:
            member.launch()
        for member in self.members:
            member.wait_until_ready()
        return self

    def stop(self) -> None:
        """End all members in good order."""
        for member in self.members:
            member.stop()

    def kill(self) -> None:
        """End all members with SIGKILL."""
        for member in self.members:
            member.kill()

    def restart(self) -> Self:
        """Stop and start all members with the same ports and data."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """End all members and remove their data."""
        for member in self.members:
            member.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()
