# SPDX-License-Identifier: Apache-2.0
"""What a turn of the machine has changed in memory, until it is committed as one."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Final

from taskflow import states
from taskflow.persistence import models

from lazy_engine import host, token
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r

#: Columns that a mark touches.
_MARKS: Final = frozenset(("state", "meta"))


def _is_mark(columns: set[str], state: str) -> bool:
    """Whether a change says no more than that a task has begun, or how far it is.

    Such a change need not be durable before the engine blocks.
    """
    return columns == {"meta"} or (
        columns <= _MARKS and state in (states.RUNNING, states.REVERTING)
    )


class Buffer:
    """Gathers the changes of one flow.

    Not safe by itself: its storage's lock is held around whatever another thread could meet.

    :param flow_detail: the flow detail in memory, in which all of them have been made.
    :ivar must_write: whether there is anything that must be durable before another task begins.
    """

    def __init__(self, flow_detail: models.FlowDetail) -> None:
        self._flow_detail = flow_detail
        self._new = host.unstored_in(flow_detail)  # in order of appearance
        self.begin(open_delays=0)

    def clear(self, *, open_delays: int, state_ahead: str | None = None) -> None:
        """Forget everything: it has been committed, or is not to be; see :meth:`begin`."""
        self._new.clear()
        self.begin(open_delays=open_delays, state_ahead=state_ahead)

    def begin(self, *, open_delays: int, state_ahead: str | None = None) -> None:
        """Begin with nothing but the atoms that another engine with the same flow detail has added.

        :param open_delays: how many are open in the store.
        :param state_ahead: the flow's state in the store, if it is there before it is here.
        """
        self._stored_open = open_delays
        self._state_ahead = state_ahead
        self._flow_is_dirty = False
        self._dirty: dict[str, set[str]] = collections.defaultdict(set)
        self._encoded: dict[str, str | None] = {}
        self._opened: dict[token.DelayKey, r.DelayOpening] = {}
        self._absorbed: dict[token.DelayKey, r.DelayRecord | None] = {}
        self._closed: dict[tuple[str, str], r.DelayClosing] = {}
        self._probed: dict[token.DelayKey, r.DelayProbing] = {}
        self._later: dict[token.DelayKey, r.AtomChange] = {}
        self.must_write = bool(self._new)

    # -- what has changed -------------------------------------------------

    def note_flow(self, before: models.FlowDetail, after: models.FlowDetail) -> None:
        """Note that the flow itself may have changed."""
        is_news = before.state != after.state and after.state != self._state_ahead
        self._flow_is_dirty |= is_news or before.meta != after.meta

    def note_new(self, detail: models.AtomDetail) -> None:
        """Note an atom that the store has no detail of."""
        self._new[detail.uuid] = None
        self.must_write = True

    def is_new(self, detail: models.AtomDetail) -> bool:
        """Whether the store has no detail of an atom."""
        return detail.uuid in self._new

    @property
    def is_all_new(self) -> bool:
        """Whether the store has a detail of no atom."""
        return len(self._new) == len(self._flow_detail)

    def note_columns(self, detail: models.AtomDetail, columns: set[str]) -> None:
        """Note that columns of an atom have changed."""
        self._dirty[detail.uuid] |= columns
        self.must_write |= not _is_mark(columns, detail.state)

    def note_shape(self, detail: models.AtomDetail) -> None:
        """Note that an atom's place in the flow has changed."""
        if detail.uuid not in self._new:
            self._dirty[detail.uuid] |= {"meta", "version"}
        self.must_write = True

    def note_encoded(self, detail: models.AtomDetail, results: str | None) -> None:
        """Keep what an atom's results have been encoded as."""
        self._encoded[detail.uuid] = results

    def open(self, opening: r.DelayOpening) -> None:
        """Open a delay."""
        self._opened[opening.key] = opening
        self.must_write = True

    def probe(self, probing: r.DelayProbing) -> None:
        """Note that a probe found nothing."""
        self._probed[probing.key] = probing
        self.must_write = True

    def close(self, closing: r.DelayClosing) -> None:
        """Close delays of an atom."""
        self._closed[closing.atom_uuid, closing.kind] = closing
        self.must_write = True

    def absorb(self, key: token.DelayKey, record: r.DelayRecord | None) -> None:
        """Hand a delay's outcome to its task; it is not closed then, if it was to be.

        :param record: the delay, for whoever observes.
        """
        taken_back = self._closed.pop((key.atom_uuid, key.kind), None)
        if taken_back is not None and key.attempt > 1:
            # It is the end of this wait that is, not that of earlier attempts.
            self.close(
                r.DelayClosing(
                    atom_uuid=key.atom_uuid,
                    kind=key.kind,
                    up_to_attempt=key.attempt - 1,
                    reason=r.CLOSED_RETRIED,
                )
            )
        self._absorbed[key] = record
        self.must_write = True

    def has_absorbed(self, key: token.DelayKey) -> bool:
        """Whether a delay's outcome is handed to its task with the next commit."""
        return key in self._absorbed

    @property
    def absorbed(self) -> list[r.DelayRecord]:
        """The delays whose outcomes are handed to their tasks with the next commit."""
        return [record for record in self._absorbed.values() if record is not None]

    @property
    def should_write(self) -> bool:
        """Whether there is anything that is to be durable before the engine blocks."""
        return self.must_write or bool(self._absorbed)

    # -- what to commit ---------------------------------------------------

    def changes(self, open_delays: int, ending_state: str | None) -> r.Changes:
        """Return everything; it stays here until it is cleared.

        :param open_delays: how many there are from now on.
        :param ending_state: the flow's state from now on, if the run ends.
        """
        known = self._flow_detail
        flow = models.FlowDetail(known.name, known.uuid)
        flow.meta = dict(known.meta or {})
        flow.state = DELAYED if open_delays else (ending_state or known.state)
        return r.Changes(
            flow=flow,
            flow_is_dirty=self._flow_is_dirty or bool(self._opened) or ending_state is not None,
            open_delays=open_delays,
            atoms=[*self._created(), *self._changed(self._dirty)],
            opened=list(self._opened.values()),
            absorbed=list(self._absorbed),
            closed=list(self._closed.values()),
            probed=list(self._probed.values()),
        )

    def write_later(self, detail: models.AtomDetail, key: token.DelayKey) -> None:
        """Let a task begin before an outcome that was absorbed just now is durable.

        It is kept as it is now, for the keeper to write.
        """
        self._later[key] = r.AtomChange(
            detail=detail.copy(),
            columns=frozenset(self._dirty[detail.uuid]),
            encoded_results=self._encoded.get(detail.uuid),
        )
        self.must_write = False

    def take_marks(self) -> r.Changes | None:
        """Take marks and progress of tasks at work out of it, if there are any.

        A task at work has seen nothing but what is durable and what was absorbed
        since; so with the latter its own marks may be written ahead of the rest.
        """
        if self._new:
            return None
        marks = {
            uuid: columns
            for uuid, columns in self._dirty.items()
            if self._detail(uuid).state in (states.RUNNING, states.REVERTING) and columns <= _MARKS
        }
        if not marks and not self._later:
            return None
        later, self._later = self._later, {}
        self._stored_open -= len(later)
        begun = [
            r.AtomChange(detail=change.detail.copy(), columns=change.columns)
            for change in self._changed(marks)
        ]
        for uuid in marks:
            del self._dirty[uuid]
        return r.Changes(
            flow=self._flow_detail.copy(retain_contents=False),
            open_delays=self._stored_open,
            atoms=[*later.values(), *begun],
            absorbed=list(later),
        )

    def keep_marks(self, changes: r.Changes) -> None:
        """Put marks back whose writing failed."""
        absorbed = {key.atom_uuid: key for key in changes.absorbed}
        self._stored_open += len(absorbed)
        for change in changes.atoms:
            if key := absorbed.get(change.detail.uuid):
                self._later[key] = change
            else:
                self._dirty[change.detail.uuid] |= change.columns

    def _detail(self, uuid: str) -> models.AtomDetail:
        return self._flow_detail.find(uuid)

    def _created(self) -> Iterable[r.AtomChange]:
        for uuid in self._new:
            yield r.AtomChange(detail=self._detail(uuid), columns=frozenset(), is_new=True)

    def _changed(self, dirty: Mapping[str, set[str]]) -> Iterable[r.AtomChange]:
        for uuid, columns in dirty.items():
            if uuid not in self._new:
                yield r.AtomChange(
                    detail=self._detail(uuid),
                    columns=frozenset(columns),
                    encoded_results=self._encoded.get(uuid),
                )
