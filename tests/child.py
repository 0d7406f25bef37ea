# SPDX-License-Identifier: Apache-2.0
"""The environment of child processes that import test modules by name.

The repository itself must not be on their path: they would run the package
that lies in it, and not the one that is installed and tested.
"""

from __future__ import annotations

import atexit
import functools
import os
import pathlib
import shutil
import tempfile

_TESTS = pathlib.Path(__file__).resolve().parent


@functools.cache
def path() -> pathlib.Path:
    """Return a directory in which there is ``tests``, and nothing else."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="lazy-engine-tests-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "tests").symlink_to(_TESTS)
    return directory


def environment(**variables: str) -> dict[str, str]:
    """Return this process' environment for a child that imports ``tests.…``."""
    places = [str(path()), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), **variables}
