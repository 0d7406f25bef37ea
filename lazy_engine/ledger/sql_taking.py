# SPDX-License-Identifier: Apache-2.0
"""The SQL ledger's side of becoming a flow's owner: lease and epoch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from lazy_engine import errors, rules, terms
from lazy_engine.ledger import record as r
from lazy_engine.ledger import sql_row
from lazy_engine.ledger.protocol import TakeRequest
from lazy_engine.ledger.sql_book import SqlBook
from lazy_engine.ledger.sql_statement import open_value

#: Columns that make a flow's :data:`~lazy_engine.ledger.record.Version`, in its order.
_VERSION: Final = ("created_at", "epoch", "commit_number", "changed_at")


class SqlTaking(SqlBook):
    """Takes leases."""

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
        # MySQL carries these out one after the other, and a later one reads what an earlier
        # one has written: none is to read a column that was set before it.
        return (
            sa.update(flows)
            .where(wanted)
            .ordered_values(
                (flows.c.wish_reason, sa.case((keeps_wish, flows.c.wish_reason), else_=None)),
                (flows.c.wish, sa.case((keeps_wish, flows.c.wish), else_=None)),
                (flows.c.state, sa.case((begins, "RUNNING"), else_=flows.c.state)),
                (flows.c.epoch, flows.c.epoch + 1),
                (flows.c.owner, owner),
                (flows.c.lease_expires_at, expires_at),
                (flows.c.rung_at, None),
                (flows.c.rings, 0),
                (flows.c.check_at, expires_at),
                (flows.c.ended_at, None),
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
    unabsorbed = frozenset(delay.key for delay in arrivals)
    return request.lease(record, unabsorbed, record.arrival_number)
