# SPDX-License-Identifier: Apache-2.0
"""Ends what a demo has started, if the demo was killed; run as a process of its own.

A signal at the parent's death (``PR_SET_PDEATHSIG``) is Linux' alone, and has
to be set by code that runs in the child, which the demo's ZooKeeper has not.

Standard input carries a line for each process: ``+PID`` once it was started,
``-PID`` once it has ended. Its end means that the demo is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable


def follow(lines: Iterable[str]) -> set[int]:
    """Read to the end which processes come and go; return those that are left."""
    left: set[int] = set()
    for line in lines:
        number = int(line)
        if number > 0:
            left.add(number)
        else:
            left.discard(-number)
    return left


def main(path: str) -> None:
    """Follow the demo, then kill what it left, and remove its directory."""
    for pid in follow(sys.stdin):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
