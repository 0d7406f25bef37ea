# SPDX-License-Identifier: Apache-2.0
"""Keeps leases alive while their owners are busy.

One thread for each ledger, running only while there is a lease to keep. It
takes none of TaskFlow's locks (a serial engine may hold one for as long as a
task runs) and uses a connection of its own.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lazy_engine import errors, fork
from lazy_engine.ledger import record as r

if TYPE_CHECKING:
    from lazy_engine.ledger.protocol import Ledger

LOG = logging.getLogger(__name__)

#: A lease is renewed this often within its length.
RENEWALS_PER_LEASE: Final = 3

#: How long the thread stays when there is nothing to keep.
_IDLE_SECONDS: Final = 0.02

#: How long closing waits at most for a renewal that the store does not answer.
_CLOSE_SECONDS: Final = 5.0

#: How often an owner is asked whether it has progress to write.
_FLUSH_SECONDS: Final = 1.0


@dataclasses.dataclass(eq=False, kw_only=True)
class Hold:
    """A lease in the keeper's care.

    :ivar is_active: whether the owner is at work; an idle one loses its lease.
    :ivar is_gone: whether there is no owner any more, who was interrupted before it said so.
    :ivar on_pulse: told what a renewal brought; must only note it.
    :ivar on_lost: told that there is a newer owner; must only note it.
    :ivar flush: writes progress, if there is any.
    """

    lease: r.Lease
    is_active: Callable[[], bool]
    on_pulse: Callable[[r.Pulse], None]
    on_lost: Callable[[], None]
    flush: Callable[[], None]
    is_gone: Callable[[], bool] = lambda: False
    renew_due: float = 0.0
    flush_due: float = 0.0


class Keeper(fork.Forkable):
    """Renews leases of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.begin_anew()
        fork.watch(self)

    def begin_anew(self) -> None:
        """Care for no lease, as in a forked child: those it inherits are its parent's, and so is the thread."""
        self._changed = threading.Condition()
        self._holds: set[Hold] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0
        self._idle_since = 0.0

    def hold(self, hold: Hold) -> None:
        """Take a lease into care."""
        now = time.monotonic()
        hold.renew_due = now + hold.lease.seconds / RENEWALS_PER_LEASE
        hold.flush_due = now + _FLUSH_SECONDS
        with self._changed:
            self._holds.add(hold)
            # One that was interrupted before it started never will.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="lazy-engine-keeper", daemon=True
                )
                self._thread.start()

    def let_go(self, hold: Hold) -> None:
        """Stop caring for a lease; it is neither renewed nor released."""
        with self._changed:
            self._holds.discard(hold)
            if self._holds:
                return
            self._idle_since = time.monotonic()
            if self._wakes_at > self._idle_since + _IDLE_SECONDS:
                # So that the thread ends soon. Not each time: whoever runs one short
                # flow after the other would pay for two changes of threads each.
                self._changed.notify_all()

    def close(self) -> None:
        """Care for no lease any more, and wait until none is being cared for.

        Otherwise a store could be closed under a renewal, whose connection
        nobody would close then.
        """
        with self._changed:
            self._holds.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is None or not thread.is_alive():
            return
        if thread is not threading.current_thread():
            thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                # Not since this thread saw a lease last: it looks rarely, and short flows
                # may have come and gone meanwhile.
                if not self._holds and now - self._idle_since >= _IDLE_SECONDS:
                    self._thread = None
                    return
                due = [h for h in self._holds if min(h.renew_due, h.flush_due) <= now]
                if not due:
                    pause = self._pause(now)
                    self._wakes_at = now + pause
                    self._changed.wait(pause)
                    continue
            for hold in due:
                self._tend(hold, now)

    def _pause(self, now: float) -> float:
        # New holds do not wake the thread: none is due within this time.
        dues = [min(h.renew_due, h.flush_due) for h in self._holds]
        shortest = min((h.lease.seconds for h in self._holds), default=_IDLE_SECONDS * 10)
        return max(0.005, min([due - now for due in dues] + [0.25, shortest / 10]))

    def _tend(self, hold: Hold, now: float) -> None:
        if hold.renew_due <= now:
            hold.renew_due = now + hold.lease.seconds / RENEWALS_PER_LEASE
            self._renew(hold, now)
        if hold.flush_due <= now:
            hold.flush_due = now + _FLUSH_SECONDS
            try:
                hold.flush()
            except errors.LazyEngineError as error:
                # Progress is a courtesy; what matters fails in the owner's thread.
                LOG.info("progress of flow %s not written: %s", hold.lease.flow_uuid, error)
            except Exception:
                # What a task gives as progress may be anything, and the thread
                # must live: the leases of other flows depend on it too.
                LOG.exception("progress of flow %s not written", hold.lease.flow_uuid)

    def _renew(self, hold: Hold, now: float) -> None:
        if hold.is_gone():
            self.let_go(hold)
        if not hold.is_active():
            return
        try:
            hold.on_pulse(self._ledger.renew(hold.lease))
        except errors.Fenced:
            self.let_go(hold)
            hold.on_lost()
        except errors.StoreUnavailable as error:
            hold.renew_due = now + hold.lease.seconds / RENEWALS_PER_LEASE / 4
            LOG.warning("lease of flow %s not renewed: %s", hold.lease.flow_uuid, error)
