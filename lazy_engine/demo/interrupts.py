# SPDX-License-Identifier: Apache-2.0
"""Signals that interrupt a demo, except in the midst of what would leave something behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Lets SIGTERM and SIGHUP interrupt like Ctrl-C does, so that all is cleaned up.

    To be entered in the main thread.
    """

    def __init__(self) -> None:
        self._holds = 0
        self._is_due = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Interrupt no sooner than at the end of this.

        :raises KeyboardInterrupt: at its end, if a signal has come meanwhile and it has not failed.
        """
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        self._interrupt_if_due()

    def _interrupt(self, *_: object) -> None:
        self._is_due = True
        self._interrupt_if_due()

    def _interrupt_if_due(self) -> None:
        if self._is_due and not self._holds:
            self._is_due = False
            raise KeyboardInterrupt
