# SPDX-License-Identifier: Apache-2.0
"""The life of a server process: started, stopped, killed, paused, and never left behind."""

from __future__ import annotations

import abc
import atexit
import contextlib
import functools
import json
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from typing import Any, ClassVar, NoReturn, Self

import pytest

from tests.servers import guard
from tests.waiting import wait_until

_PORTS = (20_000, 32_000)
_STOP_TIMEOUT_SECONDS = 30.0
_START_TIMEOUT_SECONDS = 60.0


def in_ci() -> bool:
    """Tell whether the environment variable ``CI`` says so."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def missing(reason: str) -> NoReturn:
    """Skip the test at home, fail it in CI, where a skipped test would pass unnoticed."""
    if in_ci():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def unprivileged_user(*names: str) -> str | None:
    """Return whom to run a server as: nobody else, unless this is root, whom databases refuse.

    :param names: accounts, the first of which that is there does it.
    """
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in names if name in known)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on.

    It lies below the kernel's ephemeral range: a port from that range can, while its server is down, be taken by any
    outgoing connection, and a client that keeps trying to reach it may even connect to itself.
    """
    for _attempt in range(200):
        port = random.randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port between {_PORTS[0]} and {_PORTS[1]}")


def children_of(pid: int) -> list[int]:
    """Return the pids of the living children of ``pid``; none where there is no ``/proc``."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(entry.parent.name))
    return found


def family_of(pid: int) -> list[int]:
    """Return ``pid`` and all its living descendants, parents first."""
    family = [pid]
    for member in family:
        family.extend(children_of(member))
    return family


class _Keeper:
    """Knows this process's servers, ends them when it exits, and has a guard process for when it cannot."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._servers: dict[str, Server] = {}
        script = pathlib.Path(guard.__file__)
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(self._pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        atexit.register(self.close)

    def add(self, server: Server, pid: int | None) -> None:
        with self._lock:
            self._servers[server.key] = server
            self._tell(
                add=server.key,
                pid=pid,
                started=None if pid is None else guard.start_mark(pid),
                signal=int(server.quit_signal),
                directory=str(server.directory),
            )

    def drop(self, server: Server) -> None:
        with self._lock:
            self._servers.pop(server.key, None)
            self._tell(drop=server.key)

    def pids(self) -> set[int]:
        with self._lock:
            pids = {server.pid for server in self._servers.values()}
        return {pid for pid in pids if pid is not None} | {self._guard.pid}

    def close(self) -> None:
        if os.getpid() != self._pid:
            return
        for server in list(self._servers.values()):
            server.close()
        with self._lock, contextlib.suppress(OSError):
            self._tell(quit=True)
            assert self._guard.stdin is not None
            self._guard.stdin.close()
        self._guard.wait()

    def _tell(self, **entry: Any) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._guard.stdin.write(json.dumps(entry).encode() + b"\n")
            self._guard.stdin.flush()


@functools.cache
def _keeper_of(_pid: int) -> _Keeper:
    return _Keeper()


def _keeper() -> _Keeper:
    return _keeper_of(os.getpid())


def owned_pids() -> set[int]:
    """Return the pids of the servers (and their guard) that this process has running on purpose."""
    return _keeper().pids() if _keeper_of.cache_info().currsize else set()


class Server(abc.ABC):
    """A server process with a directory of its own, which keeps directory and port over restarts.

    :cvar stop_signal: asks for an orderly end
    :cvar quit_signal: asks for a quick end, after which the directory is removed
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    quit_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def __init__(self, *, user: str | None = None) -> None:
        self.key = uuid.uuid4().hex
        self.port = free_port()
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[int] = []
        self._is_prepared = False
        self.directory = self._make_directory()
        _keeper().add(self, None)

    @abc.abstractmethod
    def prepare(self) -> None:
        """Write what the server needs before its first start."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments; it must stay in the foreground."""

    @abc.abstractmethod
    def is_ready(self) -> bool:
        """Tell whether the server answers requests now."""

    @property
    def pid(self) -> int | None:
        """The server's process, or None while it is down."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server has printed so far, over all its starts."""
        path = self.directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Start the server and return when it answers.

        :raises AssertionError: it ended or did not answer within a minute; the message holds the end of its log
        """
        self.launch()
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def launch(self) -> None:
        """Start the process without waiting for it to answer."""
        if self._process is not None:
            raise RuntimeError(f"{self.name} on port {self.port} has been started already")
        if not self._is_prepared:
            self.prepare()
            self._is_prepared = True
        self._process = self._popen(self.command())
        _keeper().add(self, self._process.pid)

    def wait_until_ready(self, *, timeout_seconds: float = _START_TIMEOUT_SECONDS) -> None:
        """Return when the server answers."""
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            if not self.is_running or time.monotonic() > deadline:
                state = "does not answer" if self.is_running else "ended"
                raise AssertionError(
                    f"{self.name} on port {self.port} {state}; its log ends with\n{self.log[-3000:]}"
                )
            # Not wait_until: a server that has ended is not waited for, and its log says why.
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server in good order; its data stays for the next start."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the server and its children with SIGKILL, as a power cut would; its data stays."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Stop the server and start it with the same port and data."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Stop the server's processes with SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None, f"{self.name} is not running"
        for pid in family_of(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._paused.append(pid)

    def resume(self) -> None:
        """Let paused processes go on."""
        while self._paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._paused.pop(), signal.SIGCONT)

    def close(self) -> None:
        """End the server, remove its data, and forget it; a second call does nothing."""
        self._end(self.quit_signal)
        shutil.rmtree(self.directory, ignore_errors=True)
        _keeper().drop(self)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def run(self, command: list[str]) -> None:
        """Run a program to its end, as the server's user, in its directory.

        :raises AssertionError: it failed; the message holds what it printed
        """
        process = self._popen(command)
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if code:
            raise AssertionError(f"{command[0]} ended with {code}:\n{self.log[-3000:]}")

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        # A session of its own keeps Ctrl-C on the terminal away from the server: the harness decides when it ends.
        with open(self.directory / "server.log", "ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                user=self._user,
                group=None if self._user is None else _group_of(self._user),
                extra_groups=None if self._user is None else [],
                start_new_session=True,
            )

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        # Some servers give every child a session of its own, so the process group does not reach them.
        family = family_of(process.pid) if process.poll() is None else []
        if number == signal.SIGKILL:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._paused.clear()
        else:
            self.resume()
            process.send_signal(number)
        try:
            process.wait(timeout=_STOP_TIMEOUT_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            self._process = None
            _keeper().add(self, None)
        marks = {pid: guard.start_mark(pid) for pid in family[1:]}
        wait_until(
            lambda: not any(mark and guard.start_mark(pid) == mark for pid, mark in marks.items()),
            what=f"the children of {self.name} to end",
        )

    def _make_directory(self) -> pathlib.Path:
        # Another user must be able to get there, and a socket's path must stay below 108 bytes.
        place = None if self._user is None else "/tmp"
        directory = pathlib.Path(tempfile.mkdtemp(prefix=f"lazy-{self.name}-", dir=place))
        if self._user is not None:
            shutil.chown(directory, self._user, _group_of(self._user))
        return directory


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid
