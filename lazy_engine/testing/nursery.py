# SPDX-License-Identifier: Apache-2.0
"""Processes that are quick to start: forks of one that has imported everything.

A nursery is a process without threads, so that forking it is safe; a test
process mostly is not. It starts one child at a time and waits for its end.
Orders and answers are JSON lines::

    {"target": "module:qualname", "argument": {…}, "errors_path": …, "timeout_seconds": …}
    {"target": "module:qualname", "argument": {…}}
    {"status": exit status, or minus the number of the signal that killed it}

The second kind of order is carried out by the nursery itself, so that all
later children find it done.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pathlib
import pkgutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Self

_MAIN = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve()"


class Nursery:
    """Runs functions in processes of their own.

    Belongs to one thread at a time.
    """

    def __init__(self) -> None:
        program = _MAIN.format(path=sys.path, module=__name__)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        target: str,
        argument: Mapping[str, Any],
        *,
        errors_path: pathlib.Path,
        timeout_seconds: float,
    ) -> int:
        """Run a function with one argument and wait for its end.

        :param target: the function, as ``"module:qualname"``.
        :param argument: strict JSON.
        :param errors_path: gets all that the function prints.
        :param timeout_seconds: after that long it is ended, and all stacks printed.
        :returns: 0; or 1 if it raised or took too long; or ``-9`` if it was killed.
        """
        return self._order(
            target=target,
            argument=argument,
            errors_path=str(errors_path),
            timeout_seconds=timeout_seconds,
        )

    def prepare(self, target: str, argument: Mapping[str, Any]) -> None:
        """Run a function in the nursery itself; it must leave no thread behind."""
        self._order(target=target, argument=argument)

    def _order(self, **order: Any) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the process that forks others is gone; see its standard error")
        return int(json.loads(answer)["status"])

    def close(self) -> None:
        """End the nursery, once its child has ended."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve() -> None:
    """Carry out orders from standard input until it ends."""
    for line in sys.stdin:
        order = json.loads(line)
        if "errors_path" not in order:
            pkgutil.resolve_name(order["target"])(order["argument"])
            print(json.dumps({"status": 0}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _live(order)
        _pid, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


def _live(order: Mapping[str, Any]) -> None:
    """Be a child: run the function, and end without a word to the parent's objects."""
    status = 1
    try:
        descriptor = os.open(order["errors_path"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdin.close()
        faulthandler.dump_traceback_later(order["timeout_seconds"], exit=True)
        target: Callable[[Any], object] = pkgutil.resolve_name(order["target"])
        target(order["argument"])
        status = 0
    except BaseException:
        # It must not return into the parent's code, whatever it is.
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
