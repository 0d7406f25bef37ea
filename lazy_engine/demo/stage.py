# SPDX-License-Identifier: Apache-2.0
"""Where a demo plays: a temporary directory, and real processes in it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, Final, TypeVar

from lazy_engine.cli.exit_code import CommandFailed
from lazy_engine.cli.output import Output
from lazy_engine.demo import guard
from lazy_engine.demo.interrupts import Interrupts

_COMMAND_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0

_T = TypeVar("_T")


class Actor:
    """A process that plays on while others come and go; its lines are shown as they come.

    :param name: what the audience knows it by.
    """

    def __init__(self, name: str, process: subprocess.Popen[str], output: Output) -> None:
        self.name = name
        self.process = process
        self._output = output
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name=f"demo-{name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.rstrip("\n")
            # Whoever waits for the lines needs them, even if nobody watches.
            with contextlib.suppress(BrokenPipeError):
                self._output.line(f"    {self.name} | {line}")
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()

    @property
    def lines(self) -> Sequence[str]:
        """What it has printed so far."""
        with self._changed:
            return list(self._lines)

    def close(self) -> None:
        """End it, and wait until all it printed has been shown."""
        end(self.process)
        self._reader.join(_STOP_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Stage:
    """Runs commands as processes of their own, and cleans up after them.

    :param output: what the audience sees.
    :param interrupts: those that it must not be torn apart by.
    """

    def __init__(self, output: Output, interrupts: Interrupts) -> None:
        self._output = output
        self._interrupts = interrupts
        self._closing = contextlib.ExitStack()
        self._environment = _environment(output)
        self.steps: list[dict[str, Any]] = []
        with interrupts.held():
            self.path = pathlib.Path(tempfile.mkdtemp(prefix="lazy-engine-demo-"))
            self._closing.callback(_remove, self.path)
            self._guard = self._closing.enter_context(_guarding(self.path))

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave half of it behind.
        with self._interrupts.held():
            self._closing.close()

    def set(self, **variables: str) -> None:
        """Set environment variables of the commands to come, and say so."""
        self._environment.update(variables)
        for name, value in variables.items():
            self.say(f"$ export {name}={shlex.quote(value)}")

    def say(self, text: str = "") -> None:
        """Tell the audience something."""
        self._output.line(text)

    def title(self, text: str) -> None:
        """Begin a new scene."""
        self.say()
        self.say(self._output.style(text, "strong"))

    def command(self, *words: str, stdin: str | None = None) -> str:
        """Run one ``lazy-engine`` command and show what it prints; return its stdout.

        :param stdin: what it reads; not shown.
        :raises CommandFailed: it failed, or takes too long.
        """
        process = self._start(words, stderr=subprocess.PIPE, stdin=subprocess.PIPE)
        shown = shlex.join(("lazy-engine", *words)) + (" < token" if stdin is not None else "")
        try:
            self.say(f"$ {shown}    # process {process.pid}")
            stdout, stderr = process.communicate(stdin, timeout=_COMMAND_SECONDS)
        finally:
            self._end(process)
        for line in (stderr + stdout).splitlines():
            self.say(f"    {line}")
        self._note(words, process)
        if process.returncode != 0:
            raise CommandFailed(f"'{shown}' exited with {process.returncode}: {stderr.strip()}")
        return stdout

    def ask(self, *words: str) -> str:
        """Run one command unseen, and return its stdout."""
        process = self._start(words, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            stdout, stderr = process.communicate(timeout=_COMMAND_SECONDS)
        finally:
            self._end(process)
        if process.returncode != 0:
            raise CommandFailed(f"'lazy-engine {words[0]}' failed: {stderr.strip()}")
        return stdout

    def actor(self, name: str, *words: str) -> Actor:
        """Start a ``lazy-engine`` command that goes on."""
        process = self._start(words, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.say(f"$ {shlex.join(('lazy-engine', *words))} &    # process {process.pid}")
        self._note(words, process)
        actor = Actor(name, process, self._output)
        self._closing.callback(actor.close)
        return actor

    def program(self, *words: str, log_path: pathlib.Path) -> subprocess.Popen[bytes]:
        """Start any other program that goes on; what it prints goes into a file."""
        with open(log_path, "wb") as log:
            return self._popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _start(self, words: Sequence[str], *, stderr: int, stdin: int) -> subprocess.Popen[str]:
        return self._popen(
            [sys.executable, "-m", "lazy_engine.cli", *words],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
        )

    def _popen(self, words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        # Interrupted in between, it would be a process that nobody knows of.
        with self._interrupts.held():
            # A session of its own: Ctrl-C is for the demo, which then ends the others.
            process: subprocess.Popen[Any] = subprocess.Popen(
                words, start_new_session=True, env=self._environment, **options
            )
            self._closing.callback(self._end, process)
            self._guard.write(f"+{process.pid}\n")
        return process

    def _end(self, process: subprocess.Popen[Any]) -> None:
        end(process)
        self._guard.write(f"-{process.pid}\n")

    def _note(self, words: Sequence[str], process: subprocess.Popen[str]) -> None:
        self.steps.append(
            {"command": list(words), "pid": process.pid, "exit_code": process.returncode}
        )


def end(process: subprocess.Popen[Any]) -> None:
    """End a process, in good order if it can be."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def wait_until(
    what: str,
    holds: Callable[[], _T | None],
    *,
    timeout_seconds: float,
    processes: Sequence[subprocess.Popen[Any]] = (),
) -> _T:
    """Look until something holds; return what it answered.

    :param processes: as long as all of these live.
    :raises CommandFailed: it takes too long, or a process is gone.
    """
    give_up_at = time.monotonic() + timeout_seconds
    while True:
        if found := holds():
            return found
        for process in processes:
            if process.poll() is not None:
                raise CommandFailed(f"process {process.pid} ended while waiting for {what}")
        if time.monotonic() > give_up_at:
            raise CommandFailed(f"waited {timeout_seconds:g} s in vain for {what}")
        time.sleep(0.02)  # other processes' doings tell nobody here


@contextlib.contextmanager
def _guarding(path: pathlib.Path) -> Iterator[IO[str]]:
    """Start the guard, and yield what it is told about processes with."""
    # No other process has this pipe's end: Python's children inherit no files.
    with subprocess.Popen(
        [sys.executable, guard.__file__, str(path)],
        stdin=subprocess.PIPE,
        bufsize=1,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        yield process.stdin


def _environment(output: Output) -> dict[str, str]:
    kept: Mapping[str, str] = {
        name: value
        for name, value in os.environ.items()
        # The audience's own store and job board have no part in this.
        if not name.startswith("LAZY_ENGINE_") and name not in ("FORCE_COLOR", "NO_COLOR")
    }
    colour = {"FORCE_COLOR": "1"} if output.has_colour else {"NO_COLOR": "1"}
    encoding = "utf-8" if output.has_unicode else "ascii:backslashreplace"
    return {**kept, **colour, "PYTHONIOENCODING": encoding, "PYTHONUNBUFFERED": "1"}


def _remove(path: pathlib.Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
