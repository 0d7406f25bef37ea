# SPDX-License-Identifier: Apache-2.0
"""How an engine owns the flow that it runs."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from lazy_engine import errors, report
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.ledger import TakeRequest
from lazy_engine.ledger import record as r
from lazy_engine.ledger.keeper import Hold
from lazy_engine.ledger.protocol import fenced
from lazy_engine.observer import Absorbed, WatchedRun

LOG = logging.getLogger(__name__)

_FIRST_TRY_SECONDS: Final = 0.02
_LAST_TRY_SECONDS: Final = 0.25


def ask(storage: LazyStorage, request: TakeRequest, patience_seconds: float) -> r.Taken | r.Refused:
    """Ask for the lease of a flow, and wait a while for another owner to go.

    :returns: the lease, or the refusal of a flow that has ended.
    :raises FlowBusy: somebody else still has it.
    :raises FlowSuspended: it rests until it is resumed.
    """
    give_up_at = time.monotonic() + patience_seconds
    pause = _FIRST_TRY_SECONDS
    while True:
        answer = storage.ledger.take(request)
        if isinstance(answer, r.Taken) or answer.reason == "ended":
            return answer
        if answer.reason == "suspended":
            why = f" ({answer.record.wish_reason})" if answer.record.wish_reason else ""
            raise errors.FlowSuspended(
                f"flow {request.flow_uuid} is suspended{why}: Client.resume() or"
                " 'lazy-engine resume' lets it go on",
                flow_uuid=request.flow_uuid,
            )
        left = give_up_at - time.monotonic()
        if left <= 0:
            raise errors.FlowBusy(
                f"flow {request.flow_uuid} is being run by {answer.record.owner}, whose lease"
                f" lasts {answer.wait_seconds:.1f} s more: try again later",
                flow_uuid=request.flow_uuid,
            )
        time.sleep(min(pause, left))  # no store tells when a lease is given up
        pause = min(_LAST_TRY_SECONDS, pause * 1.5)


class Ownership:
    """One lease from its taking to its end; what the machine knows as its owner.

    :param arrivals: outcomes that were there when the lease was taken.
    :param suspend: asks the engine to suspend; called in its own thread.
    :param watched: what follows the run, or ``None``.
    """

    def __init__(
        self,
        storage: LazyStorage,
        lease: r.Lease,
        arrivals: Iterable[r.DelayRecord],
        probing: Sequence[r.DelayRecord],
        taken_at: int,
        suspend: Callable[[], None],
        watched: WatchedRun | None = None,
    ) -> None:
        self._storage = storage
        self._lease = lease
        self._first_arrivals: list[r.DelayRecord] | None = list(arrivals)
        self._suspend = suspend
        self._write_lock = threading.Lock()
        self._is_lost = threading.Event()
        self._has_flushed_news = False
        self._wish_noted: str | None = lease.pulse.wish
        self.probing = probing
        self.taken_at = taken_at
        self._taken_seconds = time.monotonic()
        self._watched = watched
        self._end_state: str | None = None
        self._idle_since: float | None = None
        self._hold = _hold(weakref.ref(self), lease, self._is_lost.set)
        self.has_ended = False
        self.is_final = False

    def begin(self) -> None:
        """Give the lease into the keeper's care."""
        self._storage.ledger.keeper.hold(self._hold)

    def end(self) -> None:
        """Take it back, and release it if the run did not end with a commit."""
        self._storage.ledger.keeper.let_go(self._hold)
        self._tell_end()
        with self._write_lock:
            if self.has_ended:
                return
            self.has_ended = True
        try:
            self._storage.ledger.release(self._lease)
        except errors.StoreUnavailable as error:
            LOG.warning(
                "lease of flow %s not given up, it will run out: %s", self._lease.flow_uuid, error
            )

    def give_up(self, kind: str, message: str, cause: BaseException) -> errors.FlowIncident:
        """Give the flow up because it cannot be run, all in one write; return what to raise.

        What the run had not committed is forgotten, as after a crash.

        :raises StoreUnavailable: that could not be written; the lease will run out.
        """
        self._storage.ledger.keeper.let_go(self._hold)
        self._tell_end()
        with self._write_lock:
            self.has_ended = True
        return report.write(
            self._storage.ledger,
            self._lease.flow_uuid,
            kind,
            message,
            cause,
            lease=self._lease,
        )

    def _tell_end(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.end(self._end_state)

    def set_idle(self, is_idle: bool) -> None:
        """Note that whoever iterates over the run does something else, or is back."""
        self._idle_since = time.monotonic() if is_idle else None

    # -- for the keeper, in its thread ------------------------------------

    def _is_active(self) -> bool:
        idle_since = self._idle_since
        return idle_since is None or time.monotonic() - idle_since < self._lease.seconds

    def _note_pulse(self, pulse: r.Pulse) -> None:
        self._wish_noted = pulse.wish

    def _flush_marks(self) -> None:
        """Write marks and progress of tasks at work."""
        with self._write_lock:
            changes = None if self.has_ended else self._storage.begun_marks()
            if changes is None:
                return
            try:
                done = self._storage.ledger.commit(self._lease, changes)
            except BaseException:
                self._storage.keep_marks(changes)
                raise
            if done.arrivals:
                # The lease knows of them from now on, so no look would find them new.
                self._has_flushed_news = True

    # -- for the machine --------------------------------------------------

    def commit(self, ending: r.Ending | None = None) -> r.Committed:
        """Write all that is buffered, fenced.

        A crash before the commit leaves the store as the last commit left it,
        and the tasks run since will run again; a crash after it leaves the
        turn complete. Only then is the buffer forgotten and anybody told.

        :raises Fenced: there is a newer owner; nothing was written.
        """
        with self._write_lock:
            self._require()
            changes = self._storage.changes(ending.state if ending else None)
            absorbed = self._storage.absorbed
            done = self._storage.ledger.commit(self._lease, changes, ending)
            if done.refused:
                return done
            self._storage.settle()
            self._wish_noted = done.pulse.wish
            if done.has_ended:
                self._storage.known = self._lease.version
                self.has_ended = True
                self.is_final = ending is not None and ending.is_final
                self._end_state = None if ending is None else ending.state
        if self._watched is not None and (absorbed or changes.opened):
            now = self.taken_at + int((time.monotonic() - self._taken_seconds) * 1e6)
            told = [Absorbed(record=record, now=now) for record in absorbed]
            self._watched.committed(changes.opened, told)
        return done

    def look(self) -> bool:
        """Ask the ledger whether outcomes came."""
        self._require()
        pulse = self._storage.ledger.pulse(self._lease)
        has_news = pulse.arrival_number != self._lease.pulse.arrival_number
        self._lease.pulse = pulse
        self._wish_noted = pulse.wish
        has_flushed_news, self._has_flushed_news = self._has_flushed_news, False
        return has_news or has_flushed_news

    def check(self) -> None:
        """Act on what the keeper noted.

        :raises Fenced: it noted a newer owner.
        """
        self._require()
        if self._wish_noted == r.WISH_SUSPEND:
            self._suspend()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asked for the flow to be called off, as far as is known here."""
        return self._wish_noted == r.WISH_CANCEL

    def deliver(self, deliveries: Sequence[r.Delivery]) -> None:
        """Record outcomes that the engine itself found; the first one wins."""
        self._require()
        self._storage.ledger.deliver(self._lease.flow_uuid, deliveries, rings=False)

    def fetch(self) -> Iterable[r.DelayRecord]:
        """Return the outcomes to absorb."""
        first, self._first_arrivals = self._first_arrivals, None
        if first is not None:
            return first  # what came since, the next commit or look finds by its number
        self._require()
        return self._storage.ledger.arrivals(self._lease)

    def _require(self) -> None:
        if self._is_lost.is_set() or self.has_ended:
            raise fenced(self._lease)


def _hold(
    owned: weakref.ReferenceType[Ownership], lease: r.Lease, on_lost: Callable[[], None]
) -> Hold:
    """Return what the keeper is to know of an owner.

    Not the owner itself: if its run was interrupted where it was about to take the lease
    back, nobody ever does, and the lease is to run out.
    """

    def is_active() -> bool:
        found = owned()
        return found is not None and found._is_active()

    def note_pulse(pulse: r.Pulse) -> None:
        if (found := owned()) is not None:
            found._note_pulse(pulse)

    def flush() -> None:
        if (found := owned()) is not None:
            found._flush_marks()

    return Hold(
        lease=lease,
        is_active=is_active,
        is_gone=lambda: owned() is None,
        on_pulse=note_pulse,
        on_lost=on_lost,
        flush=flush,
    )
