# SPDX-License-Identifier: Apache-2.0
"""Ready-made tasks, retry controllers and flows for waiting."""

from __future__ import annotations

import random
from typing import Any

from taskflow import retry, task
from taskflow.patterns import linear_flow

from lazy_engine.delay import Delay


class Sleep(task.Task):  # type: ignore[misc]  # TaskFlow has no types
    """Waits for a time, without a thread and across restarts.

    Takes ``seconds`` as an argument, as a task does, or here.

    :param seconds: how long, at least 0; 0 does not wait at all.
    """

    def __init__(self, name: str | None = None, seconds: float | None = None, **kwargs: Any):
        if seconds is not None:
            kwargs["inject"] = {**(kwargs.get("inject") or {}), "seconds": seconds}
        super().__init__(name=name, **kwargs)

    def execute(self, seconds: float) -> Delay | None:
        """Wait."""
        return Delay.sleep(seconds) if seconds else None


class Backoff(retry.Times):  # type: ignore[misc]  # no types
    """Tries so many times, and provides how long to wait before each try.

    A retry controller cannot wait itself: put a :class:`Sleep` that takes what
    this provides in front of what is retried, or use :func:`retried`.

    :param attempts: how often, at least 1.
    :param first_seconds: wait before the second attempt; there is none before the first.
    :param factor: each wait is that many times the one before.
    :param longest_seconds: no wait is longer.
    :param jitter: each wait is shortened by up to that share of itself, at
        random, so that what failed together does not come back together.
    """

    default_provides = "pause_seconds"

    def __init__(
        self,
        attempts: int = 3,
        *,
        first_seconds: float = 1.0,
        factor: float = 2.0,
        longest_seconds: float = 3600.0,
        jitter: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts!r}")
        if first_seconds < 0 or factor < 1 or longest_seconds < 0 or not 0 <= jitter <= 1:
            raise ValueError(
                "first_seconds and longest_seconds must be at least 0, factor at least 1,"
                " and jitter between 0 and 1"
            )
        super().__init__(attempts, **kwargs)
        self._first_seconds = first_seconds
        self._factor = factor
        self._longest_seconds = longest_seconds
        self._jitter = jitter

    def execute(self, history: Any, *_: Any, **__: Any) -> float:
        """Return how long to wait before this attempt."""
        failed = len(history)
        if not failed:
            return 0.0
        # Of a high power there is no float; the longest wait is reached long before.
        seconds = self._first_seconds * self._factor ** min(failed - 1, 64)
        seconds = min(self._longest_seconds, seconds)
        # Not for secrets: the random part only spreads load.
        return seconds * (1 - self._jitter * random.random())


def retried(
    step: Any,
    attempts: int = 3,
    *,
    timeout_seconds: float | None = None,
    first_seconds: float = 0.0,
    factor: float = 2.0,
    longest_seconds: float = 3600.0,
    jitter: float = 0.0,
) -> Any:
    """Return a flow of one task that is tried again, with a deadline for each try.

    :param step: the task; its delays get the deadline unless they name one.
    :param attempts: how often it is tried in all.
    :param timeout_seconds: deadline of each attempt's delay; ``None``: the engine's.
    :param first_seconds: durable wait before the second attempt; see :class:`Backoff`.
    """
    if timeout_seconds is not None:
        step.delay_timeout_seconds = timeout_seconds
    pause_name = f"{step.name}.pause_seconds"
    controller = Backoff(
        attempts,
        first_seconds=first_seconds,
        factor=factor,
        longest_seconds=longest_seconds,
        jitter=jitter,
        name=f"{step.name}.retry",
        provides=pause_name,
    )
    flow = linear_flow.Flow(f"{step.name} with retries", retry=controller)
    if first_seconds:
        flow.add(Sleep(f"{step.name}.pause", rebind={"seconds": pause_name}))
    return flow.add(step)
