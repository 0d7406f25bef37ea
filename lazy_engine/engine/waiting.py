# SPDX-License-Identifier: Apache-2.0
"""How a run waits: for its own tasks to be done, and a little for quick answers from outside."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from futurist import waiters
from taskflow import states
from taskflow.types import failure as taskflow_failure

from lazy_engine import host
from lazy_engine.engine.completer import LazyCompleter
from lazy_engine.engine.probe import Probes
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.ledger import record as r

#: Longest uninterrupted wait for futures when the caller gives none.
_WAIT_SECONDS: Final = 60.0
#: How often news are looked for while waiting, at first and at most.
_FIRST_LOOK_SECONDS: Final = 0.01
_LAST_LOOK_SECONDS: Final = 0.25


class Owner(Protocol):
    """What a run needs of the engine that owns the flow."""

    def commit(self, ending: r.Ending | None = None) -> r.Committed:
        """Write the buffer, fenced."""

    def look(self) -> bool:
        """Ask the ledger whether outcomes came; raise if ownership is lost."""

    def check(self) -> None:
        """Act on what the keeper noted; raise if ownership is lost."""

    def fetch(self) -> Iterable[r.DelayRecord]:
        """Return the outcomes to absorb."""

    def deliver(self, deliveries: Sequence[r.Delivery]) -> None:
        """Record outcomes that a probe found."""

    @property
    def is_cancelled(self) -> bool:
        """Whether the flow is to be called off."""

    @property
    def probing(self) -> Sequence[r.DelayRecord]:
        """The delays that were open when the lease was taken and ask for probes."""

    @property
    def taken_at(self) -> int:
        """The store's time then."""


@dataclasses.dataclass
class Memory:
    """What one run has at hand; of none of it is anything lost with the process."""

    next_up: set[host.Atom] = dataclasses.field(default_factory=set)
    not_done: set[Any] = dataclasses.field(default_factory=set)
    done: set[Any] = dataclasses.field(default_factory=set)
    failures: list[taskflow_failure.Failure] = dataclasses.field(default_factory=list)
    inbox: deque[r.DelayRecord] = dataclasses.field(default_factory=deque)

    def cancel_futures(self) -> None:
        """Cancel what has not begun yet."""
        for future in self.not_done:
            future.cancel()


class Waiting:
    """Waits for one run.

    :param timeout: seconds that one wait for running tasks lasts at most.
    :param linger_seconds: how long to stay awake for quick answers.
    """

    def __init__(
        self,
        memory: Memory,
        storage: LazyStorage,
        owner: Owner,
        completer: LazyCompleter,
        probes: Probes,
        *,
        timeout: float | None,
        linger_seconds: float,
    ) -> None:
        self._memory = memory
        self._storage = storage
        self._owner = owner
        self._completer = completer
        self._probes = probes
        self._timeout = _WAIT_SECONDS if timeout is None else timeout
        self._linger_seconds = linger_seconds
        self._linger_until: float | None = None

    def take_in(self, arrivals: Iterable[r.DelayRecord]) -> None:
        """Put outcomes into the inbox that are new to this run."""
        known = {record.key for record in self._memory.inbox}
        self._memory.inbox.extend(
            record
            for record in arrivals
            # The store has those still that were absorbed and not committed yet.
            if record.key not in known and not self._storage.has_absorbed(record.key)
        )

    def start_over(self) -> None:
        """Have the time for quick answers begin anew when nothing else is left to do."""
        self._linger_until = None

    def lingers(self) -> bool:
        """Whether to stay awake a little for quick answers."""
        if (
            not self._linger_seconds
            or self._memory.failures
            or self._memory.next_up
            or self._storage.get_flow_state() != states.RUNNING
            or not self._storage.delayed_tasks()
        ):
            return False
        if self._linger_until is None:
            self._linger_until = time.monotonic() + self._linger_seconds
        return time.monotonic() < self._linger_until

    def linger(self) -> None:
        """Stay awake for quick answers, looking ever less often."""
        for pause in _pauses():
            left = (self._linger_until or 0.0) - time.monotonic()
            if left <= 0 or self._has_news() or self._is_called():
                return
            self._owner.check()
            if self._storage.get_flow_state() != states.RUNNING:
                return
            time.sleep(min(pause, left, self._probes.pause_seconds))

    def wait_for_futures(self) -> None:
        """Wait until a task is done, outcomes came, or the caller's time is up."""
        memory = self._memory
        end = time.monotonic() + self._timeout
        for pause in _pauses():
            left = 0.0 if memory.inbox else end - time.monotonic()
            seconds = max(0.0, min(pause, left, self._probes.pause_seconds))
            done, memory.not_done = waiters.wait_for_any(memory.not_done, timeout=seconds)
            memory.done.update(done)
            self._owner.check()
            if self._storage.get_flow_state() != states.RUNNING:
                memory.cancel_futures()
            if done or left <= 0 or self._has_news() or self._is_called():
                return

    def _is_called(self) -> bool:
        """Whether there is something to do other than to wait."""
        if self._owner.is_cancelled and not self._completer.is_cancelling:
            return True
        return self._probes.is_due and self._storage.get_flow_state() == states.RUNNING

    def _has_news(self) -> bool:
        if not self._storage.delayed_tasks() or not self._owner.look():
            return False
        self.take_in(self._owner.fetch())
        return bool(self._memory.inbox)


def _pauses() -> Iterable[float]:
    pause = _FIRST_LOOK_SECONDS
    while True:
        yield pause
        pause = min(_LAST_LOOK_SECONDS, pause * 1.5)
