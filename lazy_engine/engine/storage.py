# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's storage, writing nothing until a turn of the machine is complete.

Every change lands in memory and in a buffer; the engine drains the buffer
into one fenced commit. What the machine reads back is what it wrote, whether
that is durable yet or not; what *tasks* see is durable before they start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taskflow import states
from taskflow.persistence import models

from lazy_engine import errors, host, ledger, rules, shape, token
from lazy_engine.delay import DELAYED, Delay
from lazy_engine.engine.argument import ArgumentStorage
from lazy_engine.engine.buffer import Buffer
from lazy_engine.engine.state_index import StateIndex
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import META_ATTEMPTS, stored_attempt


def is_cancelled(failure: host.Failure) -> bool:
    """Whether an atom's stored failure says that its wait was called off."""
    return bool(failure.check(errors.DelayCancelled))


def _ignore(*_: object) -> None:
    """Nobody has asked to be told."""


class LazyStorage(ArgumentStorage):
    """Storage of one engine; see :class:`taskflow.storage.Storage`.

    :ivar ledger: where delays, outcomes and leases are kept.
    :ivar states: the atoms by their states.
    :ivar on_structure: told that atoms were added, or all details replaced.
    :ivar on_state: told name, state and intention of an atom of which either changes.
    """

    def __init__(self, flow_detail: models.FlowDetail, backend: Any, scope_fetcher: Any) -> None:
        super().__init__(flow_detail, backend=backend, scope_fetcher=scope_fetcher)
        self.ledger = ledger.beside(self.backend)
        self.set_failures_aside(is_cancelled)
        self._injected: dict[str, Any] = {}
        # Otherwise the details are read anew before anything is written.
        self._is_as_read = self.known is not None
        self.on_structure: Callable[[], None] = _ignore
        self.on_state: Callable[[str, str, str], None] = _ignore
        self._new_probes: list[r.DelayOpening] = []
        self._buffer = Buffer(self.flow_detail)
        self._find_waits()
        self._buffer.begin(open_delays=len(self.delayed_tasks()))

    def _find_waits(self) -> None:
        self.states = StateIndex(self.flow_detail)
        # In a store, no task waits in execute() that is meant to be reverted.
        self._waits_in_revert = {
            name for name in self.delayed_tasks() if self.get_atom_intention(name) != states.EXECUTE
        }

    # -- what TaskFlow writes ---------------------------------------------

    def note_flow(self, before: models.FlowDetail, after: models.FlowDetail) -> None:
        self._buffer.note_flow(before, after)
        if len(before) == len(after):
            return  # atoms are only ever added
        for atom in after:
            if before.find(atom.uuid) is None:
                self._buffer.note_new(atom)
                self.states.put(atom.name, atom.state)
                self.on_structure()

    def ensure_atoms(self, atoms: Iterable[host.Atom]) -> list[str]:
        """Make sure that every atom has a detail, by this engine or by another with the same flow detail."""
        uuids = super().ensure_atoms(atoms)
        added = [detail for detail in self.flow_detail if not self.states.knows(detail.name)]
        for detail in added:
            self.states.put(detail.name, detail.state)
        if added:
            self._buffer.must_write = True
            self.on_structure()
        return uuids

    def note_atom(self, before: models.AtomDetail, after: models.AtomDetail) -> None:
        changed = {
            name
            for name in r.ATOM_COLUMNS
            if getattr(before, name) is not getattr(after, name)
            and (name != "meta" or before.meta != after.meta)
        }
        if changed:
            self.note_columns(after, changed)

    def note_columns(self, detail: models.AtomDetail, columns: set[str]) -> None:
        self._buffer.note_columns(detail, columns)
        if "state" in columns:
            self.states.put(detail.name, detail.state)
        if "state" in columns or "intention" in columns:
            self.on_state(detail.name, detail.state, detail.intention)

    def change_flow_state(self, state: str) -> tuple[bool, str]:
        """Move the flow to another state, as TaskFlow does, and to and from DELAYED."""
        with self.lock.write_lock():
            old_state = self.get_flow_state()
            if old_state == state or not rules.moves(old_state, state):
                return (False, old_state)
            self.set_flow_state(state)
            return (True, old_state)

    def inject(self, pairs: Mapping[str, Any], transient: bool = False) -> None:
        """Add values; persistent ones count only where the stored flow has none.

        :raises OutcomeNotStorable: the store could not keep one; nothing changed.
        """
        if not transient:
            for name, value in pairs.items():
                self._require_storable(f"the value injected as '{name}'", value)
            self._injected.update(pairs)
            if self._is_as_read:
                self.inject_again()
                return
        super().inject(pairs, transient=transient)

    def set_task_progress(self, task_name: str, progress: float, details: Any = None) -> None:
        """Note how far a task is.

        :raises OutcomeNotStorable: the store could not keep it; nothing changed.
        """
        if details is not None or not math.isfinite(progress):
            self._require_storable(f"the progress of task '{task_name}'", [progress, details])
        super().set_task_progress(task_name, progress, details)

    def _require_storable(self, what: str, value: object) -> None:
        # It is written with the rest of a turn, which would then never be written.
        try:
            self.ledger.encode_result(value)
        except errors.ResultNotStorable as error:
            raise errors.OutcomeNotStorable(
                f"{what} cannot be stored as JSON in flow {self.flow_uuid}: {error.__cause__}",
                flow_uuid=self.flow_uuid,
            ) from error

    def save(self, atom_name: str, result: Any, state: str = states.SUCCESS) -> None:
        """Put an atom's result; see :meth:`taskflow.storage.Storage.save`.

        :raises ResultNotStorable: the store could not keep it; nothing changed.
        """
        if state == states.SUCCESS:
            encoded = self.ledger.encode_result(result)
            detail = self.atom_detail(atom_name)
            if isinstance(detail, models.TaskDetail):
                # What a retry controller's detail keeps is a history of results.
                self._buffer.note_encoded(detail, encoded)
                self.save_result(atom_name, result)
                return
        super().save(atom_name, result, state=state)

    # -- shape ------------------------------------------------------------

    def stored_atoms(self) -> list[shape.StoredAtom]:
        """Return the atoms that the store has a detail of."""
        return [
            shape.stored_atom(detail) for detail in self._atoms() if not self._buffer.is_new(detail)
        ]

    def adopt_shape(self, found: shape.Shape, note: Mapping[str, Any]) -> None:
        """Store the code's shape with the next commit.

        Atom by atom, since one value for the whole of a large flow would be
        written with each of its commits. No task may begin before that: one
        that did, and was moved, could not be told from one moved since.

        :param note: what else to put into the flow's meta.
        """
        with self.lock.write_lock():
            for detail in self._atoms():
                wanted = shape.meta_of(detail.name, found)
                version = shape.version_of(detail, found)
                if (detail.meta.get(shape.META_SHAPE), detail.version) != (wanted, version):
                    detail.meta = {**detail.meta, shape.META_SHAPE: wanted}
                    detail.version = version
                    self._buffer.note_shape(detail)
            self.update_flow_metadata({shape.META_SHAPE: found.to_meta(), **note})
            self._buffer.must_write = True

    def _atoms(self) -> Iterable[models.AtomDetail]:
        return (detail for detail in self.flow_detail if detail.name != self.injector_name)

    # -- attempts and delays ----------------------------------------------

    def begin_attempt(self, task_name: str, kind: str) -> token.DelayKey:
        """Count a new attempt, unless a crash left one unfinished; return its name.

        The caller marks the task as begun next, in the same turn; so count
        and mark become durable together.
        """
        with self.lock.write_lock():
            detail = self.atom_detail(task_name)
            number = stored_attempt(detail.meta, kind)
            begun = states.RUNNING if kind == token.EXECUTE else states.REVERTING
            if detail.state != begun or number == 0:
                number += 1
                attempts = {**(detail.meta.get(META_ATTEMPTS) or {}), kind: number}
                self.update_atom_metadata(task_name, {META_ATTEMPTS: attempts})
                if number > 1:
                    self._close(detail.uuid, kind, number - 1, r.CLOSED_RETRIED)
            return token.DelayKey(
                flow_uuid=self.flow_uuid, atom_uuid=detail.uuid, kind=kind, attempt=number
            )

    def open_delay(self, task_name: str, delay: Delay, key: token.DelayKey) -> None:
        """Let a task wait for outside."""
        with self.lock.write_lock():
            self.set_atom_state(task_name, DELAYED)
            opening = r.DelayOpening(
                key=key,
                task_name=task_name,
                details_text=delay.details_text,
                terms=delay.terms,
                traceparent=delay.traceparent,
            )
            self._buffer.open(opening)
            if delay.terms.probe_seconds is not None:
                self._new_probes.append(opening)
            if key.kind == token.REVERT:
                self._waits_in_revert.add(task_name)
            else:
                self._waits_in_revert.discard(task_name)

    def take_new_probes(self) -> list[r.DelayOpening]:
        """Return, once, the delays opened since the last call that ask for probes."""
        found, self._new_probes = self._new_probes, []
        return found

    def note_probe(self, probing: r.DelayProbing) -> None:
        """Note that a probe found nothing."""
        self._buffer.probe(probing)

    def end_without_delay(self, key: token.DelayKey) -> None:
        """Note that an attempt which made a ``Delay`` ended without one."""
        self._close(key.atom_uuid, key.kind, key.attempt, r.CLOSED_NOT_DELAYED)

    def absorb(self, key: token.DelayKey, record: r.DelayRecord | None = None) -> None:
        """Note that a delay's outcome is handed to its task with the next commit.

        :param record: the delay, for whoever observes.
        """
        self._buffer.absorb(key, record)

    def has_absorbed(self, key: token.DelayKey) -> bool:
        """Whether a delay's outcome is handed to its task with the next commit."""
        return self._buffer.has_absorbed(key)

    @property
    def absorbed(self) -> list[r.DelayRecord]:
        """The delays whose outcomes are handed to their tasks with the next commit."""
        return self._buffer.absorbed

    def call_off(self, task_name: str) -> host.Failure:
        """End a task's wait for outside without an outcome; return what it ends with."""
        with self.lock.write_lock():
            detail = self.atom_detail(task_name)
            failure = host.Failure.from_exception(
                errors.DelayCancelled(
                    f"the wait of task '{task_name}' was called off",
                    flow_uuid=self.flow_uuid,
                    task_name=task_name,
                )
            )
            key = self.delay_key(task_name)
            is_revert = key.kind == token.REVERT
            self.put_failure_aside(
                task_name, states.REVERT_FAILURE if is_revert else states.FAILURE, failure
            )
            self._close(detail.uuid, key.kind, key.attempt, r.CLOSED_CANCELLED)
            return failure

    def _close(self, atom_uuid: str, kind: str, up_to_attempt: int, reason: str) -> None:
        self._buffer.close(
            r.DelayClosing(
                atom_uuid=atom_uuid, kind=kind, up_to_attempt=up_to_attempt, reason=reason
            )
        )

    def delay_key(self, task_name: str) -> token.DelayKey:
        """Return the name of the attempt that a waiting task is in."""
        detail = self.atom_detail(task_name)
        kind = token.REVERT if self.waits_in_revert(task_name) else token.EXECUTE
        return token.DelayKey(
            flow_uuid=self.flow_uuid,
            atom_uuid=detail.uuid,
            kind=kind,
            attempt=stored_attempt(detail.meta, kind),
        )

    def waits_in_revert(self, task_name: str) -> bool:
        """Whether a waiting task waits in ``revert``, and not in ``execute``."""
        return task_name in self._waits_in_revert

    def delayed_tasks(self) -> list[str]:
        """Return the names of the tasks that wait for outside."""
        return self.states.within((DELAYED,))

    # -- committing -------------------------------------------------------

    @property
    def must_write(self) -> bool:
        """Whether there is anything that must be durable before another task begins."""
        return self._buffer.must_write

    @property
    def should_write(self) -> bool:
        """Whether there is anything that is to be durable before the engine blocks."""
        return self._buffer.should_write

    def write_later(self, task_name: str, key: token.DelayKey) -> None:
        """Let a task begin before what was absorbed just now is durable.

        For a result from outside, before which nothing had to be written: it lies
        in the ledger, where nothing replaces it, so whoever runs the flow after a
        crash absorbs the same.
        """
        with self.lock.write_lock():
            self._buffer.write_later(self.atom_detail(task_name), key)

    def changes(self, ending_state: str | None = None) -> r.Changes:
        """Return all that is buffered; it stays buffered until :meth:`settle`.

        :param ending_state: the flow's state from now on, if the run ends.
        """
        with self.lock.read_lock():
            return self._buffer.changes(len(self.delayed_tasks()), ending_state)

    def begun_marks(self) -> r.Changes | None:
        """Take the marks and the progress of tasks at work out of the buffer, if there are any."""
        with self.lock.write_lock():
            return self._buffer.take_marks()

    def keep_marks(self, changes: r.Changes) -> None:
        """Buffer marks again whose writing failed."""
        with self.lock.write_lock():
            self._buffer.keep_marks(changes)

    @property
    def is_unstored(self) -> bool:
        """Whether the store has a detail of no atom: nobody has ever run the flow."""
        return self._buffer.is_all_new

    def settle(self) -> None:
        """Forget the buffer: all of it has been committed."""
        self._buffer.clear(open_delays=len(self.delayed_tasks()))

    def settle_first(self) -> None:
        """Forget the buffer: it was stored together with the taking of the lease, as of a flow that runs."""
        self._buffer.clear(open_delays=0, state_ahead=states.RUNNING)

    def start_over(self, fresh: models.FlowDetail) -> None:
        """Throw the buffer away and go by the details as stored."""
        self.replace_details(fresh, is_cancelled)
        self._find_waits()
        self.settle()
        self.on_structure()

    def inject_again(self) -> None:
        """Inject anew what was injected before, where the stored flow has no value."""
        stored: Mapping[str, Any] = {}
        if self.knows(self.injector_name):
            injected = self.atom_detail(self.injector_name)
            if not self._buffer.is_new(injected):
                stored = injected.results or {}
        missing = {name: value for name, value in self._injected.items() if name not in stored}
        if missing:
            super().inject(missing)
