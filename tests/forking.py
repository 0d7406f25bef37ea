# SPDX-License-Identifier: Apache-2.0
"""Children that are forked off in the middle of a test."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def fork(work: Callable[[], object]) -> int:
    """Have a child do some work, and end well if that goes well; return its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(20)
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def wait_for(pid: int) -> None:
    """Wait until a child has ended well."""
    assert os.waitpid(pid, 0)[1] == 0
