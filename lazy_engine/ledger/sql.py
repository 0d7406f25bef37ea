# SPDX-License-Identifier: Apache-2.0
"""The ledger in a SQL database, beside TaskFlow's tables."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from taskflow.persistence import models

from lazy_engine import errors, host, outcome, rules
from lazy_engine.ledger import key as key_module
from lazy_engine.ledger import protocol
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import note_incident
from lazy_engine.ledger.keeper import Keeper
from lazy_engine.ledger.protocol import GUARANTEES, MAX_OUTCOME_BYTES
from lazy_engine.ledger.sql_census import SqlCensus
from lazy_engine.ledger.sql_connection import Transactor, open_engine
from lazy_engine.ledger.sql_delivery import SqlDelivery
from lazy_engine.ledger.sql_detail import DetailRows
from lazy_engine.ledger.sql_listing import SqlListing
from lazy_engine.ledger.sql_ownership import SqlOwnership
from lazy_engine.ledger.sql_schema import Tables, build
from lazy_engine.ledger.sql_taking import SqlTaking
from lazy_engine.ledger.sql_upgrade import prepare_host, require_current
from lazy_engine.observer import Several
from lazy_engine.token import Key

#: Outcomes of so many flows are recorded in one transaction.
_FLOWS_AT_ONCE: Final = 64


def open_ledger(shared: sa.Engine) -> SqlLedger:
    """Return the ledger of a database; make its tables if there are none.

    :param shared: the engine of TaskFlow's own backend.
    :raises StoreUnavailable: the tables are missing and cannot be made.
    """
    dialect = shared.dialect.name
    transactor = Transactor(open_engine(shared))
    tables = build(dialect)
    require_current(transactor, tables, functools.partial(prepare_host, tables=tables))
    details = DetailRows(tables, is_strict=dialect == "postgresql")
    owns_engine = dialect == "sqlite"
    _close_with(shared, weakref.WeakMethod(transactor.close), disposes=owns_engine)
    return SqlLedger(transactor, tables, details, store=dialect, owns_engine=owns_engine)


def _close_with(
    shared: sa.Engine, close: weakref.WeakMethod[Callable[..., None]], *, disposes: bool
) -> None:
    """Close what is kept out of an engine's pool when the engine lets go of its pool.

    As TaskFlow's backend does when it is closed: whoever closes it wants no connection to be left.
    """

    @sa.event.listens_for(shared, "engine_disposed")
    def _let_go(_engine: sa.Engine) -> None:
        found = close()
        if found is not None:
            found(disposes=disposes)


class SqlLedger(SqlTaking, SqlOwnership, SqlDelivery, SqlCensus, SqlListing):
    """A :class:`~lazy_engine.ledger.protocol.Ledger` over SQLAlchemy.

    :param store: what kind of store it is (a key of ``GUARANTEES``).
    :param owns_engine: whether nobody else uses the transactor's SQLAlchemy engine.
    """

    keeper: Keeper
    observer: Several

    def __init__(
        self,
        transactor: Transactor,
        tables: Tables,
        details: DetailRows,
        *,
        store: str,
        owns_engine: bool,
    ) -> None:
        super().__init__(transactor, tables, details)
        self.guarantees = GUARANTEES[store]
        self._owns_engine = owns_engine
        self.max_outcome_bytes = MAX_OUTCOME_BYTES
        self._keys = key_module.KeyRing(self._fetch_keys)

    # -- encoding ---------------------------------------------------------

    def encode(self, value: outcome.Result | outcome.Failed) -> outcome.Encoded:
        return outcome.encode_json(value, max_bytes=self.max_outcome_bytes)

    def decode(self, encoded: outcome.Encoded) -> Any:
        return self._details.loads(encoded.body)

    def encode_result(self, result: Any) -> str | None:
        try:
            return self._details.dumps(result)
        except (TypeError, ValueError, RecursionError) as error:
            raise errors.ResultNotStorable(
                f"the result, a {type(result).__name__}, cannot be stored as JSON: {error}"
            ) from error

    # -- keys and time ----------------------------------------------------

    def signing_key(self, key_id: str | None = None) -> Key:
        return self._keys.find(key_id)

    def _fetch_keys(self) -> dict[str, Key]:
        keys = self._tables.keys

        def work(connection: sa.Connection) -> dict[str, Key]:
            rows = connection.execute(
                sa.select(keys.c.key_id, keys.c.secret).order_by(
                    keys.c.created_at.desc(), keys.c.key_id
                )
            ).all()
            return {row[0]: key_module.decode(row[0], row[1]) for row in rows}

        found = self._transactor.read(work)
        if found:
            return found
        self._transactor.write(self._make_first_key)
        return self._transactor.read(work)

    def _make_first_key(self, connection: sa.Connection) -> None:
        # Several processes may come here at once. The row in lazy_facts lets
        # one of them through; the others then find the key it made.
        facts, keys = self._tables.facts, self._tables.keys
        connection.execute(
            sa.update(facts).where(facts.c.name == "schema_version").values(value=facts.c.value)
        )
        if connection.execute(sa.select(keys.c.key_id).limit(1)).first() is None:
            made = key_module.make()
            connection.execute(
                sa.insert(keys),
                {
                    "key_id": made.key_id,
                    "secret": key_module.encode_secret(made),
                    "created_at": int(time.time() * 1e6),
                },
            )

    def now(self) -> int:
        return int(
            self._transactor.read(lambda c: c.execute(sa.select(self._clock())).scalar_one())
        )

    def deliver_all(
        self, by_flow: Mapping[str, Sequence[r.Delivery]], *, rings: bool
    ) -> dict[str, r.DeliveredToFlow | errors.LazyEngineError | None]:
        answers: dict[str, r.DeliveredToFlow | errors.LazyEngineError | None] = {}
        # Always in the same order, so that two callers with the same flows do not wait for
        # each other; all else that writes has the row of one flow.
        flow_uuids = sorted(by_flow)
        for start in range(0, len(flow_uuids), _FLOWS_AT_ONCE):
            part = {uuid: by_flow[uuid] for uuid in flow_uuids[start : start + _FLOWS_AT_ONCE]}
            if len(part) > 1:
                try:
                    answers.update(self.deliver_together(part, rings=rings))
                    continue
                except errors.StoreUnavailable:
                    # Perhaps one of them cannot be stored. What was recorded in spite of it
                    # is known again by the name of its call.
                    pass
            answers.update(protocol.deliver_each(self, part, rings=rings))
        return answers

    # -- wishes, incidents and jobs ---------------------------------------

    def set_wish(self, flow_uuid: str, wish: str | None, reason: str | None) -> r.FlowRecord | None:
        flows = self._flows
        is_mine = sa.or_(flows.c.wish.is_(None), flows.c.wish != r.WISH_CANCEL)
        return self._set(flow_uuid, is_mine, wish=wish, wish_reason=reason)

    def note_incident(
        self, flow_uuid: str, kind: str, message: str, lease: r.Lease | None = None
    ) -> r.FlowRecord | None:
        def work(connection: sa.Connection) -> r.FlowRecord | None:
            record, now = self._lock(connection, flow_uuid)
            if record is None:
                return None
            after = note_incident(record, kind, message, now, lease)
            self._change(connection, record, after)
            return after

        return self._transactor.write(work)

    # -- submitting, reading, purging -------------------------------------

    def submit(self, submission: r.Submission) -> tuple[r.FlowRecord, bool]:
        def work(connection: sa.Connection) -> tuple[r.FlowRecord, bool]:
            detail, book = submission.detail, submission.book
            touched, time_told = self._touch(connection, detail.uuid), self._tell_time(connection)
            if touched.count:
                row = self._row(connection, detail.uuid)
                assert row is not None
                if row[0].flow_uuid != detail.uuid:  # MySQL compares without blanks at the end
                    raise errors.StoreUnavailable(
                        f"{detail.uuid!r} cannot be told from flow {row[0].flow_uuid!r} in this"
                        " database: nothing was written; use a flow_uuid without blanks"
                    )
                return row[0], False
            now = int(time_told.rows[0][0])
            record = rules.submitted(submission, now)
            self._insert_row(connection, record)
            self._details.insert(connection, detail, book)
            return record, True

        return self._transactor.write(work)

    def flow(self, flow_uuid: str) -> r.FlowRecord | None:
        row = self._transactor.read(lambda c: self._row(c, flow_uuid))
        return None if row is None else row[0]

    def detail(self, flow_uuid: str) -> models.FlowDetail | None:
        def work(connection: sa.Connection) -> models.FlowDetail | None:
            # In this order: should a commit come in between, the details are newer than
            # what they are said to be, and are read again by whoever takes the lease.
            asked = self._ask_row(connection, flow_uuid)
            detail = self._details.read(connection, flow_uuid)
            row = self._read_row(asked)
            if row is not None and detail is not None:
                host.note_known(detail, row[0].version)
            return detail

        return self._transactor.read(work)

    def delays_of(self, flow_uuid: str) -> Sequence[r.DelayRecord]:
        return self._transactor.read(lambda c: self._delays.of_flow(c, flow_uuid))

    def waiting(self, page: r.Page) -> Sequence[r.DelayRecord]:
        return self._transactor.read(lambda c: self._delays.waiting(c, page))

    def purge(self, ended_before: int, progress: Callable[[int], object] | None = None) -> int:
        c = self._flows.c
        wanted = (
            sa.select(c.flow_uuid)
            # One with an owner is left, and would be found again and again.
            .where(c.ended_at < ended_before, c.owner.is_(None))
            .order_by(c.ended_at)
            .limit(protocol.PURGE_PAGE)
        )
        count = 0
        while uuids := self._transactor.read(lambda c: c.execute(wanted).scalars().all()):
            for flow_uuid in uuids:
                count += self._transactor.write(
                    functools.partial(
                        self._purge_one, flow_uuid=flow_uuid, ended_before=ended_before
                    )
                )
            if progress is not None:
                progress(count)
        return count

    def _purge_one(self, connection: sa.Connection, flow_uuid: str, ended_before: int) -> int:
        flows = self._flows
        gone = connection.execute(
            sa.delete(flows).where(
                flows.c.flow_uuid == flow_uuid,
                flows.c.ended_at < ended_before,
                flows.c.owner.is_(None),
            )
        ).rowcount
        if gone:
            self._delays.delete(connection, flow_uuid)
            self._details.delete(connection, flow_uuid)
        return gone

    def close(self) -> None:
        self.keeper.close()
        self._transactor.close(disposes=self._owns_engine)
