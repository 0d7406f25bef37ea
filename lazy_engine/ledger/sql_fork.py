# SPDX-License-Identifier: Apache-2.0
"""No SQLite file is open while a process forks.

For each file SQLite keeps one account of the locks that the whole process holds,
and a child inherits the account but not the locks. As long as it has a connection
of its parent's, new ones in the child take it that the file is locked for them:
once the parent lets go of the file, it deletes the log under the child, and what
the child commits from then on is lost (sqlite.org, "How To Corrupt An SQLite
Database File", 2.6). To close them in the child is no way out: that may delete a
log, too. So there are none when a process forks.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from lazy_engine import fork

#: So long a fork waits for what other threads do with a file. One that has to go on
#: without them is as before: its child may share the fate of its parent's connections.
_PATIENCE_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.001


class ForkGate(fork.Forkable):
    """Passed by whoever uses connections to a file; shut while the process forks.

    Not to be entered twice by a thread at a time.

    :param close: closes the connections that nobody uses.
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = weakref.WeakMethod(close)
        self._door = threading.Lock()
        self._shut_by: int | None = None
        self._inside: set[int] = set()
        fork.watch(self)

    # By threads, and not by a number: whoever was interrupted on the way out is
    # out when it comes again, or forks.

    def __enter__(self) -> None:
        while not self._pass(shuts=False):
            time.sleep(_PAUSE_SECONDS)

    def __exit__(self, *_: object) -> None:
        self._inside.discard(threading.get_ident())

    def _pass(self, *, shuts: bool) -> bool:
        """Go in, or shut the gate, unless another thread has shut it.

        Whoever has shut it and goes in has forked, though an interrupt kept it from saying so.
        """
        me = threading.get_ident()
        with self._door:
            if self._shut_by not in (None, me):
                return False
            self._shut_by = me if shuts else None
            if not shuts:
                self._inside.add(me)
            return True

    def shut(self) -> None:
        """Keep everybody out, wait until nobody is inside, and close the connections.

        May be called again if it was interrupted.
        """
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        while not self._pass(shuts=True):
            if time.monotonic() >= give_up_at:
                return  # another thread forks, and is in trouble
            time.sleep(_PAUSE_SECONDS)
        while self._inside - {threading.get_ident()} and time.monotonic() < give_up_at:
            time.sleep(_PAUSE_SECONDS)
        close = self._close()
        if close is not None:
            with contextlib.suppress(Exception):  # what is in the way is for its users to find
                close()

    def open(self) -> None:
        """Let everybody in again."""
        if self._shut_by == threading.get_ident():
            self._shut_by = None

    def begin_anew(self) -> None:
        """Let everybody in, in a forked child, where only this thread lives on."""
        self._door = threading.Lock()
        self._shut_by = None
        self._inside = set()
