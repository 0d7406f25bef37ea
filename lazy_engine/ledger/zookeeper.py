# SPDX-License-Identifier: Apache-2.0
"""The ledger in ZooKeeper, beside TaskFlow's znodes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions
from taskflow.persistence import models

from lazy_engine import errors, host, outcome, rules
from lazy_engine.ledger import key as key_module
from lazy_engine.ledger import protocol
from lazy_engine.ledger import record as r
from lazy_engine.ledger import zookeeper_index as index
from lazy_engine.ledger import zookeeper_node as node
from lazy_engine.ledger.desk import note_incident
from lazy_engine.ledger.keeper import Keeper
from lazy_engine.ledger.protocol import GUARANTEES
from lazy_engine.ledger.zookeeper_book import new_commit_id
from lazy_engine.ledger.zookeeper_connection import Guard, Put
from lazy_engine.ledger.zookeeper_delivery import ZooKeeperDelivery
from lazy_engine.ledger.zookeeper_detail import dumps
from lazy_engine.ledger.zookeeper_listing import ZooKeeperListing
from lazy_engine.ledger.zookeeper_ownership import ZooKeeperOwnership
from lazy_engine.observer import Several
from lazy_engine.token import Key

#: Largest outcome and largest result: an atom's znode holds more than its
#: result, and all of it has to fit into one packet.
MAX_OUTCOME_BYTES: Final = 256 * 1024
MAX_RESULT_BYTES: Final = 512 * 1024

#: How often the details of a flow are read again because it was committed to
#: meanwhile. What is read last may then be of two commits.
_READ_TRIES: Final = 5


class ZooKeeperLedger(ZooKeeperOwnership, ZooKeeperDelivery, ZooKeeperListing):
    """A :class:`~lazy_engine.ledger.protocol.Ledger` over kazoo.

    :param client: the kazoo client of TaskFlow's backend, started.
    :param root_path: the path of TaskFlow's backend.
    :raises StoreUnavailable: TaskFlow's znodes are missing, or the ledger's
        are of another version.
    """

    keeper: Keeper
    observer: Several

    def __init__(self, client: Any, root_path: str) -> None:
        super().__init__(client, root_path)
        self.guarantees = GUARANTEES["zookeeper"]
        self.max_outcome_bytes = MAX_OUTCOME_BYTES
        self._keys = key_module.KeyRing(self._fetch_keys)
        self._connection.repeat(self._require_current)

    def _require_current(self) -> None:
        """Make the ledger's own znodes if there are none; check them otherwise."""
        paths = self._paths
        found = self._connection.get(paths.ledger_path)
        if found is None:
            self._connection.catch_up()
            found = self._connection.get(paths.ledger_path)
        if found is None:
            if not self._connection.exist([paths.flow_details_path])[0]:
                raise errors.StoreUnavailable(
                    f"there are no TaskFlow znodes ({paths.flow_details_path}) yet: run"
                    " 'lazy-engine init', or call upgrade() on a connection of the"
                    " persistence backend"
                )
            below = [
                paths.flows_path,
                paths.waiting_path,
                paths.ended_path,
                paths.due_path,
                paths.redo_path,
                paths.keys_path,
            ]
            # One transaction, so that there is all of it or nothing.
            self._connection.write(
                [Guard(paths.ledger_path, -1, node.dumps({"layout": node.LAYOUT}))],
                [Put(path, b"", is_new=True) for path in below],
            )
            return
        layout = json.loads(found[0])["layout"]
        if layout != node.LAYOUT:
            raise errors.StoreUnavailable(
                f"the store's znodes at {paths.ledger_path} have version {layout} and this"
                f" lazy_engine knows {node.LAYOUT}: use a lazy_engine that fits the store"
            )

    # -- encoding ---------------------------------------------------------

    def encode(self, value: outcome.Result | outcome.Failed) -> outcome.Encoded:
        return outcome.encode_json(value, max_bytes=self.max_outcome_bytes)

    def decode(self, encoded: outcome.Encoded) -> Any:
        return json.loads(encoded.body)

    def encode_result(self, result: Any) -> str | None:
        try:
            text = dumps(result)
        except (TypeError, ValueError, RecursionError) as error:
            raise errors.ResultNotStorable(
                f"the result, a {type(result).__name__}, cannot be stored as JSON: {error}"
            ) from error
        if len(text) > MAX_RESULT_BYTES:
            raise errors.ResultNotStorable(
                f"the result has {len(text)} bytes as JSON and ZooKeeper takes"
                f" {MAX_RESULT_BYTES}; keep large data elsewhere and return a reference to it"
            )
        return text

    # -- keys -------------------------------------------------------------

    def signing_key(self, key_id: str | None = None) -> Key:
        return self._keys.find(key_id)

    def _fetch_keys(self) -> dict[str, Key]:
        found = self._read(self._read_keys)
        if found:
            return found
        self._connection.repeat(self._make_first_key)
        return self._read(self._read_keys)

    def _read_keys(self) -> dict[str, Key]:
        path = self._paths.keys_path
        names = self._connection.children(path)
        found = self._connection.get_many([f"{path}/{name}" for name in names])
        bodies = {
            name: json.loads(one[0])
            for name, one in zip(names, found, strict=True)
            if one is not None
        }
        newest_first = sorted(bodies, key=lambda name: (-bodies[name]["created_at"], name))
        return {name: key_module.decode(name, bodies[name]["secret"]) for name in newest_first}

    def _make_first_key(self) -> None:
        # Several processes may come here at once. The version of the znode
        # above lets one of them through; the others then find the key it made.
        path = self._paths.keys_path
        found = self._connection.get(path)
        if self._connection.children(path):
            return
        made = key_module.make()
        body = {"secret": key_module.encode_secret(made), "created_at": self.now()}
        self._connection.write(
            [Guard(path, 0 if found is None else found[1], b"")],
            [Put(f"{path}/{made.key_id}", node.dumps(body), is_new=True)],
        )

    def deliver_all(
        self, by_flow: Mapping[str, Sequence[r.Delivery]], *, rings: bool
    ) -> dict[str, r.DeliveredToFlow | errors.LazyEngineError | None]:
        return protocol.deliver_each(self, by_flow, rings=rings)

    # -- wishes, incidents and jobs ---------------------------------------

    def unring(self, flow_uuid: str) -> None:
        self._edit(flow_uuid, lambda record: rules.unring(record, self.now()))

    def set_wish(self, flow_uuid: str, wish: str | None, reason: str | None) -> r.FlowRecord | None:
        def edit(record: r.FlowRecord) -> r.FlowRecord:
            if rules.is_cancelled(record):
                return record
            return dataclasses.replace(record, wish=wish, wish_reason=reason)

        return self._edit(flow_uuid, edit)

    def note_incident(
        self, flow_uuid: str, kind: str, message: str, lease: r.Lease | None = None
    ) -> r.FlowRecord | None:
        return self._edit(
            flow_uuid, lambda record: note_incident(record, kind, message, self.now(), lease)
        )

    # -- submitting and reading -------------------------------------------

    def submit(self, submission: r.Submission) -> tuple[r.FlowRecord, bool]:
        detail, book = submission.detail, submission.book
        commit_id = new_commit_id()

        def work() -> tuple[r.FlowRecord, bool]:
            existing = self._load(detail.uuid)
            if existing is not None:
                # Our own, if the answer to the try before this one was lost.
                return self._seen(existing), existing.commit_id == commit_id
            record = rules.submitted(submission, self.now())
            self._new_flow(record, self._details.insert(detail, book), commit_id=commit_id)
            return record, True

        return self._connection.repeat(work)

    def flow(self, flow_uuid: str) -> r.FlowRecord | None:
        flow = self._read(lambda: self._load(flow_uuid))
        return None if flow is None else self._seen(flow)

    def detail(self, flow_uuid: str) -> models.FlowDetail | None:
        def work() -> models.FlowDetail | None:
            for _ in range(_READ_TRIES):
                before = self._load(flow_uuid)
                found = self._details.read(flow_uuid)
                after = self._load(flow_uuid)
                if _commit_of(before) == _commit_of(after):
                    break
            return found

        return self._read(work)

    def delays_of(self, flow_uuid: str) -> Sequence[r.DelayRecord]:
        def work() -> Sequence[r.DelayRecord]:
            self._load(flow_uuid)
            return self._delays.of_flow(flow_uuid)

        return self._read(work)

    def waiting(self, page: r.Page) -> Sequence[r.DelayRecord]:
        def work() -> Sequence[r.DelayRecord]:
            for flow_uuid in self._redo.pending():
                self._load(flow_uuid)
            return self._delays.waiting(page, self.now())

        return self._read(work)

    # -- purging ----------------------------------------------------------

    def purge(self, ended_before: int, progress: Callable[[int], object] | None = None) -> int:
        from_at = 0

        def ended() -> list[tuple[int, str]]:
            listed = index.entries(
                self._connection,
                self._paths.ended_path,
                now=self.now(),
                from_at=from_at,
                before_at=ended_before,
            )
            page: list[tuple[int, str]] = []
            for bucket in listed:  # whole ones: what is listed together may have one instant
                page += bucket
                if len(page) >= protocol.PURGE_PAGE:
                    break
            return page

        count = 0
        while page := self._read(ended):
            for number, (_, name) in enumerate(page, start=1):
                count += self._purge_one(node.unquote(name), ended_before)
                is_told = number % protocol.PURGE_PAGE == 0 or number == len(page)
                if progress is not None and is_told:
                    progress(count)
            from_at = page[-1][0] + 1
        return count

    def _purge_one(self, flow_uuid: str, ended_before: int) -> int:
        was_begun = False

        def work() -> int:
            nonlocal was_begun
            before = self._load(flow_uuid)
            if before is None:
                return int(was_begun)
            record = before.record
            if record.ended_at is None or record.ended_at >= ended_before or record.owner:
                return 0
            self._redo.drop_strays(flow_uuid)
            was_begun = True
            self._delete(before)
            return 1

        return self._connection.repeat(work)

    def _delete(self, flow: node.FlowNode) -> None:
        """Delete a flow with all that is its own, in one transaction."""
        flow_uuid = flow.record.flow_uuid
        nowhere = dataclasses.replace(flow.record, ended_at=None, check_at=None)
        operations = [
            *self._delays.delete(flow_uuid),
            *self._details.delete(flow_uuid, flow.record.book_uuid),
            *self._entries(flow.record, nowhere),
        ]
        self._write(flow, dataclasses.replace(flow, is_gone=True), operations)

    def close(self) -> None:
        # The client is TaskFlow's.
        self.keeper.close()


def open_ledger(backend: Any) -> ZooKeeperLedger:
    """Return the ledger of TaskFlow's ZooKeeper backend.

    :raises StoreUnavailable: no server answers, or not with TaskFlow's znodes.
    """
    try:
        client = host.zookeeper_client(backend)
    except taskflow_exceptions.StorageFailure as error:
        raise errors.StoreUnavailable(f"cannot connect to ZooKeeper: {error}") from error
    return ZooKeeperLedger(client, backend.path)


def _commit_of(flow: node.FlowNode | None) -> tuple[int, int] | None:
    return None if flow is None else (flow.record.epoch, flow.record.commit_number)
