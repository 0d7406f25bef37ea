# SPDX-License-Identifier: Apache-2.0
"""Holds notifications back until what they tell is durable."""

from __future__ import annotations

from collections import deque
from typing import Any


class Outbox:
    """Stands between the engine's actions and its atom notifier.

    Closed by default: what is notified goes straight through. While it is
    open for collecting, notifications wait, in order.
    """

    def __init__(self, notifier: Any) -> None:
        self._notifier = notifier
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._collects = False

    def collect(self) -> None:
        """Hold back all that comes from now on."""
        self._collects = True

    def notify(self, state: str, details: dict[str, Any]) -> None:
        """Pass on, or hold back, one notification."""
        if self._collects:
            self._waiting.append((state, details))
        else:
            self._notifier.notify(state, details)

    def withdraw(self, task_name: str, state: str) -> None:
        """Take back what was to be told of a task's state."""
        self._waiting = deque(
            (waiting_state, details)
            for waiting_state, details in self._waiting
            if waiting_state != state or details.get("task_name") != task_name
        )

    def send(self) -> None:
        """Pass on all that waits, and hold nothing back any more."""
        self._collects = False
        while self._waiting:
            state, details = self._waiting.popleft()
            self._notifier.notify(state, details)

    def discard(self) -> None:
        """Forget all that waits: it never became true."""
        self._collects = False
        self._waiting.clear()
