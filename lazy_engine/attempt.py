# SPDX-License-Identifier: Apache-2.0
"""Which attempt of which task is running here and now.

The engine sets it around every execution and reversion, in the worker's own
thread; ``Delay`` reads it.
"""

from __future__ import annotations

import contextvars
import dataclasses
from typing import TYPE_CHECKING, Final

from lazy_engine import token

if TYPE_CHECKING:
    from lazy_engine.observer import WatchedAttempt


@dataclasses.dataclass(eq=False, repr=False)
class Attempt:
    """One attempt of one task, while it runs.

    :ivar signing_key: signs this attempt's token; never shown.
    :ivar default_timeout_seconds: for a ``Delay`` that names no deadline.
    :ivar has_probe: whether the task can look for itself.
    :ivar made: how many ``Delay`` objects the task has made so far.
    :ivar watched: what follows it, or ``None``.
    """

    name: token.DelayKey
    task_name: str
    signing_key: token.Key
    default_timeout_seconds: float | None = None
    has_probe: bool = False
    made: int = 0
    watched: WatchedAttempt | None = None

    def __repr__(self) -> str:
        return f"<Attempt {self.name.attempt} of {self.task_name!r} ({self.name.kind})>"


#: Set in the context that a task runs in, and nowhere else.
current: Final[contextvars.ContextVar[Attempt | None]] = contextvars.ContextVar(
    "lazy_engine_attempt", default=None
)
