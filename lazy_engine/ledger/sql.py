# SPDX-License-Identifier: Apache-2.0
"""The ledger in a SQL database, beside TaskFlow's tables.

Order within every transaction: the flow's row in ``lazy_flows`` (always
written first), then its delays, then its atoms. One transaction touches one
flow. So transactions of one flow are serial on every database, and none can
deadlock with another.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from taskflow.persistence import models

from lazy_engine import errors, outcome, rules
from lazy_engine.ledger import key as key_module
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.desk import Desk, next_incident
from lazy_engine.ledger.keeper import Keeper
from lazy_engine.ledger.protocol import MAX_OUTCOME_BYTES, Guarantees, TakeRequest, fenced
from lazy_engine.ledger.sql_connection import Transactor, open_engine
from lazy_engine.ledger.sql_delay import DelayRows
from lazy_engine.ledger.sql_detail import DetailRows
from lazy_engine.ledger.sql_schema import build
from lazy_engine.ledger.sql_upgrade import require_current
from lazy_engine.token import Key


class MustAbsorbFirst(Exception):
    """Leaves a commit that would cancel delays which have been answered."""

    def __init__(self, records: Sequence[r.DelayRecord]) -> None:
        super().__init__()
        self.records = records


class SqlLedger:
    """A :class:`~lazy_engine.ledger.protocol.Ledger` over SQLAlchemy.

    :param shared: the engine of TaskFlow's own backend.
    :raises StoreUnavailable: the tables are missing and cannot be made.
    """

    keeper: Keeper

    def __init__(self, shared: sa.Engine) -> None:
        dialect = shared.dialect.name
        self.guarantees = Guarantees(
            store=dialect, needs_json=True, is_durable=True, is_shared=True
        )
        self.max_outcome_bytes = MAX_OUTCOME_BYTES
        self._transactor = Transactor(open_engine(shared.url, shared))
        self._tables = build(dialect)
        self._flows = self._tables.flows
        self._details = DetailRows(self._tables, is_strict=dialect == "postgresql")
        self._delays = DelayRows(self._tables.delays, dialect)
        self._clock = sql_row.clock(dialect)
        self._keys = key_module.KeyRing(self._fetch_keys)
        require_current(self._transactor, self._tables)

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

    # -- owning -----------------------------------------------------------

    def take(self, request: TakeRequest) -> r.Taken | r.Refused:
        seen_epoch: int | None = None
        while True:
            answer = self._transactor.write(
                functools.partial(self._take, request=request, dead_epoch=seen_epoch)
            )
            if (
                isinstance(answer, r.Refused)
                and answer.reason == "busy"
                and seen_epoch is None
                and answer.record.owner is not None
                and request.is_dead(answer.record.owner)
            ):
                seen_epoch = answer.record.epoch
                continue
            return answer

    def _take(
        self, connection: sa.Connection, request: TakeRequest, dead_epoch: int | None
    ) -> r.Taken | r.Refused:
        flows = self._flows
        now = self._clock()
        is_free = sa.or_(
            flows.c.owner.is_(None),
            flows.c.owner == request.owner,
            flows.c.lease_expires_at <= now,
        )
        if dead_epoch is not None:
            is_free = sa.or_(is_free, flows.c.epoch == dead_epoch)
        wanted = sa.and_(flows.c.flow_uuid == request.flow_uuid, is_free)
        if not request.may_rerun:
            wanted = sa.and_(wanted, flows.c.state.not_in(sorted(rules.FINAL_STATES)))
        if not request.resumes:
            wanted = sa.and_(wanted, flows.c.wish.is_(None))
        taken = connection.execute(
            sa.update(flows)
            .where(wanted)
            .values(
                epoch=flows.c.epoch + 1,
                owner=request.owner,
                lease_expires_at=now + sql_row.micros(request.seconds),
                rung_at=None,
                wish=None,
                wish_reason=None,
                incident=None,
                ended_at=None,
                changed_at=now,
            )
        ).rowcount
        row = self._row(connection, request.flow_uuid)
        if taken:
            assert row is not None
            return self._read_taken(connection, request, row[0])
        if row is None:
            return self._take_first(connection, request)
        return self._refuse(request, *row)

    def _read_taken(
        self, connection: sa.Connection, request: TakeRequest, record: r.FlowRecord
    ) -> r.Taken:
        detail = None
        if request.known != (record.epoch - 1, record.commit_number):
            detail = self._details.read(connection, request.flow_uuid)
            if detail is None:
                raise errors.UnknownFlow(
                    f"flow {request.flow_uuid} has no flow details in this store",
                    flow_uuid=request.flow_uuid,
                )
        arrivals = self._delays.unabsorbed(connection, request.flow_uuid, with_early=True)
        return r.Taken(
            lease=_lease(request, record), detail=detail, arrivals=arrivals, before=record
        )

    def _take_first(self, connection: sa.Connection, request: TakeRequest) -> r.Taken:
        parent = self._details.parent(connection, request.flow_uuid)
        if parent is None:
            raise errors.UnknownFlow(
                f"flow {request.flow_uuid} has no flow details in this store: save its"
                " logbook there first, or let taskflow.engines.load() make it"
                " (pass backend= and no flow_detail=)",
                flow_uuid=request.flow_uuid,
            )
        now = self._now_in(connection)
        record = r.FlowRecord(
            flow_uuid=request.flow_uuid,
            flow_name=request.newcomer.flow_name,
            epoch=1,
            owner=request.owner,
            lease_expires_at=now + sql_row.micros(request.seconds),
            state="RUNNING",
            key_id=request.newcomer.key_id,
            has_factory=request.newcomer.has_factory,
            job_name=request.newcomer.job_name,
            job_priority=request.newcomer.job_priority,
            book_uuid=parent[0],
            book_name=parent[1],
            created_at=now,
            changed_at=now,
        )
        connection.execute(sa.insert(self._flows), sql_row.from_flow(record))
        return r.Taken(lease=_lease(request, record), detail=None, arrivals=(), before=None)

    @staticmethod
    def _refuse(request: TakeRequest, record: r.FlowRecord, now: int) -> r.Refused:
        if rules.is_over(record) and not request.may_rerun:
            return r.Refused(reason="ended", record=record)
        if rules.is_suspended(record) and not request.resumes:
            return r.Refused(reason="suspended", record=record)
        left = max(0, (record.lease_expires_at or 0) - now) / 1e6
        return r.Refused(reason="busy", record=record, wait_seconds=left)

    def commit(
        self, lease: r.Lease, changes: r.Changes, ending: r.Ending | None = None
    ) -> r.Committed:
        try:
            done = self._transactor.write(lambda c: self._commit(c, lease, changes, ending))
        except MustAbsorbFirst as refusal:
            return r.Committed(pulse=lease.pulse, refused=refusal.records)
        lease.commit_number += 1
        lease.pulse = done.pulse
        return done

    def _commit(
        self,
        connection: sa.Connection,
        lease: r.Lease,
        changes: r.Changes,
        ending: r.Ending | None,
    ) -> r.Committed:
        flows = self._flows
        now = self._clock()
        written = connection.execute(
            sa.update(flows)
            .where(
                flows.c.flow_uuid == lease.flow_uuid,
                flows.c.epoch == lease.epoch,
                flows.c.commit_number == lease.commit_number,
            )
            .values(
                commit_number=lease.commit_number + 1,
                lease_expires_at=now + sql_row.micros(lease.seconds),
                open_delays=changes.open_delays,
                state="RUNNING",
                changed_at=now,
            )
        ).rowcount
        row = self._row(connection, lease.flow_uuid)
        if not written:
            return self._settle(connection, lease, row)
        assert row is not None
        record, at = row
        answered = self._delays.answered(connection, lease.flow_uuid, changes.closed)
        if answered:
            raise MustAbsorbFirst(answered)  # rolls the transaction back
        self._delays.apply(connection, lease.flow_uuid, changes, at)
        self._details.write(connection, changes)
        pulse = r.Pulse(wish=record.wish, arrival_number=record.arrival_number)
        arrivals: Sequence[r.DelayRecord] = ()
        if (
            changes.opened
            or record.arrival_number != lease.pulse.arrival_number
            or (ending is not None and ending.absorbs)
        ):
            arrivals = self._delays.unabsorbed(connection, lease.flow_uuid, with_early=False)
        if ending is None or (arrivals and ending.absorbs):
            return r.Committed(pulse=pulse, arrivals=arrivals)
        self._end(connection, lease, ending, at)
        return r.Committed(pulse=pulse, has_ended=True)

    def _settle(
        self, connection: sa.Connection, lease: r.Lease, row: tuple[r.FlowRecord, int] | None
    ) -> r.Committed:
        """Find out why a commit found nothing to write.

        Either somebody else owns the flow now, or this is the second try
        after a connection was lost in the middle of a commit that had been
        carried out.
        """
        if row is None or (row[0].epoch, row[0].commit_number) != (
            lease.epoch,
            lease.commit_number + 1,
        ):
            raise fenced(lease)
        record = row[0]
        return r.Committed(
            pulse=r.Pulse(wish=record.wish, arrival_number=record.arrival_number),
            has_ended=record.owner is None,
            arrivals=self._delays.unabsorbed(connection, lease.flow_uuid, with_early=False),
        )

    def _end(self, connection: sa.Connection, lease: r.Lease, ending: r.Ending, now: int) -> None:
        flows = self._flows
        if ending.is_final:
            self._delays.close_all(connection, lease.flow_uuid, now)
        connection.execute(
            sa.update(flows)
            .where(flows.c.flow_uuid == lease.flow_uuid)
            .values(
                owner=None,
                lease_expires_at=None,
                rung_at=None,
                state=ending.state,
                ended_at=now if ending.is_final else None,
            )
        )

    def pulse(self, lease: r.Lease) -> r.Pulse:
        row = self._transactor.read(lambda c: self._row(c, lease.flow_uuid))
        if row is None or row[0].epoch != lease.epoch:
            raise fenced(lease)
        return r.Pulse(wish=row[0].wish, arrival_number=row[0].arrival_number)

    def arrivals(self, lease: r.Lease) -> Sequence[r.DelayRecord]:
        return self._transactor.read(
            lambda c: self._delays.unabsorbed(c, lease.flow_uuid, with_early=False)
        )

    def renew(self, lease: r.Lease) -> r.Pulse:
        flows = self._flows

        def work(connection: sa.Connection) -> r.Pulse:
            now = self._clock()
            written = connection.execute(
                sa.update(flows)
                .where(
                    flows.c.flow_uuid == lease.flow_uuid,
                    flows.c.epoch == lease.epoch,
                    flows.c.owner == lease.owner,
                )
                .values(lease_expires_at=now + sql_row.micros(lease.seconds))
            ).rowcount
            row = self._row(connection, lease.flow_uuid)
            if not written or row is None:
                raise fenced(lease)
            return r.Pulse(wish=row[0].wish, arrival_number=row[0].arrival_number)

        return self._transactor.write(work)

    def release(self, lease: r.Lease) -> None:
        flows = self._flows
        self._transactor.write(
            lambda connection: connection.execute(
                sa.update(flows)
                .where(
                    flows.c.flow_uuid == lease.flow_uuid,
                    flows.c.epoch == lease.epoch,
                    flows.c.owner == lease.owner,
                )
                .values(owner=None, lease_expires_at=None)
            )
        )

    # -- delivering -------------------------------------------------------

    def deliver(
        self, flow_uuid: str, deliveries: Sequence[r.Delivery], *, rings: bool
    ) -> r.DeliveredToFlow | None:
        return self._transactor.write(
            lambda connection: self._deliver(connection, flow_uuid, deliveries, rings)
        )

    def _deliver(
        self,
        connection: sa.Connection,
        flow_uuid: str,
        deliveries: Sequence[r.Delivery],
        rings: bool,
    ) -> r.DeliveredToFlow | None:
        flows = self._flows
        connection.execute(
            sa.update(flows)
            .where(flows.c.flow_uuid == flow_uuid)
            .values(arrival_number=flows.c.arrival_number + len(deliveries))
        )
        row = self._row(connection, flow_uuid)
        if row is None:
            return None
        record, now = row
        first_number = record.arrival_number - len(deliveries) + 1
        desk = Desk(record, now, first_number)
        keys = [delivery.key for delivery in deliveries]
        desk.put_delays(self._delays.find(connection, keys))
        unseen = {key.atom_uuid for key in keys}
        desk.put_atoms(self._details.atom_states(connection, unseen))
        items = [desk.receive(delivery) for delivery in deliveries]
        self._delays.write_arrivals(connection, desk)
        may_ring = desk.calls_for_owner and rules.may_ring(record, now)
        if may_ring and rings:
            connection.execute(
                sa.update(flows).where(flows.c.flow_uuid == flow_uuid).values(rung_at=now)
            )
        return r.DeliveredToFlow(
            items=items,
            record=record,
            has_owner=rules.has_owner(record, now),
            must_ring=may_ring and rings,
            is_rung=rules.is_rung(record, now),
        )

    def unring(self, flow_uuid: str) -> None:
        self._set(flow_uuid, rung_at=None)

    # -- wishes, incidents and jobs ---------------------------------------

    def set_wish(self, flow_uuid: str, wish: str | None, reason: str | None) -> r.FlowRecord | None:
        return self._set(flow_uuid, wish=wish, wish_reason=reason)

    def note_incident(self, flow_uuid: str, kind: str, message: str) -> None:
        def work(connection: sa.Connection) -> None:
            flows = self._flows
            connection.execute(
                sa.update(flows)
                .where(flows.c.flow_uuid == flow_uuid)
                .values(changed_at=self._clock())
            )
            row = self._row(connection, flow_uuid)
            if row is not None:
                incident = next_incident(row[0].incident, kind, message, row[1])
                connection.execute(
                    sa.update(flows)
                    .where(flows.c.flow_uuid == flow_uuid)
                    .values(incident=self._details.dumps(incident))
                )

        self._transactor.write(work)

    def _set(
        self, flow_uuid: str, *conditions: sa.ColumnElement[bool], **values: Any
    ) -> r.FlowRecord | None:
        flows = self._flows

        def work(connection: sa.Connection) -> r.FlowRecord | None:
            connection.execute(
                sa.update(flows).where(flows.c.flow_uuid == flow_uuid, *conditions).values(**values)
            )
            row = self._row(connection, flow_uuid)
            return None if row is None else row[0]

        return self._transactor.write(work)

    # -- submitting, reading, purging -------------------------------------

    def submit(self, submission: r.Submission) -> tuple[r.FlowRecord, bool]:
        def work(connection: sa.Connection) -> tuple[r.FlowRecord, bool]:
            detail, book = submission.detail, submission.book
            touched = connection.execute(
                sa.update(self._flows)
                .where(self._flows.c.flow_uuid == detail.uuid)
                .values(changed_at=self._flows.c.changed_at)
            ).rowcount
            if touched:
                row = self._row(connection, detail.uuid)
                assert row is not None
                return row[0], False
            now = self._now_in(connection)
            record = r.FlowRecord(
                flow_uuid=detail.uuid,
                flow_name=detail.name,
                rung_at=now if submission.is_rung else None,
                key_id=submission.key_id,
                has_factory=True,
                book_uuid=book.uuid,
                book_name=book.name,
                created_at=now,
                changed_at=now,
            )
            connection.execute(sa.insert(self._flows), sql_row.from_flow(record))
            self._details.insert(connection, detail, book)
            return record, True

        return self._transactor.write(work)

    def flow(self, flow_uuid: str) -> r.FlowRecord | None:
        row = self._transactor.read(lambda c: self._row(c, flow_uuid))
        return None if row is None else row[0]

    def detail(self, flow_uuid: str) -> models.FlowDetail | None:
        return self._transactor.read(lambda c: self._details.read(c, flow_uuid))

    def delays_of(self, flow_uuid: str) -> Sequence[r.DelayRecord]:
        return self._transactor.read(lambda c: self._delays.of_flow(c, flow_uuid))

    def waiting(self, page: r.Page) -> Sequence[r.DelayRecord]:
        return self._transactor.read(lambda c: self._delays.waiting(c, page))

    def purge(self, ended_before: int) -> int:
        flows = self._flows
        wanted = sa.select(flows.c.flow_uuid).where(flows.c.ended_at < ended_before).limit(100)
        count = 0
        while uuids := self._transactor.read(lambda c: c.execute(wanted).scalars().all()):
            for flow_uuid in uuids:
                count += self._transactor.write(
                    functools.partial(
                        self._purge_one, flow_uuid=flow_uuid, ended_before=ended_before
                    )
                )
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
        if self.guarantees.store == "sqlite":  # other engines are TaskFlow's own
            self._transactor.close()

    def _row(self, connection: sa.Connection, flow_uuid: str) -> tuple[r.FlowRecord, int] | None:
        found = connection.execute(
            sa.select(self._flows, self._clock().label("now")).where(
                self._flows.c.flow_uuid == flow_uuid
            )
        ).first()
        if found is None:
            return None
        return sql_row.to_flow(dict(found._mapping)), int(found._mapping["now"])

    def _now_in(self, connection: sa.Connection) -> int:
        return int(connection.execute(sa.select(self._clock())).scalar_one())


def _lease(request: TakeRequest, record: r.FlowRecord) -> r.Lease:
    assert record.key_id is not None
    return r.Lease(
        flow_uuid=request.flow_uuid,
        owner=request.owner,
        epoch=record.epoch,
        commit_number=record.commit_number,
        seconds=request.seconds,
        key_id=record.key_id,
        pulse=r.Pulse(wish=None, arrival_number=record.arrival_number),
    )
