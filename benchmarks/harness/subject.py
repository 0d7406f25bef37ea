# SPDX-License-Identifier: Apache-2.0
"""Subjects: whoever is measured, each in a process of its own, with a Python of its own.

So peers need not agree on versions of anything, and no subject pays for what
another one has in memory. All wait while one works.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent
#: Where ``make bench-peers`` puts the environments of peers.
PEERS = pathlib.Path(
    os.environ.get("LAZY_ENGINE_BENCH_PEERS") or _BENCHMARKS.parent / "build" / "peers"
)

#: Which stores each subject can work with.
STORES = {
    "lazy_engine": ("memory", "sqlite", "postgresql"),
    "lazy_engine_kept": ("sqlite", "postgresql"),
    "taskflow": ("memory", "sqlite", "postgresql"),
    "langgraph": ("sqlite", "postgresql"),
    "dbos": ("sqlite", "postgresql"),
}
#: Differs from ``lazy_engine`` only where a flow goes on in the process that parked it.
KEPT = "lazy_engine_kept"
#: Subjects that run with this Python.
AT_HOME = ("lazy_engine", KEPT, "taskflow")


def _python(name: str) -> pathlib.Path:
    return pathlib.Path(sys.executable) if name in AT_HOME else PEERS / name / "bin" / "python"


def chosen(
    wanted: Iterable[str] | None, store: str, *, left_out: Iterable[str] = (KEPT,)
) -> list[str]:
    """Return the subjects to measure with a kind of store.

    :param wanted: their names; None for all that are installed but those *left_out*.
    :raises SystemExit: one that is wanted is not there.
    """
    if wanted is None:
        names = [name for name in STORES if name not in left_out and _python(name).exists()]
    else:
        names = list(wanted)
        for name in names:
            if name not in STORES or not _python(name).exists():
                raise SystemExit(f"{name} is not in {PEERS}: make bench-peers")
    return [name for name in names if store in STORES[name]]


class Subject:
    """A subject at work in a child process; see ``benchmarks/subjects/serving.py``.

    :ivar url: the address of its store.
    :ivar processor_seconds: the processor time that its process took for the last thing that it
        did; a server's is not in it.
    :ivar facts: what it says of itself: ``subject``, ``versions`` and ``durability``.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        script = _BENCHMARKS / "subjects" / f"{name}_subject.py"
        self._process = subprocess.Popen(
            [_python(name), script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.processor_seconds = 0.0
        self.facts: dict[str, Any] = self.end()

    def begin(self, what: str, **arguments: Any) -> None:
        """Have it do something, and do not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        """Wait for what it has begun, and return the answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}")
        told = json.loads(line)
        self.processor_seconds = told.get("processor", 0.0)
        return told["answer"]

    def do(self, what: str, **arguments: Any) -> Any:
        self.begin(what, **arguments)
        return self.end()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:  # threads that wait for ever keep it
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def crew(names: Iterable[str], make_url: Callable[[], str]) -> Iterator[dict[str, Subject]]:
    """Yield subjects by name, each with a store of its own."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(contextlib.closing(Subject(name, make_url())))
            for name in names
        }
