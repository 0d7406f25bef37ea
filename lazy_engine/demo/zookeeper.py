# SPDX-License-Identifier: Apache-2.0
"""A ZooKeeper server of the demo's own."""

from __future__ import annotations

import contextlib
import pathlib
import random
import shutil
import socket
from typing import Final

from lazy_engine.cli.exit_code import CommandFailed
from lazy_engine.demo.stage import Stage, wait_until

_JARS: Final = pathlib.Path("/usr/share/java")
_MAIN: Final = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
_START_SECONDS: Final = 60.0

# Start-up time over peak speed; nothing left in the temporary directory after a SIGKILL.
_JVM_OPTIONS: Final = (
    "-Xmx128m",
    "-Xshare:auto",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
    "-Dzookeeper.jmx.log4j.disable=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)

_SETTINGS: Final = """\
dataDir={data}
clientPort={port}
clientPortAddress=127.0.0.1
tickTime=500
minSessionTimeout=1000
maxClientCnxns=0
preAllocSize=1024
admin.enableServer=false
"""


def start(stage: Stage) -> str:
    """Start a server that ends with the stage; return its address.

    :raises CommandFailed: it is not installed, or does not start.
    """
    java, jars = shutil.which("java"), _class_path()
    if java is None or jars is None:
        raise CommandFailed(
            "this demo starts a ZooKeeper, and it or Java is not installed:"
            " apt-get install zookeeper default-jre-headless"
        )
    home = stage.path / "zookeeper"
    data_path = home / "data"
    data_path.mkdir(parents=True)
    port = _free_port()
    settings_path = home / "zoo.cfg"
    settings_path.write_text(_SETTINGS.format(data=data_path, port=port))
    log_path = home / "log"
    options = (*_JVM_OPTIONS, f"-Djava.io.tmpdir={home}", "-cp", jars, _MAIN)
    process = stage.program(java, *options, str(settings_path), log_path=log_path)
    try:
        wait_until(
            "ZooKeeper",
            lambda: _is_ready(port),
            timeout_seconds=_START_SECONDS,
            processes=[process],
        )
    except CommandFailed as error:
        last = log_path.read_text(errors="replace").strip().splitlines()[-3:]
        raise CommandFailed(f"{error}: {' '.join(last) or 'it printed nothing'}") from error
    stage.say(f"ZooKeeper is process {process.pid}, at 127.0.0.1:{port}")
    return f"127.0.0.1:{port}"


def _class_path() -> str | None:
    # Debian's jar names those it needs in its manifest; only a log backend is missing.
    jars = [_JARS / "zookeeper.jar", _JARS / "slf4j-simple.jar"]
    if not jars[0].exists():
        return None
    return ":".join(str(jar) for jar in jars if jar.exists())


def _free_port() -> int:
    # Below the kernel's ephemeral range, where outgoing connections take ports.
    for _attempt in range(200):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise CommandFailed("no free port between 20000 and 32000")


def _is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"srvr")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return False
    return b"Mode:" in answer
