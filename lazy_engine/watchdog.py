# SPDX-License-Identifier: Apache-2.0
"""The watchdog: makes due time and lost doorbells into outcomes and rings.

Any number of them may run side by side without knowing of each other: each
flow is seen to in a transaction of its own, which finds nothing to do if
another watchdog was quicker. What a round costs depends on what is due, never
on what is parked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from futurist import periodics

from lazy_engine import errors, ledger

if TYPE_CHECKING:
    from lazy_engine.client import Client

LOG = logging.getLogger(__name__)

#: Time between two looks: a delay may be opened by anybody, and be due sooner
#: than all that was known at the last look.
PERIOD_SECONDS: Final = 0.75

#: How many looks are one round of the periodic worker's, which takes as long as
#: a look to find out that its only work is due.
_LOOKS_PER_ROUND: Final = 40

#: How often a store that does not answer is said to do so.
_COMPLAIN_EVERY: Final = 60


class Watchdog:
    """Sweeps again and again, in a thread of its own or in the caller's.

    :param client: with a job board, flows that want an owner are rung for.
    :param period_seconds: longest time between two looks, above 0; what is known
        to be due before the next one is seen to at its time.
    :param on_wanting: without a job board: called with the uuid of each flow
        that wants to be resumed, in the watchdog's thread.
    """

    def __init__(
        self,
        client: Client,
        *,
        period_seconds: float = PERIOD_SECONDS,
        on_wanting: Callable[[str], object] | None = None,
    ) -> None:
        if not period_seconds > 0:
            raise ValueError(f"period_seconds must be above 0, not {period_seconds!r}")
        self._client = client
        self._period_seconds = period_seconds
        self._is_ending = threading.Event()
        self._on_wanting = on_wanting
        self._failures = 0
        spaced = periodics.periodic(spacing=period_seconds, run_immediately=True)
        # A bound method cannot carry the marks that futurist sets.
        self._worker = periodics.PeriodicWorker([(spaced(lambda: self._round()), (), {})])
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Sweep until :meth:`stop`, in this thread."""
        self._is_ending.clear()
        self._worker.start(allow_empty=False)

    def start(self) -> None:
        """Sweep until :meth:`stop`, in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="lazy-engine-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the round under way; waits for it if :meth:`start` was called."""
        self._is_ending.set()
        self._worker.stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _round(self) -> None:
        try:
            for looks_left in reversed(range(_LOOKS_PER_ROUND)):
                end = time.monotonic() + self._period_seconds
                self._see_to_what_is_due(end)
                self._failures = 0
                if not looks_left or self._is_ending.wait(max(0.0, end - time.monotonic())):
                    return
        except errors.StoreUnavailable as error:
            # The store may be restarting; what is due stays due.
            if self._failures % _COMPLAIN_EVERY == 0:
                LOG.warning("the watchdog cannot reach the store, and goes on trying: %s", error)
            self._failures += 1
        except Exception:
            # The thread must live: every deadline hangs on it.
            LOG.exception("a round of the watchdog failed")

    def _see_to_what_is_due(self, end: float) -> None:
        """Sweep now and at each time known to be due before *end*, of ``time.monotonic``."""
        has_swept = False
        while (left := end - time.monotonic()) > 0:
            due_in = ledger.beside(self._client.backend).next_due_in(left)
            # What is still due after a sweep is in trouble, and is for the next round.
            if due_in is None or (has_swept and due_in <= 0):
                return
            if self._is_ending.wait(max(0.0, due_in)):
                return
            for wanting in self._client.sweep_pages():
                self._tell(wanting)
            has_swept = True

    def _tell(self, wanting: Sequence[str]) -> None:
        if self._on_wanting is None:
            return
        for flow_uuid in wanting:
            try:
                self._on_wanting(flow_uuid)
            except Exception:
                # One flow's trouble must not keep the others from being seen to.
                LOG.exception("flow %s wants to be resumed and could not be", flow_uuid)
