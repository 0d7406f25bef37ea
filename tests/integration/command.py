# SPDX-License-Identifier: Apache-2.0
"""Runs the command line in processes that are forked off one which has imported it.

A process of its own for each command, as its users have it, without a second of imports each time.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from typing import Any
from unittest import mock

import lazy_engine

Answer = subprocess.CompletedProcess[str]

_TIMEOUT_SECONDS = 60.0
_PRELOADED = ["lazy_engine.cli", "taskflow.persistence.backends.impl_sqlalchemy", "alembic"]
_PRELOADED += ["taskflow.persistence.backends.sqlalchemy.migration", "lazy_engine.ledger.sql"]

#: What the child does; as text, since it cannot import the tests.
_CHILD = """
import os, sys
for number, (name, flags) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
    os.dup2(os.open(name, flags), number)
sys.stdin = open(0, encoding="utf-8", closefd=False)
encoding = environment.get("PYTHONIOENCODING", "utf-8")
sys.stdout = open(1, "w", encoding=encoding, closefd=False)
sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
os.chdir(directory)
os.environ.clear()
os.environ.update(environment)
sys.argv = ["lazy-engine", *words]
import lazy_engine
assert lazy_engine.__file__ == package, lazy_engine.__file__
from lazy_engine.cli import main
code = 1
try:
    code = main(words)
except SystemExit as ending:
    code = int(ending.code or 0)
except BaseException:
    sys.excepthook(*sys.exc_info())
sys.stdout.flush()
sys.stderr.flush()
os._exit(int(code))
"""


@functools.cache
def _start_server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    # Else it would import what lies in the current directory, and not what is installed.
    with mock.patch.dict(os.environ, PYTHONSAFEPATH="1"):
        forkserver.ensure_running()
    return context


def run(
    words: Sequence[str], *, directory: pathlib.Path, environment: Mapping[str, str], stdin: str
) -> Answer:
    """Run one command to its end.

    :raises subprocess.TimeoutExpired: it took more than a minute, and was killed.
    """
    context = _start_server()
    with tempfile.TemporaryDirectory() as place:
        files = [os.path.join(place, name) for name in ("stdin", "stdout", "stderr")]
        for name, text in zip(files, (stdin, "", ""), strict=True):
            pathlib.Path(name).write_text(text, encoding="utf-8")
        given: dict[str, Any] = {
            "files": files,
            "directory": str(directory),
            "environment": dict(environment),
            "words": list(words),
            "package": lazy_engine.__file__,
        }
        process = context.Process(target=exec, args=(_CHILD, given))
        process.start()
        process.join(_TIMEOUT_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(words), _TIMEOUT_SECONDS)
        code = process.exitcode
        process.close()
        outputs = [pathlib.Path(name).read_text(encoding="utf-8") for name in files[1:]]
    return Answer(list(words), code if code is not None else 1, *outputs)
