# SPDX-License-Identifier: Apache-2.0
"""The SQL ledger's side of owning a flow: commits, and the end of a lease."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from lazy_engine import errors, rules
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.desk import closings_in_vain
from lazy_engine.ledger.protocol import fenced
from lazy_engine.ledger.sql_book import SqlBook
from lazy_engine.ledger.sql_statement import open_value


class MustAbsorbFirst(Exception):
    """Leaves a commit that would cancel delays which have been answered."""

    def __init__(self, records: Sequence[r.DelayRecord]) -> None:
        super().__init__()
        self.records = records


class SqlOwnership(SqlBook):
    """Keeps and gives up leases; writes what owners commit."""

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
