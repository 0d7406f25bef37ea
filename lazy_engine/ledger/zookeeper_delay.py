# SPDX-License-Identifier: Apache-2.0
"""The znodes of delays, and the two indexes that hang on them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from lazy_engine.ledger import record as r
from lazy_engine.ledger import zookeeper_index as index
from lazy_engine.ledger import zookeeper_node as node
from lazy_engine.ledger.zookeeper_connection import Connection, Delete, Operation, Put
from lazy_engine.outcome import Encoded
from lazy_engine.token import DelayKey

_OUTCOME: Final = "outcome"
_LATE: Final = "late"


class DelayNodes:
    """Reads delays, and says what is to be written of them."""

    def __init__(self, connection: Connection, paths: node.Paths) -> None:
        self._connection = connection
        self._paths = paths

    # -- reading ----------------------------------------------------------

    def find(self, keys: Iterable[DelayKey]) -> dict[DelayKey, r.DelayRecord]:
        """Return the records that exist; their outcomes have no bodies."""
        wanted = list(dict.fromkeys(keys))
        found = self._connection.get_many([self._paths.delay(key) for key in wanted])
        return {
            key: node.decode_delay(key, one[0])
            for key, one in zip(wanted, found, strict=True)
            if one is not None
        }

    def keys_of(self, flow_uuid: str) -> list[DelayKey]:
        """Return the keys of all of a flow's delays."""
        names = self._connection.children(self._paths.delays(flow_uuid))
        return [node.read_delay_name(flow_uuid, name) for name in names]

    def arrived_keys(self, flow_uuid: str) -> list[DelayKey]:
        """Return the keys of outcomes that are neither absorbed nor closed."""
        names = self._connection.children(self._paths.arrived(flow_uuid))
        return [node.read_arrival_name(flow_uuid, name) for name in names]

    def first_arrived(self, flow_uuids: Sequence[str]) -> list[DelayKey]:
        """Return of each flow the key of the first outcome that :meth:`arrived_keys` has, if any."""
        listed = self._connection.children_of([self._paths.arrived(uuid) for uuid in flow_uuids])
        return [
            node.read_arrival_name(flow_uuid, names[0])
            for flow_uuid, names in zip(flow_uuids, listed, strict=True)
            if names
        ]

    def with_bodies(self, records: Sequence[r.DelayRecord]) -> list[r.DelayRecord]:
        """Return records with the bodies of their outcomes."""
        paths = {
            (record.key, name): f"{self._paths.delay(record.key)}/{name}"
            for record in records
            for name, encoded in ((_OUTCOME, record.outcome), (_LATE, record.late))
            if encoded is not None
        }
        found = self._connection.get_many(list(paths.values()))
        bodies = {
            place: one[0].decode()
            for place, one in zip(paths, found, strict=True)
            if one is not None
        }
        return [
            dataclasses.replace(
                record,
                outcome=_with_body(record.outcome, bodies.get((record.key, _OUTCOME))),
                late=_with_body(record.late, bodies.get((record.key, _LATE))),
            )
            for record in records
        ]

    def of_flow(self, flow_uuid: str) -> list[r.DelayRecord]:
        """Return all of a flow's delays with all they hold, oldest first."""
        found = self.find(self.keys_of(flow_uuid))
        return sorted(self.with_bodies(list(found.values())), key=r.place_of)

    def all_of(self, flow_uuid: str) -> dict[DelayKey, r.DelayRecord]:
        """Return all of a flow's delays; their outcomes have no bodies."""
        return self.find(self.keys_of(flow_uuid))

    def waiting(self, page: r.Page, now: int) -> list[r.DelayRecord]:
        """Return a page of open delays, in the order that is asked for."""
        found: list[r.DelayRecord] = []
        for keys in self._waiting_keys(page, now):
            records = self.find(keys)
            found.extend(
                records[key]
                for key in keys
                if key in records
                and records[key].is_open
                and page.task_name in (None, records[key].task_name)
                and (page.due_before is None or _is_due_before(records[key], page.due_before))
                and (page.order == r.BY_AGE or records[key].due_at is not None)
                and (page.after is None or r.place_of(records[key], page.order) > page.after)
            )
            if len(found) >= page.limit:
                break
        return found[: page.limit]

    def _waiting_keys(self, page: r.Page, now: int) -> Iterator[list[DelayKey]]:
        """Yield keys of delays that may be open, in the order of their places."""
        if page.flow_uuid is not None:
            records = self.find(self.keys_of(page.flow_uuid)).values()
            place_of = functools.partial(r.place_of, order=page.order)
            yield [record.key for record in sorted(records, key=place_of)]
            return
        from_at = 0 if page.after is None else page.after[0]
        path = self._paths.waiting_path if page.order == r.BY_AGE else self._paths.due_path
        listed = index.entries(self._connection, path, now=now, from_at=from_at)
        places = (
            place
            for bucket in listed
            # The index of what is due notes flows as well, by their bare names.
            for place in sorted(_read_waiting(*one) for one in bucket if "." in one[1])
        )
        later = (place for place in places if page.after is None or place > page.after)
        is_filtered = page.task_name is not None or page.due_before is not None
        size = max(page.limit, 100) if is_filtered else page.limit
        while batch := list(itertools.islice(later, size)):
            yield [
                DelayKey(flow_uuid=place[1], atom_uuid=place[2], kind=place[3], attempt=place[4])
                for place in batch
            ]

    # -- what is to be written --------------------------------------------

    def change(
        self,
        before: Mapping[DelayKey, r.DelayRecord],
        after: Mapping[DelayKey, r.DelayRecord],
    ) -> list[Operation]:
        """Store what has become of delays.

        :param before: as stored; those that are not in it are new.
        """
        operations: list[Operation] = []
        for key, record in after.items():
            if record != before.get(key):
                operations.extend(self._change_one(before.get(key), record))
        return operations

    def _change_one(
        self, before: r.DelayRecord | None, after: r.DelayRecord
    ) -> Iterator[Operation]:
        path = self._paths.delay(after.key)
        yield Put(path, node.encode_delay(after), is_new=before is None)
        for name, old, new in (
            (_OUTCOME, before and before.outcome, after.outcome),
            (_LATE, before and before.late, after.late),
        ):
            if new is not None and old is None:
                yield Put(f"{path}/{name}", str(new.body).encode(), is_new=True)
        for entry_of, is_in_bucket in (
            (self._waiting_entry, True),
            (self._due_entry, True),
            (self._arrived_entry, False),
        ):
            old_entry = None if before is None else entry_of(before)
            new_entry = entry_of(after)
            if old_entry is not None and old_entry != new_entry:
                yield Delete(old_entry)
            if new_entry is not None and old_entry != new_entry:
                yield Put(new_entry, b"", is_new=True, makes_parent=is_in_bucket)

    def _waiting_entry(self, record: r.DelayRecord) -> str | None:
        if not record.is_open or record.opened_at is None:
            return None
        name = f"{node.quote(record.key.flow_uuid)}.{node.delay_name(record.key)}"
        return index.entry_path(self._paths.waiting_path, record.opened_at, name)

    def _due_entry(self, record: r.DelayRecord) -> str | None:
        if not record.is_open or record.due_at is None:
            return None
        name = f"{node.quote(record.key.flow_uuid)}.{node.delay_name(record.key)}"
        return index.entry_path(self._paths.due_path, record.due_at, name)

    def _arrived_entry(self, record: r.DelayRecord) -> str | None:
        if not record.is_unabsorbed:
            return None
        name = node.arrival_name(record.arrival_number or 0, record.key)
        return f"{self._paths.arrived(record.key.flow_uuid)}/{name}"

    def delete(self, flow_uuid: str) -> list[Operation]:
        """Delete every delay of a flow, and what notes them."""
        keys = self.keys_of(flow_uuid)
        paths = [self._paths.delay(key) for key in keys]
        operations: list[Operation] = []
        for path, names in zip(paths, self._connection.children_of(paths), strict=True):
            operations.extend(Delete(f"{path}/{name}") for name in names)
            operations.append(Delete(path))
        for record in self.find(keys).values():
            for entry in (self._waiting_entry(record), self._due_entry(record)):
                if entry is not None:
                    operations.append(Delete(entry))
        arrived_path = self._paths.arrived(flow_uuid)
        names = self._connection.children(arrived_path)
        operations.extend(Delete(f"{arrived_path}/{name}") for name in names)
        operations += [Delete(arrived_path), Delete(self._paths.delays(flow_uuid))]
        return operations


def _with_body(encoded: Encoded | None, body: str | None) -> Encoded | None:
    return None if encoded is None else dataclasses.replace(encoded, body=body)


def _is_due_before(record: r.DelayRecord, instant: int) -> bool:
    timeout_at = record.timers.timeout_at
    return timeout_at is not None and timeout_at < instant


def waiting_key(name: str) -> DelayKey:
    """Return the key of the delay that an entry among those that wait stands for."""
    flow_uuid, _, rest = name.partition(".")
    return node.read_delay_name(node.unquote(flow_uuid), rest)


def _read_waiting(at: int, name: str) -> tuple[int, str, str, str, int]:
    key = waiting_key(name)
    return (at, key.flow_uuid, key.atom_uuid, key.kind, key.attempt)
