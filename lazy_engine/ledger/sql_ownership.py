# SPDX-License-Identifier: Apache-2.0
"""The SQL ledger's side of owning a flow: lease, epoch, commits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from lazy_engine import errors, rules, terms
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.desk import closings_in_vain
from lazy_engine.ledger.protocol import TakeRequest, fenced
from lazy_engine.ledger.sql_book import SqlBook
from lazy_engine.ledger.sql_statement import open_value

#: Columns that make a flow's :data:`~lazy_engine.ledger.record.Version`, in its order.
_VERSION: Final = ("created_at", "epoch", "commit_number", "changed_at")


class MustAbsorbFirst(Exception):
    """Leaves a commit that would cancel delays which have been answered."""

    def __init__(self, records: Sequence[r.DelayRecord]) -> None:
        super().__init__()
        self.records = records


class SqlOwnership(SqlBook):
    """Takes, keeps and gives up leases; writes what owners commit."""

    def take(self, request: TakeRequest) -> r.Taken | r.Refused:
        seen_epoch: int | None = None
        while True:
            # Whoever learns from this lease, and commits what follows from it, waits for
            # the disk, and then it is there. If the machine stops before, so do its owner
            # and all that might have met it. Not so the tokens that tasks give away, which
            # name atoms that are stored with it.
            answer = self._transactor.write(
                functools.partial(self._take, request=request, dead_epoch=seen_epoch),
                is_lasting=request.first is not None,
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
        wait = self._send_row(
            connection,
            (
                "take",
                dead_epoch is not None,
                request.may_rerun,
                request.resumes,
                request.is_insistent,
                request.first is not None,
            ),
            lambda: self._taking(request, dead_epoch),
            {
                "flow_uuid": request.flow_uuid,
                "owner": request.owner,
                "micros": sql_row.micros(request.seconds),
                **({} if dead_epoch is None else {"dead_epoch": dead_epoch}),
                **_insisted(request),
            },
        )
        # Asked right after it, so that a server is waited for once.
        tell_delays = self._delays.ask_for_owner(connection, request.flow_uuid)
        taken, row = wait()
        answer: r.Taken
        if taken:
            assert row is not None
            answer = self._read_taken(connection, request, *row, tell_delays())
        else:
            request.require_known(None if row is None else row[0])
            if row is not None:
                return self._refuse(request, *row)
            answer = self._take_first(connection, request)
        if request.first is None or answer.detail is not None:
            return answer
        self._details.write(connection, request.first)
        return dataclasses.replace(answer, has_begun=True)

    def _taking(self, request: TakeRequest, dead_epoch: int | None) -> sa.Update:
        flows = self._flows
        now = self._clock()
        owner = open_value("owner")
        is_free = sa.or_(
            flows.c.owner.is_(None), flows.c.owner == owner, flows.c.lease_expires_at <= now
        )
        if dead_epoch is not None:
            is_free = sa.or_(is_free, flows.c.epoch == open_value("dead_epoch"))
        wanted = sa.and_(flows.c.flow_uuid == open_value("flow_uuid"), is_free)
        # Not IN: SQLAlchemy would write its list out each time.
        has_ended = sa.or_(*(flows.c.state == state for state in sorted(rules.FINAL_STATES)))
        if not request.may_rerun:
            wanted = sa.and_(wanted, sa.not_(has_ended))
        if request.is_insistent:
            as_known = [flows.c[name] == open_value(f"known_{name}") for name in _VERSION]
            # After a lost connection it may have been granted already, and is asked again.
            wanted = sa.and_(wanted, sa.or_(sa.and_(*as_known), flows.c.owner == owner))
        if not request.resumes:
            wanted = sa.and_(wanted, sa.or_(flows.c.wish.is_(None), flows.c.wish == r.WISH_CANCEL))
        # A wish to cancel holds until the flow has ended.
        keeps_wish = sa.and_(flows.c.wish == r.WISH_CANCEL, sa.not_(has_ended))
        expires_at = now + open_value("micros", type_=sa.BigInteger)
        # From now on outcomes are for the new run.
        begins = has_ended if request.first is None else sa.or_(has_ended, flows.c.epoch == 0)
        return (
            sa.update(flows)
            .where(wanted)
            .values(
                epoch=flows.c.epoch + 1,
                owner=owner,
                lease_expires_at=expires_at,
                rung_at=None,
                rings=0,
                check_at=expires_at,
                wish=sa.case((keeps_wish, flows.c.wish), else_=None),
                wish_reason=sa.case((keeps_wish, flows.c.wish_reason), else_=None),
                ended_at=None,
                state=sa.case((begins, "RUNNING"), else_=flows.c.state),
            )
        )

    def _read_taken(
        self,
        connection: sa.Connection,
        request: TakeRequest,
        record: r.FlowRecord,
        now: int,
        delays: Sequence[r.DelayRecord],
    ) -> r.Taken:
        detail = None
        # Taking the lease changed the epoch, and nothing else of the version.
        created_at, epoch, *rest = record.version
        if request.known != (created_at, epoch - 1, *rest):
            detail = self._details.read(connection, request.flow_uuid)
            if detail is None:
                raise errors.UnknownFlow(
                    f"flow {request.flow_uuid} has no flow details in this store",
                    flow_uuid=request.flow_uuid,
                )
        fired: Sequence[terms.Fired] = ()
        if due := [delay for delay in delays if delay.is_open and (delay.due_at or now + 1) <= now]:
            after, fired = self._fire(connection, record, now, due)
            self._change(connection, record, after)
            record = after
            delays = self._delays.ask_for_owner(connection, request.flow_uuid)()
        arrivals = [delay for delay in delays if delay.outcome is not None]
        return r.Taken(
            lease=_lease(request, record, arrivals),
            detail=detail,
            arrivals=arrivals,
            fired=fired,
            probing=[d for d in delays if d.is_open and d.timers.probe_at is not None],
            now=now,
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
        expires_at = now + sql_row.micros(request.seconds)
        record = r.FlowRecord(
            flow_uuid=request.flow_uuid,
            flow_name=request.newcomer.flow_name,
            epoch=1,
            owner=request.owner,
            lease_expires_at=expires_at,
            check_at=expires_at,
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
        self._insert_row(connection, record)
        lease = _lease(request, record, ())
        return r.Taken(lease=lease, detail=None, arrivals=(), now=now)

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
        if lease.is_unsure:
            self._make_sure(lease)
        tried: list[int] = []
        try:
            done = self._transactor.write(lambda c: self._commit(c, lease, changes, ending, tried))
        except MustAbsorbFirst as refusal:
            return r.Committed(pulse=lease.pulse, refused=refusal.records)
        except errors.StoreUnavailable:
            lease.is_unsure = True
            raise
        lease.commit_number += 1
        lease.changed_at = done.changed_at
        lease.pulse = done.pulse
        if done.unabsorbed is not None:
            lease.unabsorbed = done.unabsorbed
            lease.unabsorbed_at = done.pulse.arrival_number
        return done

    def _make_sure(self, lease: r.Lease) -> None:
        """Find out whether a commit was carried out whose answer never came.

        Otherwise the next commit, with other changes and the same number,
        would be taken for the repetition of that one and not be written.
        """
        row = self._transactor.read(lambda c: self._row(c, lease.flow_uuid))
        if row is None or not lease.may_have_left(row[0]):
            raise fenced(lease)
        lease.commit_number = row[0].commit_number
        lease.is_unsure = False

    def _commit(
        self,
        connection: sa.Connection,
        lease: r.Lease,
        changes: r.Changes,
        ending: r.Ending | None,
        tried: list[int],
    ) -> r.Committed:
        written, row = self._write_row(
            connection,
            "commit",
            self._committing,
            {
                "flow_uuid": lease.flow_uuid,
                "epoch": lease.epoch,
                "owner": lease.owner,
                "commit_number": lease.commit_number,
                "micros": sql_row.micros(lease.seconds),
                "open_delays": changes.open_delays,
            },
        )
        if not written:
            return self._settle(connection, lease, row, tried)
        assert row is not None
        record, at = row
        tried.append(record.changed_at)
        if changes.cancels:
            unabsorbed = self._delays.unabsorbed(connection, lease.flow_uuid, with_early=True)
            if answered := changes.answered(unabsorbed):
                raise MustAbsorbFirst(answered)  # rolls the transaction back
        self._delays.apply(connection, lease.flow_uuid, changes, at)
        self._details.write(connection, changes)
        pulse = r.Pulse(wish=record.wish, arrival_number=record.arrival_number)
        came: Sequence[r.DelayRecord] = ()
        # Not the number that the engine saw last: it may have looked in between, and that
        # tells of outcomes, but not of which are left.
        has_news = record.arrival_number != lease.unabsorbed_at
        left = lease.unabsorbed.difference(changes.absorbed)
        if has_news or (left and (changes.opened or ending is not None)):
            came = self._delays.unabsorbed(connection, lease.flow_uuid, with_early=True)
            left = frozenset(delay.key for delay in came)
        arrivals = [delay for delay in came if delay.opened_at is not None]
        if ending is None or rules.keeps_running(ending, record, has_arrivals=bool(arrivals)):
            return r.Committed(
                pulse=pulse, arrivals=arrivals, changed_at=record.changed_at, unabsorbed=left
            )
        has_arrivals = bool(arrivals)
        if early := [delay for delay in came if delay.opened_at is None]:
            atoms = self._details.atom_states(connection, {d.key.atom_uuid for d in early})
            in_vain = closings_in_vain(early, atoms)
            self._delays.close(connection, lease.flow_uuid, in_vain, at)
            has_arrivals = has_arrivals or len(in_vain) < len(early)
        self._end(connection, record, ending, at, has_arrivals)
        return r.Committed(pulse=pulse, has_ended=True, changed_at=record.changed_at)

    def _committing(self) -> sa.Update:
        flows = self._flows
        now = self._clock()
        number = open_value("commit_number", type_=sa.Integer)
        expires_at = now + open_value("micros", type_=sa.BigInteger)
        return (
            sa.update(flows)
            .where(
                flows.c.flow_uuid == open_value("flow_uuid"),
                flows.c.epoch == open_value("epoch"),
                flows.c.owner == open_value("owner"),
                flows.c.commit_number == number,
            )
            .values(
                commit_number=number + 1,
                lease_expires_at=expires_at,
                check_at=expires_at,
                open_delays=open_value("open_delays"),
                state="RUNNING",
                incident=None,
                changed_at=now,
            )
        )

    def _settle(
        self,
        connection: sa.Connection,
        lease: r.Lease,
        row: tuple[r.FlowRecord, int] | None,
        tried: Sequence[int],
    ) -> r.Committed:
        """Find out why a commit found nothing to write.

        Either somebody else owns the flow now, or this is the second try
        after a connection was lost in the middle of a commit that had been
        carried out.

        One that had ended the run left no owner. Then only the instant tells whose it
        was, and a try has read it before it can have ended anything. A cancellation or an incident that
        came in between hides it: the run is then told to be fenced, and has ended all the same.

        :param tried: when this very call changed the row, by the store's time.
        """
        record = None if row is None else row[0]
        if record is None or (record.epoch, record.commit_number) != (
            lease.epoch,
            lease.commit_number + 1,
        ):
            raise fenced(lease)
        has_ended = record.owner is None and record.changed_at in tried
        if not has_ended and not lease.owns(record):
            raise fenced(lease)
        return r.Committed(
            pulse=r.Pulse(wish=record.wish, arrival_number=record.arrival_number),
            has_ended=has_ended,
            changed_at=record.changed_at,
            arrivals=self._delays.unabsorbed(connection, lease.flow_uuid, with_early=False),
        )

    def _end(
        self,
        connection: sa.Connection,
        record: r.FlowRecord,
        ending: r.Ending,
        now: int,
        has_arrivals: bool,
    ) -> None:
        if ending.is_final:
            self._delays.close_all(connection, record.flow_uuid, now)
        after = rules.parked(record, ending, now, has_arrivals=has_arrivals)
        self._change(connection, record, after)

    def pulse(self, lease: r.Lease) -> r.Pulse:
        row = self._transactor.read(lambda c: self._row(c, lease.flow_uuid))
        if row is None or not lease.owns(row[0]):
            raise fenced(lease)
        return r.Pulse(wish=row[0].wish, arrival_number=row[0].arrival_number)

    def arrivals(self, lease: r.Lease) -> Sequence[r.DelayRecord]:
        return self._transactor.read(
            lambda c: self._delays.unabsorbed(c, lease.flow_uuid, with_early=False)
        )

    def renew(self, lease: r.Lease) -> r.Pulse:
        flows = self._flows

        def work(connection: sa.Connection) -> r.Pulse:
            expires_at = self._clock() + open_value("micros", type_=sa.BigInteger)
            written, row = self._write_row(
                connection,
                "renew",
                lambda: (
                    sa.update(flows)
                    .where(
                        flows.c.flow_uuid == open_value("flow_uuid"),
                        flows.c.epoch == open_value("epoch"),
                        flows.c.owner == open_value("owner"),
                    )
                    .values(lease_expires_at=expires_at, check_at=expires_at)
                ),
                {
                    "flow_uuid": lease.flow_uuid,
                    "epoch": lease.epoch,
                    "owner": lease.owner,
                    "micros": sql_row.micros(lease.seconds),
                },
            )
            if not written or row is None:
                raise fenced(lease)
            return r.Pulse(wish=row[0].wish, arrival_number=row[0].arrival_number)

        return self._transactor.write(work)

    def release(self, lease: r.Lease) -> None:
        def work(connection: sa.Connection) -> None:
            record, now = self._lock(connection, lease.flow_uuid)
            if record is not None and lease.owns(record):
                self._change(connection, record, rules.released(record, now))

        self._transactor.write(work)


def _insisted(request: TakeRequest) -> Mapping[str, int]:
    if not request.is_insistent:
        return {}
    return {
        f"known_{name}": at
        for name, at in zip(_VERSION, request.known or (-1,) * len(_VERSION), strict=True)
    }


def _lease(
    request: TakeRequest, record: r.FlowRecord, arrivals: Iterable[r.DelayRecord]
) -> r.Lease:
    assert record.key_id is not None
    return r.Lease(
        flow_uuid=request.flow_uuid,
        owner=request.owner,
        epoch=record.epoch,
        commit_number=record.commit_number,
        created_at=record.created_at,
        changed_at=record.changed_at,
        seconds=request.seconds,
        key_id=record.key_id,
        pulse=r.Pulse(wish=record.wish, arrival_number=record.arrival_number),
        unabsorbed=frozenset(delay.key for delay in arrivals),
        unabsorbed_at=record.arrival_number,
    )
