# SPDX-License-Identifier: Apache-2.0
"""A store that is set back to an earlier moment: who knows it as it was afterwards must not fit by chance.

A restored store counts on from older numbers, and comes to the same epochs and commit numbers again. What it holds
then is written here into the flow's row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from kazoo import exceptions as kazoo_exceptions

from lazy_engine import errors
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import protocol
from lazy_engine.ledger import record as r
from lazy_engine.receipt import Disposition
from tests.contract.stored import PARKS, Flow, Store, answer_lost_once


def set_row(flow: Flow, **values: Any) -> None:
    assert flow.other._set(flow.uuid, **values) is not None


@contextlib.contextmanager
def cut_off_once(on: Any, meanwhile: Callable[[], Any]) -> Iterator[None]:
    """Lose the connection just before the next transaction is carried out, which it is not."""
    cut: list[bool] = []

    def cut_off() -> bool:
        if cut:
            return False
        cut.append(True)
        return True

    if not hasattr(on, "_transactor"):
        transact = on._connection._transact

        def lose_request(*transaction: Any) -> Any:
            if cut_off():
                meanwhile()
                raise kazoo_exceptions.ConnectionLoss
            return transact(*transaction)

        on._connection._transact = lose_request
        try:
            yield
        finally:
            del on._connection._transact
    else:
        engine = on._transactor.engine

        def lose_commit(connection: sa.Connection) -> None:
            if cut_off():
                connection.connection.dbapi_connection.rollback()
                meanwhile()
                if engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN")  # something for the driver to roll back
                raise sa.exc.OperationalError(
                    "COMMIT", {}, Exception("no connection"), connection_invalidated=True
                )

        sa.event.listen(engine, "commit", lose_commit)
        try:
            yield
        finally:
            sa.event.remove(engine, "commit", lose_commit)
    assert cut


# -- owners -------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored",
    [
        {"owner": "somewhere/-/1/-/another"},
        {"owner": None, "lease_expires_at": None, "state": DELAYED},
    ],
    ids=["run by another", "parked"],
)
def test_owner_of_a_lost_history_is_fenced_though_epoch_and_number_are_its_own(
    flow: Flow, stored: dict[str, Any]
) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    set_row(flow, **stored)
    before = flow.snapshot()
    for writes in (
        lambda: flow.begin(lease),
        lambda: flow.ledger.commit(lease, flow.opening(), PARKS),
        lambda: flow.ledger.pulse(lease),
        lambda: flow.ledger.renew(lease),
    ):
        with pytest.raises(errors.Fenced):
            writes()
    flow.ledger.release(lease)
    flow.ledger.note_incident(flow.uuid, "factory failed", "no longer mine", lease)
    assert flow.snapshot() == before


@pytest.mark.parametrize("is_unsure", [False, True], ids=["", "after an outage"])
def test_owner_whose_own_run_was_set_back_is_fenced(flow: Flow, is_unsure: bool) -> None:
    """A server is down while it is restored, and its owners are in the middle of a commit."""
    lease = flow.take().lease
    flow.begin(lease)
    flow.begin(lease)
    lease.is_unsure = is_unsure
    set_row(flow, commit_number=1)
    before = flow.snapshot()
    with pytest.raises(errors.Fenced):
        flow.begin(lease)
    assert flow.snapshot() == before


@pytest.mark.parametrize("ending", [PARKS, None], ids=["park", "commit"])
@pytest.mark.parametrize("owner", [None, "somewhere/-/1/-/another"], ids=["parked", "owned"])
def test_commit_that_is_repeated_is_not_taken_for_that_of_another_history(
    flow: Flow, store: Store, owner: str | None, ending: r.Ending | None
) -> None:
    """The connection is lost in the middle of it, the store is restored, and somebody else is as far."""
    store.only_shared()
    lease = flow.take().lease
    flow.begin(lease)
    changed_at = flow.record().changed_at

    def restore() -> None:
        set_row(flow, commit_number=2, owner=owner, state=DELAYED, changed_at=changed_at + 1)

    with cut_off_once(store.ledger, restore), pytest.raises(errors.Fenced):
        flow.ledger.commit(lease, flow.opening(), ending)
    assert store.other.delays_of(flow.uuid) == []
    assert flow.record().commit_number == 2


def test_commit_that_is_repeated_is_written_if_it_was_not_carried_out(
    flow: Flow, store: Store
) -> None:
    store.only_shared()
    lease = flow.take().lease
    with cut_off_once(store.ledger, lambda: None):
        assert flow.ledger.commit(lease, flow.opening(), PARKS).has_ended
    assert flow.delay().is_open
    assert lease.version == flow.record().version


def test_version_after_a_park_whose_answer_was_lost_is_the_stored_one(
    flow: Flow, store: Store
) -> None:
    store.only_shared()
    lease = flow.take().lease
    with answer_lost_once(store.ledger):
        assert flow.ledger.commit(lease, flow.opening(), PARKS).has_ended
    assert lease.version == flow.record().version


# -- engines ------------------------------------------------------------------


def test_engine_that_knows_a_lost_history_is_outdated_or_reads_anew(flow: Flow) -> None:
    known = flow.park().version
    assert known == flow.record().version
    set_row(flow, changed_at=flow.record().changed_at - 1)
    before = flow.snapshot()
    with pytest.raises(protocol.Outdated):
        flow.take(known=known, is_insistent=True)
    assert flow.snapshot() == before
    assert flow.take(known=known).detail is not None


def test_engine_is_not_outdated_by_what_changes_no_details(flow: Flow, store: Store) -> None:
    """Answers, doorbells, timers and signs of life come between a park and the wake."""
    known = flow.park(timeout_seconds=60.0, heartbeat_seconds=20.0).version
    flow.ledger.heartbeat(flow.key(), progress=None, details_text=None)
    flow.ledger.set_wish(flow.uuid, r.WISH_SUSPEND, "holiday")
    assert flow.ledger.wake(flow.uuid, rings=True).must_ring
    flow.ledger.unring(flow.uuid)
    store.set_clock(30.0)
    assert flow.ledger.tend(flow.uuid, rings=True).fired, "no heartbeat came"
    assert flow.disposition("too late") is Disposition.LATE
    assert flow.record().version == known
    taken = flow.take(known=known, is_insistent=True)
    assert taken.detail is None
    assert len(taken.arrivals) == 1
