# SPDX-License-Identifier: Apache-2.0
"""Tasks that wait and also look for themselves whether the outside is done.

A probe is run by whoever owns the flow, in the executor of the tasks. What it
finds is delivered like any other outcome, by the engine itself: so the first
outcome wins, whether it came from outside or from a probe, and a crash after
the delivery loses nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any, Final

from lazy_engine import errors, host, outcome
from lazy_engine.delay import DELAYED, StillWaiting
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.ledger import record as r
from lazy_engine.token import DelayKey

if TYPE_CHECKING:
    from lazy_engine.engine.runtime import LazyRuntime

#: Parameter in which a probe gets what the one before it left.
STATE_PARAMETER: Final = "probe_state"


@dataclasses.dataclass
class _Probing:
    task_name: str
    every_seconds: float
    due: float
    state_text: str | None = None
    is_running: bool = False


class Probes:
    """The probes of one run.

    :param probing: open delays that ask for probes, as the taking of the lease found them.
    :param now: the store's time at that moment.
    :param deliver: records an outcome for one of the flow's delays.
    """

    def __init__(
        self,
        runtime: LazyRuntime,
        probing: Iterable[r.DelayRecord],
        now: int,
        deliver: Callable[[Sequence[r.Delivery]], None],
    ) -> None:
        self._runtime = runtime
        self._storage: LazyStorage = runtime.storage
        self._deliver = deliver
        self._known: dict[DelayKey, _Probing] = {}
        # Those that this engine opened last before it parked are among *probing*.
        self._storage.take_new_probes()
        started = time.monotonic()
        for record in probing:
            left_seconds = ((record.timers.probe_at or now) - now) / 1e6
            self._note(
                r.DelayOpening(key=record.key, task_name=record.task_name, terms=record.terms),
                started + max(0.0, left_seconds),
                record.probe_state_text,
            )

    def _note(self, opening: r.DelayOpening, due: float, state_text: str | None) -> None:
        assert opening.terms.probe_seconds is not None
        self._known[opening.key] = _Probing(
            opening.task_name, opening.terms.probe_seconds, due, state_text
        )

    def collect(self) -> None:
        """Take up the delays that were opened since."""
        for opening in self._storage.take_new_probes():
            assert opening.terms.probe_seconds is not None
            self._note(opening, time.monotonic() + opening.terms.probe_seconds, None)

    @property
    def is_due(self) -> bool:
        """Whether there is a probe to start."""
        return bool(self._known) and self.pause_seconds == 0.0

    @property
    def pause_seconds(self) -> float:
        """How long until the next probe is to start."""
        for key in [key for key in self._known if not self._waits(key)]:
            del self._known[key]
        dues = [probing.due for probing in self._known.values() if not probing.is_running]
        return max(0.0, min(dues, default=float("inf")) - time.monotonic())

    def _waits(self, key: DelayKey) -> bool:
        name = self._known[key].task_name
        return (
            self._storage.get_atom_state(name) == DELAYED and self._storage.delay_key(name) == key
        )

    def start_due(self) -> list[Any]:
        """Start the probes that are due; return their futures."""
        if not self.is_due:
            return []
        now = time.monotonic()
        started = []
        for key, probing in self._known.items():
            if probing.due <= now and not probing.is_running:
                probing.is_running = True
                started.append(self._start(key, probing))
        return started

    def _start(self, key: DelayKey, probing: _Probing) -> Any:
        task = self._runtime.atom_of(key.atom_uuid)
        try:
            arguments = self._runtime.task_action.arguments_of(task)
            if STATE_PARAMETER in inspect.signature(task.probe).parameters:
                state = probing.state_text
                arguments = {**arguments, STATE_PARAMETER: json.loads(state) if state else None}
            future = self._runtime.task_executor.submit(_run, task, arguments)
        except Exception as error:
            # The code of a parked task may have changed in any way.
            future = futures.Future()
            future.set_result(error)
        future.atom = task
        future.probe_of = key
        return future

    def complete(self, future: Any) -> bool:
        """Do with what a probe found what is to be done; return whether it found something."""
        key: DelayKey = future.probe_of
        try:
            found = future.result()
        except futures.CancelledError:
            found = None
        if key not in self._known or not self._waits(key):
            return False  # answered from outside, or called off, meanwhile
        if found is None or isinstance(found, StillWaiting):
            probing = self._known[key]
            try:
                state_text = found.to_text() if found is not None else None
            except errors.OutcomeNotStorable as error:
                found = error
            else:
                probing.state_text = state_text
                probing.due = time.monotonic() + probing.every_seconds
                probing.is_running = False
                self._storage.note_probe(r.DelayProbing(key=key, state_text=state_text))
                return False
        del self._known[key]
        self._deliver(
            [r.Delivery(key=key, outcome=self._encoded(found), delivery_id=str(uuid.uuid4()))]
        )
        return True

    def _encoded(self, found: object) -> outcome.Encoded:
        encode = self._storage.ledger.encode
        if not isinstance(found, Exception):
            try:
                return encode(outcome.Result(found))
            except (errors.OutcomeNotStorable, errors.OutcomeTooLarge) as error:
                found = error
        return encode(outcome.Failed.from_error(found))


def _run(task: host.Atom, arguments: dict[str, Any]) -> Any:
    try:
        return task.probe(**arguments)
    except Exception as error:
        # A task's own code may raise anything; its task fails with that.
        return error
