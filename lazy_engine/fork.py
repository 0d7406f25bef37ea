# SPDX-License-Identifier: Apache-2.0
"""What a process that forks does before, and its child does first.

A child has a copy of everything and one thread: locks that others of its parent's
threads had are never released there, and what these threads did is not done.
"""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Callable


class Forkable:
    """Something that a process which forks has to see to; see :func:`watch`.

    What was done in part, or done, is done again after an interrupt.
    """

    def shut(self) -> None:
        """Get ready; called in the thread that forks, before it does."""

    def open(self) -> None:
        """Go on in the process that has forked."""

    def begin_anew(self) -> None:
        """Go on in the child, where no other thread lives."""


def watch(one: Forkable) -> None:
    """See to something, for as long as it lives, whenever the process forks.

    What it raises then Python reports and ignores.
    """
    _watched().add(one)


@functools.cache
def _watched() -> weakref.WeakSet[Forkable]:
    watched: weakref.WeakSet[Forkable] = weakref.WeakSet()

    def all_do(step: Callable[[Forkable], None]) -> Callable[[], None]:
        def each() -> None:
            for one in _all(watched):
                step(one)

        def do() -> None:
            try:
                each()
            except BaseException:
                # Ctrl-C, most likely. Whom it kept from being seen to would wait for ever.
                each()
                raise

        return do

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=all_do(lambda one: one.shut()),
            after_in_parent=all_do(lambda one: one.open()),
            after_in_child=all_do(lambda one: one.begin_anew()),
        )
    return watched


def _all(watched: weakref.WeakSet[Forkable]) -> list[Forkable]:
    while True:
        with contextlib.suppress(RuntimeError):  # another thread adds one just now
            return list(watched)
