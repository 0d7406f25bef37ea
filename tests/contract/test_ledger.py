# SPDX-License-Identifier: Apache-2.0
"""What every ledger promises, tried on every kind of store with one suite."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import threading
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from taskflow import states
from taskflow.persistence import backends, models

from lazy_engine import errors, ledger, rules
from lazy_engine.access import open_backend
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import owner, protocol
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import META_ATTEMPTS
from lazy_engine.outcome import Failed, Result
from lazy_engine.receipt import Disposition
from lazy_engine.terms import Terms
from lazy_engine.token import EXECUTE, REVERT
from tests.contract.stored import (
    A_LONG_LEASE,
    A_SHORT_LEASE,
    PARKS,
    RESTS,
    SUCCEEDS,
    Flow,
    Store,
    answer_lost_once,
    at_once,
    make_flow,
)
from tests.waiting import wait_until

# -- taking the lease ------------------------------------------------------


def test_first_take_makes_the_record_with_epoch_one(flow: Flow) -> None:
    assert flow.other.flow(flow.uuid) is None
    taken = flow.take(owner="me")
    assert (taken.lease.epoch, taken.lease.commit_number, taken.lease.owner) == (1, 0, "me")
    record = flow.record()
    assert (record.epoch, record.owner, record.has_factory) == (1, "me", True)
    assert record.key_id == taken.lease.key_id == flow.ledger.signing_key().key_id
    assert record.book_name == "book"
    assert record.lease_expires_at is not None
    assert record.lease_expires_at > flow.ledger.now() + (A_LONG_LEASE - 60) * 1e6


def test_take_of_an_unknown_flow_says_so(store: Store) -> None:
    flow = make_flow(store)
    stranger = str(uuid.uuid4())
    with pytest.raises(errors.UnknownFlow) as caught:
        store.ledger.take(flow.request(flow_uuid=stranger))
    assert caught.value.flow_uuid == stranger
    assert store.ledger.flow(stranger) is None


def test_take_raises_the_epoch_each_time(flow: Flow) -> None:
    epochs = []
    for _ in range(3):
        lease = flow.take().lease
        epochs.append(lease.epoch)
        flow.ledger.release(lease)
    assert epochs == [1, 2, 3]


def test_take_reads_the_details_anew(flow: Flow) -> None:
    flow.park()
    taken = flow.take()
    assert taken.detail is not None
    assert [(a.name, a.state, a.meta) for a in taken.detail] == [
        ("task", DELAYED, {META_ATTEMPTS: {EXECUTE: 1}})
    ]
    assert taken.detail.state == DELAYED


def test_known_engine_reads_nothing_if_nobody_ran_the_flow_since(flow: Flow) -> None:
    parked = flow.park()
    taken = flow.take(known=parked.version)
    assert taken.detail is None


def test_known_engine_reads_anew_after_another_owner(flow: Flow) -> None:
    parked = flow.park()
    flow.ledger.release(flow.take().lease)
    assert flow.take(known=parked.version).detail is not None


def test_known_engine_reads_anew_after_another_commit(flow: Flow) -> None:
    lease = flow.take().lease
    known = lease.version
    flow.begin(lease)
    flow.ledger.release(lease)
    assert flow.take(known=known).detail is not None


def test_known_engine_still_gets_the_arrivals(flow: Flow) -> None:
    parked = flow.park()
    flow.deliver("came while parked")
    taken = flow.take(known=parked.version)
    assert taken.detail is None
    assert [flow.ledger.decode(d.outcome) for d in taken.arrivals] == ["came while parked"]


def test_insistent_take_is_granted_if_nobody_ran_the_flow_since(flow: Flow) -> None:
    parked = flow.park()
    flow.deliver("came while parked")
    taken = flow.take(known=parked.version, is_insistent=True)
    assert taken.detail is None
    assert len(taken.arrivals) == 1


def test_insistent_take_leaves_a_changed_flow_alone(flow: Flow, store: Store) -> None:
    parked = flow.park()
    known = parked.version
    flow.ledger.release(flow.take().lease)
    before = flow.snapshot()
    now = flow.record().version
    by_one = [(*now[:at], now[at] + 1, *now[at + 1 :]) for at in range(len(now))]
    for changed in (known, *by_one, None):
        with pytest.raises(protocol.Outdated):
            flow.take(known=changed, is_insistent=True)
    assert flow.snapshot() == before
    with pytest.raises(protocol.Outdated):
        flow.take(flow_uuid=str(uuid.uuid4()), known=known, is_insistent=True)


def test_insistent_take_of_a_flow_whose_task_made_progress_is_outdated(flow: Flow) -> None:
    """A heartbeat writes into the details of a parked flow."""
    parked = flow.park()
    flow.ledger.heartbeat(flow.key(), progress=0.5, details_text=None)
    with pytest.raises(protocol.Outdated):
        flow.take(known=parked.version, is_insistent=True)


def test_insistent_take_is_refused_for_the_same_reasons_as_any_other(flow: Flow) -> None:
    parked = flow.park()
    known = parked.version
    flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, "holiday")
    assert flow.refused(known=known, is_insistent=True).reason == "suspended"


def test_insistent_take_whose_answer_was_lost_is_granted_to_who_asks_again(flow: Flow) -> None:
    parked = flow.park()
    known = parked.version
    flow.take(known=known, is_insistent=True, owner="me")
    again = flow.take(known=known, is_insistent=True, owner="me")
    assert again.detail is not None
    with pytest.raises(protocol.Outdated):
        flow.take(known=known, is_insistent=True, owner="somebody else")


def test_take_is_refused_while_another_lease_lives(flow: Flow) -> None:
    flow.take(owner="first", seconds=100)
    before = flow.snapshot()
    refused = flow.refused(owner="second")
    assert refused.reason == "busy"
    assert refused.record.owner == "first"
    assert 50 < refused.wait_seconds <= 100
    assert flow.snapshot() == before


def test_owner_may_take_its_own_flow_again(flow: Flow) -> None:
    """A take whose answer was lost is asked again under the same name."""
    first = flow.take(owner="me")
    second = flow.take(owner="me")
    assert second.lease.epoch == first.lease.epoch + 1


def test_take_is_refused_when_the_flow_has_ended(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.changes(flow_state=states.SUCCESS), SUCCEEDS)
    before = flow.snapshot()
    refused = flow.refused()
    assert (refused.reason, refused.record.state) == ("ended", states.SUCCESS)
    assert flow.snapshot() == before


def test_ended_flow_can_be_taken_to_run_it_again(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.changes(flow_state=states.SUCCESS), SUCCEEDS)
    assert flow.take(may_rerun=True).lease.epoch == 2
    assert flow.record().ended_at is None


def test_take_is_refused_while_suspended_and_granted_to_who_resumes(flow: Flow) -> None:
    flow.park()
    flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, "holiday")
    before = flow.snapshot()
    refused = flow.refused()
    assert (refused.reason, refused.record.wish_reason) == ("suspended", "holiday")
    assert flow.snapshot() == before
    flow.take(resumes=True)
    assert (flow.record().wish, flow.record().wish_reason) == (None, None)


def test_lease_of_a_dead_owner_is_taken_over_early(flow: Flow, store: Store) -> None:
    store.only_shared()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    parts = owner.name().split("/")
    parts[2:4] = [str(child.pid), owner._started(child.pid) or ""]  # the child's own name
    first = flow.take(owner="/".join(parts))
    assert flow.refused(is_dead=owner.is_dead).reason == "busy"
    child.communicate(b"\n")
    second = flow.other.take(flow.request(is_dead=owner.is_dead))
    assert isinstance(second, r.Taken)
    assert second.lease.epoch == first.lease.epoch + 1
    with pytest.raises(errors.Fenced):
        flow.ledger.renew(first.lease)


def test_only_the_owner_that_was_seen_dead_loses_its_lease(flow: Flow, store: Store) -> None:
    """Between looking at the owner and taking, a living one may have come."""
    store.only_shared()
    flow.take(owner="dead")

    def is_dead_but_replaced(name: str) -> bool:
        if name == "dead":
            flow.take(owner="alive", is_dead=lambda seen: seen == "dead")
        return name == "dead"

    refused = flow.refused(owner="late", is_dead=is_dead_but_replaced)
    assert (refused.reason, refused.record.owner) == ("busy", "alive")
    assert flow.record().owner == "alive"


def test_expired_lease_is_taken_over_and_its_owner_fenced(flow: Flow) -> None:
    old = flow.take(seconds=A_SHORT_LEASE).lease
    new = wait_until(
        lambda: isinstance(answer := flow.other.take(flow.request()), r.Taken) and answer,
        what="the lease to run out",
    ).lease
    assert new.epoch == old.epoch + 1
    before = flow.snapshot()
    with pytest.raises(errors.Fenced):
        flow.begin(old)
    with pytest.raises(errors.Fenced):
        flow.ledger.pulse(old)
    with pytest.raises(errors.Fenced):
        flow.ledger.renew(old)
    flow.ledger.release(old)
    assert flow.snapshot() == before


def test_newcomer_takes_an_expired_lease_at_once_or_where_no_clock_tells_after_a_whole_one(
    flow: Flow, store: Store
) -> None:
    store.only_shared()
    flow.take(seconds=1.0)
    wait_until(lambda: flow.ledger.now() > flow.record().lease_expires_at)
    with contextlib.closing(open_backend(store.url)) as backend:
        newcomer = ledger.beside(backend)
        answer = newcomer.take(flow.request())
        if not store.ledger.guarantees.has_clock:
            assert isinstance(answer, r.Refused), "it has seen the lease for no time at all"
            assert 0.5 < answer.wait_seconds <= 1.0
            answer = wait_until(
                lambda: isinstance(again := newcomer.take(flow.request()), r.Taken) and again
            )
        assert isinstance(answer, r.Taken)
        newcomer.close()


def test_expiry_alone_fences_nobody(flow: Flow) -> None:
    lease = flow.take(seconds=0.001).lease
    wait_until(lambda: flow.ledger.now() > flow.record().lease_expires_at)
    assert flow.ledger.commit(lease, flow.changes()).pulse.wish is None
    flow.ledger.renew(lease)


def test_renewal_prolongs_the_lease(flow: Flow) -> None:
    lease = flow.take(seconds=A_SHORT_LEASE).lease
    first = flow.record().lease_expires_at
    wait_until(lambda: flow.ledger.now() > first)
    flow.ledger.renew(lease)
    assert flow.record().lease_expires_at >= first + A_SHORT_LEASE * 1e6 / 2


def test_renewal_brings_wishes_and_arrivals(flow: Flow) -> None:
    flow.park()
    lease = flow.take().lease
    seen = flow.ledger.renew(lease)
    assert seen == r.Pulse(wish=None, arrival_number=lease.pulse.arrival_number)
    flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, None)
    flow.deliver()
    seen = flow.ledger.renew(lease)
    assert seen.wish == r.WISH_SUSPEND
    assert seen.arrival_number > lease.pulse.arrival_number
    assert flow.ledger.pulse(lease) == seen


def test_release_gives_the_flow_up_at_once(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.release(lease)
    assert (flow.record().owner, flow.record().lease_expires_at) == (None, None)
    assert flow.take().lease.epoch == 2
    flow.ledger.release(lease)  # a second time it is somebody else's
    assert flow.record().owner is not None


def test_concurrent_takers_of_a_parked_flow_exactly_one_gets_it(flow: Flow) -> None:
    flow.park()
    answers = at_once(
        *(lambda one=one: one.take(flow.request()) for one in [flow.ledger, flow.other] * 4)
    )
    assert sum(isinstance(answer, r.Taken) for answer in answers) == 1
    assert flow.record().epoch == 2


@pytest.mark.parametrize("round_", range(3))
def test_concurrent_first_takers_exactly_one_gets_it(store: Store, round_: int) -> None:
    """The record does not exist yet: all of them try to make it."""
    flow = make_flow(store)
    answers = at_once(
        *(lambda one=one: one.take(flow.request()) for one in [flow.ledger, flow.other] * 4)
    )
    assert sum(isinstance(answer, r.Taken) for answer in answers) == 1
    assert flow.record().epoch == 1


def test_concurrent_submitters_of_one_flow_exactly_one_makes_it(store: Store) -> None:
    flow_uuid = str(uuid.uuid4())
    key_id = store.ledger.signing_key().key_id

    def submit(on: Any) -> Any:
        detail = models.FlowDetail("flow", flow_uuid)
        detail.meta = {}
        return on.submit(
            r.Submission(detail=detail, book=models.LogBook("book"), key_id=key_id, is_rung=False)
        )

    answers = at_once(*(lambda one=one: submit(one) for one in [store.ledger, store.other] * 4))
    assert sorted(is_new for _, is_new in answers) == [False] * 7 + [True]
    assert len({record.book_uuid for record, _ in answers}) == 1


# -- committing ------------------------------------------------------------


def test_commit_writes_details_and_counts(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    assert lease.commit_number == flow.record().commit_number == 1
    assert flow.stored_task().state == states.RUNNING
    flow.ledger.commit(lease, flow.changes(atoms=[flow.mark(states.SUCCESS, 1)]))
    assert lease.commit_number == flow.record().commit_number == 2
    assert flow.stored_task().state == states.SUCCESS


def test_commit_stores_new_atoms_and_results(flow: Flow) -> None:
    lease = flow.take().lease
    atom = models.TaskDetail("second", str(uuid.uuid4()))
    atom.state, atom.intention, atom.meta, atom.version = "SUCCESS", "EXECUTE", {"a": 1}, "1.0"
    atom.results = {"ip": ["10.0.0.1"]}
    change = r.AtomChange(detail=atom, columns=frozenset(), is_new=True)
    flow.ledger.commit(lease, flow.changes(atoms=[change]))
    stored = flow.other.detail(flow.uuid).find(atom.uuid)
    assert (stored.name, stored.state, stored.results) == (
        "second",
        "SUCCESS",
        {"ip": ["10.0.0.1"]},
    )


def test_what_is_stored_does_not_change_with_the_objects_in_memory(flow: Flow) -> None:
    lease = flow.take().lease
    atom = models.TaskDetail("second", str(uuid.uuid4()))
    atom.state, atom.intention, atom.meta, atom.version = "PENDING", "EXECUTE", {}, "1.0"
    change = r.AtomChange(detail=atom, columns=frozenset(), is_new=True)
    flow.ledger.commit(lease, flow.changes(atoms=[change]))
    atom.meta[META_ATTEMPTS] = {EXECUTE: 1}
    atom.state = "RUNNING"
    stored = flow.other.detail(flow.uuid).find(atom.uuid)
    assert (stored.state, stored.meta) == ("PENDING", {})
    stored.meta[META_ATTEMPTS] = {EXECUTE: 1}
    assert flow.other.detail(flow.uuid).find(atom.uuid).meta == {}
    assert flow.disposition(atom_uuid=atom.uuid) is Disposition.EARLY


def test_commit_of_a_superseded_owner_writes_nothing(flow: Flow) -> None:
    old = flow.take(owner="me").lease
    new = flow.take(owner="me").lease
    before = flow.snapshot()
    with pytest.raises(errors.Fenced) as caught:
        flow.begin(old)
    assert caught.value.flow_uuid == flow.uuid
    with pytest.raises(errors.Fenced):
        flow.ledger.commit(old, flow.opening(), PARKS)
    assert flow.snapshot() == before
    flow.begin(new)


def test_owner_that_was_released_by_the_end_cannot_commit_for_a_successor(flow: Flow) -> None:
    old = flow.park()
    flow.take()
    with pytest.raises(errors.Fenced):
        flow.ledger.commit(old, flow.changes(), PARKS)


def test_commit_renews_the_lease(flow: Flow) -> None:
    lease = flow.take(seconds=A_SHORT_LEASE).lease
    first = flow.record().lease_expires_at
    wait_until(lambda: flow.ledger.now() > first)
    flow.begin(lease)
    assert flow.record().lease_expires_at >= first + A_SHORT_LEASE * 1e6 / 2


def test_commit_that_was_carried_out_before_the_answer_was_lost_is_not_fenced(
    flow: Flow, store: Store
) -> None:
    store.only_shared()
    lease = flow.take().lease
    with answer_lost_once(store.ledger):
        done = flow.ledger.commit(lease, flow.opening())
    assert not done.has_ended
    assert lease.commit_number == flow.record().commit_number == 1
    assert flow.delay().is_open


def test_parking_that_was_carried_out_before_the_answer_was_lost_has_ended(
    flow: Flow, store: Store
) -> None:
    store.only_shared()
    lease = flow.take().lease
    with answer_lost_once(store.ledger):
        done = flow.ledger.commit(lease, flow.opening(), PARKS)
    assert done.has_ended
    assert flow.record().owner is None


def test_commit_after_one_whose_fate_is_unknown_is_still_written(flow: Flow, store: Store) -> None:
    """An error that says "nothing is known to be written" must not swallow the next commit.

    The keeper commits progress and goes on after StoreUnavailable; the engine's next commit then has the number that
    the lost one may have used up.
    """
    store.only_shared()
    lease = flow.take().lease
    with answer_lost_once(store.ledger, gives_up=True), pytest.raises(errors.StoreUnavailable):
        flow.begin(lease)
    assert flow.stored_task().state == states.RUNNING
    flow.ledger.commit(lease, flow.changes(atoms=[flow.mark(states.SUCCESS, 1)]))
    assert flow.stored_task().state == states.SUCCESS
    assert lease.commit_number == flow.record().commit_number == 2


# -- parking ---------------------------------------------------------------


def test_parking_opens_the_delay_and_gives_the_flow_up_in_one(flow: Flow) -> None:
    lease = flow.take().lease
    done = flow.ledger.commit(lease, flow.opening(details_text='{"who":"me"}'), PARKS)
    assert (done.has_ended, list(done.arrivals)) == (True, [])
    record = flow.record()
    assert (record.owner, record.lease_expires_at, record.rung_at) == (None, None, None)
    assert (record.state, record.open_delays, record.ended_at) == (DELAYED, 1, None)
    delay = flow.delay()
    assert delay.is_open
    assert (delay.task_name, delay.details_text) == ("task", '{"who":"me"}')
    assert flow.stored_task().state == DELAYED
    assert flow.other.detail(flow.uuid).state == DELAYED


def test_arrival_before_parking_keeps_the_owner(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    told = flow.deliver("quick")
    assert [item.disposition for item in told.items] == [Disposition.EARLY]
    assert (told.has_owner, told.must_ring) == (True, False)
    done = flow.ledger.commit(lease, flow.opening(), PARKS)
    assert not done.has_ended
    assert [flow.ledger.decode(d.outcome) for d in done.arrivals] == ["quick"]
    assert flow.record().owner == lease.owner
    done = flow.absorb(lease, flow.key(), ending=SUCCEEDS)
    assert done.has_ended
    assert flow.record().state == states.SUCCESS


def test_arrival_for_an_open_delay_keeps_the_owner(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening())
    flow.deliver("while running")
    done = flow.ledger.commit(lease, flow.changes(), PARKS)
    assert not done.has_ended
    assert [d.key for d in done.arrivals] == [flow.key()]


def test_commit_in_between_tells_of_arrivals(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening())
    assert list(flow.ledger.commit(lease, flow.changes()).arrivals) == []
    flow.deliver()
    assert [d.key for d in flow.ledger.commit(lease, flow.changes()).arrivals] == [flow.key()]
    assert [d.key for d in flow.ledger.arrivals(lease)] == [flow.key()]


def test_suspending_does_not_wait_for_arrivals(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening())
    flow.deliver("kept")
    assert flow.ledger.commit(lease, flow.changes(), RESTS).has_ended
    assert flow.record().owner is None
    assert [d.key for d in flow.take().arrivals] == [flow.key()]


def test_arrival_after_parking_rings_exactly_once(flow: Flow) -> None:
    flow.park()
    first = flow.deliver("first")
    assert (first.must_ring, first.has_owner) == (True, False)
    again = [flow.deliver("first"), flow.deliver("second")]
    assert [told.must_ring for told in again] == [False, False]
    assert all(told.is_rung for told in again)


def test_taking_the_lease_clears_the_ring(flow: Flow) -> None:
    flow.park()
    flow.deliver()
    assert flow.record().rung_at is not None
    lease = flow.take().lease
    assert flow.record().rung_at is None
    assert flow.deliver("another").must_ring is False
    flow.ledger.release(lease)
    assert flow.deliver().must_ring is True, "the outcome is not absorbed and nobody is there"


def test_ring_that_could_not_be_posted_is_asked_for_again(flow: Flow) -> None:
    flow.park()
    assert flow.deliver().must_ring
    flow.other.unring(flow.uuid)
    assert flow.deliver().must_ring


def test_nobody_is_asked_to_ring_who_cannot(flow: Flow) -> None:
    flow.park()
    assert flow.deliver(rings=False).must_ring is False
    assert flow.record().rung_at is None
    assert flow.deliver(rings=True).must_ring is True


def test_suspended_flow_is_not_rung_for(flow: Flow) -> None:
    flow.park()
    flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, None)
    told = flow.deliver()
    assert [item.disposition for item in told.items] == [Disposition.ACCEPTED]
    assert told.must_ring is False


def test_flow_without_a_factory_is_not_rung_for(flow: Flow) -> None:
    newcomer = r.Newcomer(
        flow_name="flow", has_factory=False, key_id=flow.ledger.signing_key().key_id
    )
    lease = flow.take(newcomer=newcomer).lease
    flow.ledger.commit(lease, flow.opening(), PARKS)
    assert flow.deliver().must_ring is False


def test_parking_and_delivering_at_once_never_miss_each_other(store: Store) -> None:
    for _ in range(15):
        flow = make_flow(store)
        lease = flow.take().lease
        flow.begin(lease)
        opening, delivery = flow.opening(), flow.delivery()
        done, told = at_once(
            lambda f=flow, le=lease, o=opening: f.ledger.commit(le, o, PARKS),
            lambda f=flow, d=delivery: f.other.deliver(f.uuid, [d], rings=True),
        )
        if done.has_ended:
            assert told.items[0].disposition is Disposition.ACCEPTED
            assert told.must_ring, "nobody would ever wake the flow"
        else:
            assert told.items[0].disposition is Disposition.EARLY
            assert not told.must_ring
            assert [d.key for d in done.arrivals] == [flow.key()]


# -- delivering ------------------------------------------------------------


def test_outcome_of_an_open_delay_is_accepted_and_kept(flow: Flow) -> None:
    flow.park()
    told = flow.deliver({"b": [1, 2.5, None, True], "a": "ü\u0000"})
    assert [(i.disposition, i.task_name) for i in told.items] == [(Disposition.ACCEPTED, "task")]
    delay = flow.delay()
    assert flow.ledger.decode(delay.outcome) == {"b": [1, 2.5, None, True], "a": "ü\u0000"}
    assert delay.arrived_at is not None
    assert not delay.is_open
    assert delay.is_unabsorbed


def test_failure_is_kept_with_kind_and_details(flow: Flow) -> None:
    flow.park()
    assert flow.disposition(Failed("no quota", kind="Quota", details=[1])) is Disposition.ACCEPTED
    payload = flow.ledger.decode(flow.delay().outcome)
    assert payload == {"message": "no quota", "kind": "Quota", "details": [1], "types": []}


def test_second_identical_outcome_is_a_duplicate(flow: Flow) -> None:
    flow.park()
    flow.deliver({"a": 1, "b": 2})
    before = flow.delay()
    assert flow.disposition({"b": 2, "a": 1}) is Disposition.DUPLICATE
    assert flow.delay() == before


def test_another_outcome_is_a_conflict_and_the_first_one_stays(flow: Flow) -> None:
    flow.park()
    flow.deliver("first")
    before = flow.delay()
    assert flow.disposition("second") is Disposition.CONFLICT
    assert flow.disposition(Failed("first")) is Disposition.CONFLICT
    assert flow.delay() == before


def test_outcome_before_the_delay_is_early_and_counts_once_it_opens(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    assert flow.disposition("early") is Disposition.EARLY
    assert flow.delay().opened_at is None
    assert list(flow.ledger.arrivals(lease)) == [], "not before its delay is opened"
    done = flow.ledger.commit(lease, flow.opening(details_text="[1]"))
    assert [d.key for d in done.arrivals] == [flow.key()]
    delay = flow.delay()
    assert delay.opened_at is not None
    assert delay.details_text == "[1]"
    assert flow.ledger.decode(delay.outcome) == "early"
    assert list(flow.other.waiting(r.Page(flow_uuid=flow.uuid))) == []


def test_attempt_whose_mark_is_not_durable_yet_can_be_answered_early(flow: Flow) -> None:
    flow.take()
    assert flow.stored_task().state == states.PENDING
    assert flow.disposition(attempt=1) is Disposition.EARLY


def test_early_outcome_is_a_duplicate_or_conflict_like_any_other(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    flow.deliver("early")
    assert flow.disposition("early") is Disposition.DUPLICATE
    assert flow.disposition("else") is Disposition.CONFLICT


def test_early_outcome_is_found_by_who_takes_over_after_a_crash(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    flow.deliver("early")
    flow.ledger.release(lease)
    taken = flow.take()
    assert [(d.key, d.opened_at) for d in taken.arrivals] == [(flow.key(), None)]
    flow.absorb(taken.lease, flow.key())
    assert flow.delay().absorbed_at is not None
    assert flow.delay().opened_at is not None


def test_early_outcome_of_an_attempt_that_ended_otherwise_becomes_late(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    flow.deliver("early")
    change = flow.mark(states.SUCCESS, 1)
    flow.ledger.commit(
        lease, flow.changes(atoms=[change], closed=[flow.closing(r.CLOSED_NOT_DELAYED)])
    )
    assert flow.delay().close_reason == r.CLOSED_NOT_DELAYED
    assert list(flow.ledger.arrivals(lease)) == []
    assert flow.disposition("early") is Disposition.DUPLICATE, "before LATE in precedence"
    assert flow.disposition("else") is Disposition.LATE


@pytest.mark.parametrize("ending", [PARKS, RESTS])
def test_early_outcome_is_late_once_its_attempt_has_ended_without_a_delay(
    flow: Flow, ending: r.Ending
) -> None:
    """The attempt that handed the token out was interrupted, and makes no ``Delay`` when it is executed again."""
    lease = flow.take().lease
    flow.begin(lease)
    assert flow.disposition("early") is Disposition.EARLY
    done = flow.ledger.commit(
        lease, flow.changes(atoms=[flow.mark(states.SUCCESS, 1)], open_delays=1), ending
    )
    assert done.has_ended
    assert flow.delay().close_reason == r.CLOSED_NOT_DELAYED
    assert flow.disposition("else") is Disposition.LATE
    assert not flow.deliver("early").must_ring, "nobody waits for it"
    assert list(flow.take().arrivals) == []


def test_outcome_left_behind_by_a_suspended_run_is_the_watchdogs(flow: Flow) -> None:
    """Nobody rang for it, since its owner lived."""
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening())
    assert flow.deliver("answer").has_owner
    assert flow.ledger.commit(lease, flow.changes(open_delays=1), RESTS).has_ended
    assert flow.record().check_at is not None
    resting = flow.take().lease
    flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, None)
    assert flow.ledger.commit(resting, flow.changes(open_delays=1), RESTS).has_ended
    assert flow.record().check_at is None, "it rests because somebody wants it to"


def test_early_outcome_stays_as_long_as_its_attempt_may_run_again(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    assert flow.disposition("early") is Disposition.EARLY
    assert flow.ledger.commit(lease, flow.changes(), RESTS).has_ended
    assert [d.key for d in flow.take(resumes=True).arrivals] == [flow.key()]


def test_outcome_of_an_attempt_that_is_over_is_late(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.changes(atoms=[flow.mark(states.SUCCESS, 2)]))
    assert flow.disposition(attempt=1) is Disposition.LATE
    assert flow.disposition(attempt=2) is Disposition.LATE
    assert flow.disposition(attempt=3) is Disposition.EARLY, "running now, its mark not durable"
    assert flow.disposition(kind=REVERT) is Disposition.EARLY, "counted apart"


def test_outcome_of_a_closed_delay_is_late_and_the_first_late_one_is_kept(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening())
    flow.ledger.commit(lease, flow.changes(closed=[flow.closing(r.CLOSED_CANCELLED)]))
    assert flow.disposition("late") is Disposition.LATE
    assert flow.disposition("later") is Disposition.LATE
    assert flow.disposition("late") is Disposition.LATE, "it was not recorded as the outcome"
    delay = flow.delay()
    assert delay.outcome is None
    assert flow.ledger.decode(delay.late) == "late"
    assert delay.close_reason == r.CLOSED_CANCELLED
    assert list(flow.ledger.arrivals(lease)) == []


def test_recorded_outcome_beats_a_closed_delay_in_precedence(flow: Flow) -> None:
    flow.park()
    flow.deliver("yes")
    lease = flow.take().lease
    flow.absorb(lease, flow.key(), ending=SUCCEEDS)
    assert flow.disposition("yes") is Disposition.DUPLICATE
    assert flow.disposition("no") is Disposition.LATE


def test_late_outcome_without_a_delay_is_kept_once(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.changes(atoms=[flow.mark(states.SUCCESS, 1)]))
    flow.deliver("late")
    flow.deliver("later")
    delay = flow.delay()
    assert (delay.outcome, flow.ledger.decode(delay.late)) == (None, "late")
    assert not delay.is_open


def test_absorbed_delay_takes_no_other_outcome(flow: Flow) -> None:
    flow.park()
    flow.deliver("yes")
    lease = flow.take().lease
    flow.absorb(lease, flow.key())
    assert flow.disposition("no") is Disposition.CONFLICT
    assert list(flow.ledger.arrivals(lease)) == []
    assert flow.delay().absorbed_at is not None


def test_end_of_the_flow_closes_every_delay(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening())
    flow.ledger.commit(lease, flow.changes(flow_state=states.REVERTED), SUCCEEDS)
    assert (flow.delay().closed_at is not None, flow.delay().close_reason) == (True, "ended")
    assert flow.disposition() is Disposition.LATE
    assert flow.disposition(attempt=7) is Disposition.LATE
    assert flow.deliver().must_ring is False
    assert flow.record().ended_at is not None


def test_delivery_to_a_purged_or_unknown_flow_finds_nothing(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.changes(flow_state=states.SUCCESS), SUCCEEDS)
    assert flow.ledger.purge(flow.ledger.now() + 1) == 1
    assert flow.deliver() is None
    assert flow.other.deliver(str(uuid.uuid4()), [flow.delivery()], rings=True) is None
    assert list(flow.other.delays_of(flow.uuid)) == []


def test_the_same_call_after_a_lost_connection_gets_its_own_answer(flow: Flow) -> None:
    flow.park()
    delivery = flow.delivery("once")
    for _ in range(2):
        told = flow.other.deliver(flow.uuid, [delivery], rings=False)
        assert [i.disposition for i in told.items] == [Disposition.ACCEPTED]
    assert flow.disposition("once") is Disposition.DUPLICATE, "another call"


def test_early_delivery_after_a_lost_connection_stays_early(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    delivery = flow.delivery("once")
    for _ in range(2):
        told = flow.other.deliver(flow.uuid, [delivery], rings=False)
        assert [i.disposition for i in told.items] == [Disposition.EARLY]


def test_delivery_whose_connection_was_lost_is_recorded_once_and_rings(
    flow: Flow, store: Store
) -> None:
    """The first try noted the ring and died before anybody was told to post it."""
    store.only_shared()
    flow.park()
    with answer_lost_once(store.other):
        told = flow.deliver("once")
    assert [i.disposition for i in told.items] == [Disposition.ACCEPTED]
    assert told.must_ring, "rung_at is noted, but nobody was told to ring"


def test_repeated_delivery_rings_though_it_records_nothing(flow: Flow, store: Store) -> None:
    """Its first try noted the ring, for an outcome that another call had recorded."""
    store.only_shared()
    flow.park()
    assert flow.disposition("same", rings=False) is Disposition.ACCEPTED
    with answer_lost_once(store.other):
        told = flow.deliver("same")
    assert [i.disposition for i in told.items] == [Disposition.DUPLICATE]
    assert (told.must_ring, told.is_rung) == (True, False)
    assert not flow.deliver("same").must_ring


def test_deliveries_of_one_call_are_recorded_in_order(store: Store) -> None:
    flow = make_flow(store)
    lease = flow.take().lease
    flow.begin(lease)
    keys = [flow.key(attempt) for attempt in (1, 2, 3)]
    told = flow.other.deliver(
        flow.uuid,
        [flow.delivery(n, key=key) for n, key in enumerate([*keys, keys[0], keys[0]])],
        rings=True,
    )
    got = [i.disposition for i in told.items]
    assert got == [Disposition.EARLY] * 3 + [Disposition.CONFLICT] * 2
    flow.ledger.release(lease)
    arrivals = flow.take().arrivals
    assert [d.key for d in arrivals] == keys
    assert sorted({d.arrival_number for d in arrivals}) == [d.arrival_number for d in arrivals]


def test_concurrent_deliverers_exactly_one_is_accepted(flow: Flow) -> None:
    flow.park()
    deliveries = [flow.delivery(number) for number in range(8)]
    answers = at_once(
        *(
            lambda d=d, n=n: (flow.ledger, flow.other)[n % 2].deliver(flow.uuid, [d], rings=True)
            for n, d in enumerate(deliveries)
        )
    )
    got = [answer.items[0].disposition for answer in answers]
    assert sorted(d.name for d in got) == ["ACCEPTED"] + ["CONFLICT"] * 7
    assert [answer.must_ring for answer in answers].count(True) == 1
    winner = got.index(Disposition.ACCEPTED)
    assert flow.ledger.decode(flow.delay().outcome) == winner


def test_concurrent_identical_deliveries_are_one_and_duplicates(flow: Flow) -> None:
    flow.park()
    deliveries = [flow.delivery("same") for _ in range(6)]
    answers = at_once(
        *(lambda d=d: flow.other.deliver(flow.uuid, [d], rings=True) for d in deliveries)
    )
    got = sorted(answer.items[0].disposition.name for answer in answers)
    assert got == ["ACCEPTED"] + ["DUPLICATE"] * 5


def test_delay_of_a_flow_that_runs_again_can_be_answered_early(flow: Flow) -> None:
    """An outcome between the taking of an ended flow and its first commit must not close what is to open."""
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.changes(atoms=[flow.mark(states.FAILURE, 1)]), SUCCEEDS)
    lease = flow.take(may_rerun=True).lease
    disposition = flow.disposition("for the new run", attempt=2)
    done = flow.ledger.commit(lease, flow.opening(attempt=2))
    assert disposition is Disposition.EARLY, "else the delay is closed before it opens, for ever"
    assert [d.key for d in done.arrivals] == [flow.key(2)]


# -- heartbeats and timers -------------------------------------------------


def test_progress_of_a_parked_task_is_stored_to_the_last_digit(flow: Flow) -> None:
    flow.park()
    beat = flow.other.heartbeat(flow.key(), progress=1 / 3, details_text='["a third"]')
    assert beat.is_wanted
    assert flow.delay().progress == 1 / 3
    task = flow.stored_task()
    assert task.meta["progress"] == 1 / 3
    assert task.meta[META_ATTEMPTS] == {EXECUTE: 1}, "nothing else was touched"
    assert task.state == DELAYED


def test_deadline_that_passed_is_due_and_fires_once(flow: Flow) -> None:
    lease = flow.take().lease
    (opened,) = flow.opening().opened
    opened = dataclasses.replace(opened, terms=Terms(timeout_seconds=0.01))
    change = flow.changes(atoms=[flow.mark(DELAYED, 1)], opened=[opened], open_delays=1)
    assert flow.ledger.commit(lease, change, PARKS).has_ended
    wait_until(lambda: flow.uuid in flow.other.due(10), what="the deadline")
    assert [fired.has_outcome for fired in flow.other.tend(flow.uuid, rings=True).fired] == [True]
    assert list(flow.ledger.tend(flow.uuid, rings=True).fired) == []
    assert [d.key for d in flow.take().arrivals] == [flow.key()]


# -- cancelling ------------------------------------------------------------


def test_delay_that_was_answered_is_not_cancelled(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening())
    flow.deliver("first")
    before = flow.snapshot()
    changes = flow.changes(
        atoms=[flow.mark(states.FAILURE, 1)], closed=[flow.closing(r.CLOSED_CANCELLED)]
    )
    done = flow.ledger.commit(lease, changes)
    assert [d.key for d in done.refused] == [flow.key()]
    assert not done.has_ended
    assert flow.snapshot() == before
    assert lease.commit_number == flow.record().commit_number
    flow.absorb(lease, flow.key())  # the lease is as good as before
    assert flow.delay().absorbed_at is not None


def test_delay_opened_and_cancelled_at_once_is_not_cancelled_if_answered_early(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    assert flow.disposition("first") is Disposition.EARLY
    opening = flow.opening()
    changes = dataclasses.replace(opening, closed=[flow.closing(r.CLOSED_CANCELLED)])
    done = flow.ledger.commit(lease, changes)
    assert [d.key for d in done.refused] == [flow.key()]
    flow.ledger.commit(lease, dataclasses.replace(opening, absorbed=[flow.key()]))
    assert flow.delay().absorbed_at is not None
    assert flow.disposition("second") is Disposition.CONFLICT


def test_early_outcome_does_not_keep_an_attempt_from_ending_otherwise(flow: Flow) -> None:
    lease = flow.take().lease
    flow.begin(lease)
    assert flow.disposition("first") is Disposition.EARLY
    changes = flow.changes(closed=[flow.closing(r.CLOSED_CANCELLED)])
    assert not flow.ledger.commit(lease, changes).refused
    assert flow.disposition("second") is Disposition.LATE


def test_end_is_refused_too_when_it_cancels_an_answered_delay(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.opening())
    flow.deliver("first")
    changes = flow.changes(closed=[flow.closing(r.CLOSED_CANCELLED)])
    done = flow.ledger.commit(lease, changes, SUCCEEDS)
    assert [d.key for d in done.refused] == [flow.key()]
    assert (done.has_ended, flow.record().owner) == (False, lease.owner)


def test_cancelling_and_answering_at_once_agree(store: Store) -> None:
    for _ in range(10):
        flow = make_flow(store)
        lease = flow.take().lease
        flow.ledger.commit(lease, flow.opening())
        changes = flow.changes(closed=[flow.closing(r.CLOSED_CANCELLED)])
        delivery = flow.delivery()
        done, told = at_once(
            lambda f=flow, le=lease, c=changes: f.ledger.commit(le, c),
            lambda f=flow, d=delivery: f.other.deliver(f.uuid, [d], rings=True),
        )
        got = told.items[0].disposition
        assert (bool(done.refused), got) in {
            (True, Disposition.ACCEPTED),
            (False, Disposition.LATE),
        }


def test_closing_reaches_back_to_earlier_attempts_but_not_to_later_ones(flow: Flow) -> None:
    lease = flow.take().lease
    for attempt in (1, 2, 3):
        flow.ledger.commit(lease, flow.opening(attempt))
    flow.ledger.commit(lease, flow.changes(closed=[flow.closing(r.CLOSED_RETRIED, 2)]))
    assert [d.is_open for d in map(flow.delay, (1, 2, 3))] == [False, False, True]
    assert flow.delay(1).close_reason == r.CLOSED_RETRIED


# -- listing, wishes, incidents, jobs --------------------------------------


def test_waiting_is_listed_in_pages_oldest_first(store: Store) -> None:
    flows = [make_flow(store, name=f"task-{n % 2}") for n in range(7)]
    for flow in flows:
        flow.park()
    everything = list(store.other.waiting(r.Page(limit=100)))
    assert [d.key.flow_uuid for d in everything] == [f.uuid for f in flows]
    pages, after = [], None
    while page := list(store.other.waiting(r.Page(limit=3, after=after))):
        pages.append(page)
        after = r.place_of(page[-1])
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [d for page in pages for d in page] == everything
    named = store.other.waiting(r.Page(task_name="task-1"))
    assert [d.key.flow_uuid for d in named] == [f.uuid for f in flows[1::2]]
    (one,) = store.other.waiting(r.Page(flow_uuid=flows[3].uuid))
    assert one == flows[3].delay()


def test_delays_opened_by_one_commit_are_paged_without_loss(flow: Flow) -> None:
    lease = flow.take().lease
    keys = [flow.key(atom_uuid=str(uuid.uuid4())) for _ in range(5)]
    opened = [r.DelayOpening(key=key, task_name="task") for key in keys]
    flow.ledger.commit(lease, flow.changes(opened=opened, open_delays=5))
    seen, after = [], None
    while page := list(flow.other.waiting(r.Page(limit=2, after=after))):
        seen.extend(d.key.atom_uuid for d in page)
        after = r.place_of(page[-1])
    assert seen == sorted(key.atom_uuid for key in keys)


def test_answered_and_closed_delays_do_not_wait(flow: Flow) -> None:
    flow.park()
    assert len(flow.other.waiting(r.Page())) == 1
    flow.deliver()
    assert list(flow.other.waiting(r.Page())) == []


def test_delays_of_a_flow_are_listed_oldest_first(flow: Flow) -> None:
    lease = flow.take().lease
    flow.deliver(attempt=3)  # early: not opened, so before all others
    for attempt in (1, 2):
        flow.ledger.commit(lease, flow.opening(attempt))
    assert [d.key.attempt for d in flow.other.delays_of(flow.uuid)] == [3, 1, 2]


def test_wish_reaches_the_owner_and_stays_until_it_is_ended(flow: Flow) -> None:
    lease = flow.take().lease
    record = flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, "night")
    assert (record.wish, record.wish_reason) == (r.WISH_SUSPEND, "night")
    assert flow.ledger.commit(lease, flow.changes()).pulse.wish == r.WISH_SUSPEND
    assert flow.ledger.commit(lease, flow.changes(), RESTS).has_ended
    assert flow.refused().reason == "suspended"
    assert flow.other.set_wish(str(uuid.uuid4()), r.WISH_SUSPEND, None) is None


def test_incidents_are_counted_and_end_with_the_next_commit(flow: Flow) -> None:
    flow.park()
    for number in (1, 2):
        flow.other.note_incident(flow.uuid, "no factory", f"failure {number}")
    incident = flow.record().incident
    assert incident["count"] == 2
    assert incident["message"] == "failure 2"
    assert incident["first_at"] <= incident["last_at"]
    lease = flow.take().lease
    assert flow.record().incident == incident, "nobody knows yet whether this run gets anywhere"
    flow.ledger.commit(lease, flow.changes())
    assert flow.record().incident is None


def test_incident_is_not_of_unknown_flows_nor_of_ended_ones(flow: Flow) -> None:
    assert flow.ledger.note_incident(str(uuid.uuid4()), "factory failed", "m") is None
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.changes(flow_state=states.SUCCESS), SUCCEEDS)
    noted = flow.other.note_incident(flow.uuid, "factory failed", "m")
    assert noted == flow.record()
    assert noted.incident is None


def test_incident_of_the_owner_gives_the_flow_up_in_the_same_write(flow: Flow) -> None:
    lease = flow.take().lease
    noted = flow.ledger.note_incident(flow.uuid, "code changed", "m", lease)
    assert noted == flow.record()
    assert (noted.owner, noted.lease_expires_at) == (None, None)
    assert noted.check_at == noted.incident["next_try_at"] > noted.incident["last_at"]
    flow.take()
    again = flow.ledger.note_incident(flow.uuid, "code changed", "late", lease)
    assert again.owner is not None, "whoever was superseded changes nothing"
    assert again.incident["count"] == 1


def test_nobody_rings_for_a_flow_that_rests_after_an_incident(flow: Flow) -> None:
    flow.park()
    flow.other.note_incident(flow.uuid, "factory failed", "m")
    delivered = flow.deliver()
    assert delivered.items[0].disposition is Disposition.ACCEPTED
    assert not delivered.must_ring
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.changes())
    flow.ledger.release(lease)
    assert flow.deliver(attempt=2).must_ring, "the incident is over"


def list_flows(store: Store, limit: int = 100, **wanted: Any) -> list[str]:
    """Return the uuids of all flows, read page by page."""
    found: list[r.FlowRecord] = []
    after = None
    while page := list(store.other.flows(r.FlowPage(limit=limit, after=after, **wanted))):
        assert len(page) <= limit
        found += page
        after = r.place_of_flow(page[-1])
    return [record.flow_uuid for record in found]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_flows_are_listed_in_pages_incidents_first_then_the_newest(
    store: Store, limit: int
) -> None:
    flows = [make_flow(store) for _ in range(6)]
    for flow in flows:
        flow.park()
    for flow in (flows[1], flows[4]):
        store.ledger.note_incident(flow.uuid, "factory failed", "m")
    wanted = [flows[n].uuid for n in (4, 1, 5, 3, 2, 0)]
    assert list_flows(store, limit) == wanted
    assert list_flows(store, limit, only_incidents=True) == wanted[:2]
    assert list_flows(store, limit, state=DELAYED) == wanted
    assert list_flows(store, limit, state=states.SUCCESS) == []


def test_flows_are_listed_by_the_state_that_is_lived(store: Store) -> None:
    parked, running, resting, ended, given_up, expired = (make_flow(store) for _ in range(6))
    woken, asked, rested, halted, begun, manual = (make_flow(store) for _ in range(6))
    parked.park()
    running.take()
    for flow in (woken, asked):
        flow.park()
        flow.take()
    store.ledger.set_wish(asked.uuid, r.WISH_SUSPEND, None)
    lease = rested.take().lease
    rested.ledger.commit(lease, rested.opening(), RESTS)
    lease = halted.take().lease
    halted.ledger.commit(lease, halted.changes())
    halted.ledger.release(lease)
    store.ledger.set_wish(halted.uuid, r.WISH_SUSPEND, None)
    lease = begun.take().lease
    begun.ledger.commit(lease, begun.changes())
    store.ledger.set_wish(begun.uuid, r.WISH_SUSPEND, None)
    newcomer = dataclasses.replace(manual.request().newcomer, has_factory=False)
    manual.ledger.commit(manual.take(newcomer=newcomer).lease, manual.opening(), PARKS)
    manual.take()
    resting.park()
    store.ledger.set_wish(resting.uuid, r.WISH_SUSPEND, None)
    lease = ended.take().lease
    ended.ledger.commit(lease, ended.changes(flow_state=states.SUCCESS), SUCCEEDS)
    lease = given_up.take().lease
    given_up.ledger.commit(lease, given_up.changes())
    given_up.ledger.release(lease)
    expired.park()
    expired.take(seconds=0.001)
    wait_until(lambda: not rules.has_owner(expired.record(), store.ledger.now()))
    wanted = {
        DELAYED: {parked.uuid, expired.uuid},
        states.RUNNING: {one.uuid for one in (running, given_up, woken, asked, begun, manual)},
        states.SUSPENDED: {one.uuid for one in (resting, rested, halted)},
        states.SUCCESS: {ended.uuid},
        states.PENDING: set(),
        states.FAILURE: set(),
        states.REVERTED: set(),
    }
    for has_been_looked_after in (False, True):
        assert {state: set(list_flows(store, 2, state=state)) for state in wanted} == wanted
        if not has_been_looked_after:
            for owned in (asked, manual, woken, begun):
                owned.other.tend(owned.uuid, rings=True)
    everything = list_flows(store)
    for state in (DELAYED, states.RUNNING, states.SUSPENDED):
        in_order = [one for one in everything if one in wanted[state]]
        assert list_flows(store, 2, state=state) == in_order


def test_flows_incidents_and_waits_are_counted(store: Store) -> None:
    assert store.other.tally(10) == r.Tally(states={}, at_least=frozenset(), incidents=0, waiting=0)
    parked, running, resting, ended = (make_flow(store, name=f"n-{n}") for n in range(4))
    for flow in (parked, running, resting):
        flow.park()
    running.take()
    store.ledger.set_wish(resting.uuid, r.WISH_SUSPEND, None)
    store.ledger.note_incident(parked.uuid, "factory failed", "m")
    lease = ended.take().lease
    ended.ledger.commit(lease, ended.changes(flow_state=states.SUCCESS), SUCCEEDS)
    found = store.other.tally(10)
    assert found.states == {DELAYED: 1, states.RUNNING: 1, states.SUSPENDED: 1, states.SUCCESS: 1}
    assert (found.incidents, found.waiting, found.at_least) == (1, 3, frozenset())
    assert store.other.tally(1).at_least
    assert store.other.tally(2).waiting == 2
    names = store.other.flow_names({parked.uuid, ended.uuid, "nobody"})
    assert names == {flow.uuid: flow.record().flow_name for flow in (parked, ended)}
    assert store.other.flow_names(set()) == {}


def test_times_of_atoms_are_told_where_taskflow_keeps_them(store: Store) -> None:
    flow = make_flow(store)
    flow.park()
    found = store.other.atom_times(flow.uuid)
    if store.name in ("sqlite", "postgresql", "mysql"):
        ((created_at, changed_at),) = found.values()
        now = store.ledger.now()
        assert now - 60e6 < (created_at or 0) < now + 60e6
        assert changed_at is None or changed_at >= (created_at or 0) - 1e6
    else:
        assert found == {}
    assert store.other.atom_times("nobody") == {}


def test_uuids_are_of_all_that_the_ledger_has_to_do_with(store: Store) -> None:
    flows = [make_flow(store) for _ in range(5)]
    stray = make_flow(store)
    for flow in flows:
        flow.park()
    wanted = sorted(flow.uuid for flow in flows)
    found: list[str] = []
    while page := store.other.flow_uuids(found[-1] if found else "", 2):
        found += page
    assert found == wanted
    assert stray.uuid not in found, "a flow that no lazy engine ever had in hand"


def test_first_job_gives_the_flow_its_name_for_good(flow: Flow) -> None:
    def newcomer(name: str) -> r.Newcomer:
        key_id = flow.ledger.signing_key().key_id
        return r.Newcomer(
            flow_name="flow", has_factory=True, key_id=key_id, job_name=name, job_priority="HIGH"
        )

    flow.ledger.release(flow.take(newcomer=newcomer("first")).lease)
    flow.take(newcomer=newcomer("second"))
    assert (flow.record().job_name, flow.record().job_priority) == ("first", "HIGH")


# -- purging ---------------------------------------------------------------


def test_purge_deletes_what_ended_before_and_nothing_else(store: Store) -> None:
    ended, parked, running = (make_flow(store) for _ in range(3))
    ended.ledger.commit(ended.take().lease, ended.opening(), SUCCEEDS)
    parked.park()
    running.take()
    before = parked.snapshot(), running.snapshot()
    assert store.ledger.purge(ended.record().ended_at) == 0, "ended at, not before, that instant"
    assert store.ledger.purge(store.ledger.now() + 1_000_000) == 1
    assert (ended.other.flow(ended.uuid), ended.other.detail(ended.uuid)) == (None, None)
    assert list(ended.other.delays_of(ended.uuid)) == []
    assert (parked.snapshot(), running.snapshot()) == before
    with contextlib.closing(store.backend.get_connection()) as connection:
        assert len(list(connection.get_logbooks(lazy=True))) == 2


def test_purge_takes_page_after_page_and_may_be_ended_between_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PURGE_PAGE", 3)
    key_id = store.ledger.signing_key().key_id
    for _ in range(8):
        detail = models.FlowDetail("flow", str(uuid.uuid4()))
        detail.meta = {}
        book = models.LogBook("book")
        store.ledger.submit(r.Submission(detail=detail, book=book, key_id=key_id, is_rung=False))
        flow = Flow(store.ledger, store.other, detail.uuid, detail, models.TaskDetail("t", "t"))
        store.ledger.commit(flow.take().lease, flow.changes(), SUCCEEDS)
    told: list[int] = []
    in_pages = "memory" not in store.name
    if in_pages:

        def end(count: int) -> None:
            told.append(count)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.ledger.purge(store.ledger.now() + 1_000_000, end)
        assert told == [3]
        told.clear()
    left = 5 if in_pages else 8
    assert store.ledger.purge(store.ledger.now() + 1_000_000, told.append) == left
    assert told == ([3, 5] if in_pages else [8])
    assert store.ledger.purge(store.ledger.now() + 1_000_000) == 0


def test_flow_that_runs_again_is_not_purged(flow: Flow) -> None:
    lease = flow.take().lease
    flow.ledger.commit(lease, flow.changes(flow_state=states.SUCCESS), SUCCEEDS)
    again = flow.take(may_rerun=True).lease
    assert flow.ledger.purge(flow.ledger.now() + 1_000_000) == 0
    flow.begin(again)


# -- submitting ------------------------------------------------------------


def test_submitting_twice_is_one_flow(store: Store) -> None:
    key_id = store.ledger.signing_key().key_id
    detail = models.FlowDetail("first", str(uuid.uuid4()))
    detail.meta = {"factory": {"name": "a.b"}}
    wanted = r.Submission(detail=detail, book=models.LogBook("b"), key_id=key_id, is_rung=True)
    record, is_new = store.ledger.submit(wanted)
    assert (is_new, record.state, record.has_factory) == (True, states.PENDING, True)
    assert record.rung_at is not None
    second = models.FlowDetail("second", detail.uuid)
    second.meta = {}
    again, is_new = store.other.submit(dataclasses.replace(wanted, detail=second))
    assert (is_new, again.flow_name) == (False, "first")
    assert store.other.detail(detail.uuid).name == "first"


# -- keys ------------------------------------------------------------------


def test_keys_are_made_once_by_many_threads_at_the_same_time(store: Store) -> None:
    found = at_once(*(one.signing_key for one in [store.ledger, store.other] * 4))
    assert len({(key.key_id, key.secret) for key in found}) == 1
    (again, *_) = found
    assert store.other.signing_key(again.key_id) == again


def test_unknown_key_is_an_invalid_token(store: Store) -> None:
    with pytest.raises(errors.InvalidToken):
        store.ledger.signing_key("nobody")


def test_store_tells_what_it_guarantees(store: Store) -> None:
    guarantees = store.ledger.guarantees
    is_memory = "memory" in store.name
    assert guarantees.store == ("memory" if is_memory else store.name)
    assert guarantees.needs_json is not is_memory
    assert guarantees.is_durable is not is_memory
    assert guarantees.is_shared is not is_memory
    assert guarantees.has_clock is (store.name != "zookeeper")


def test_store_that_needs_json_refuses_the_rest(store: Store) -> None:
    if not store.ledger.guarantees.needs_json:
        assert store.ledger.decode(store.ledger.encode(Result({1, 2}))) == {1, 2}
        return
    for value in ({1, 2}, float("nan"), {1: 2}, b"bytes", object()):
        with pytest.raises(errors.OutcomeNotStorable):
            store.ledger.encode(Result(value))


def test_too_large_outcome_is_refused_at_the_byte(store: Store) -> None:
    fits = "x" * (store.ledger.max_outcome_bytes - 2)
    store.ledger.encode(Result(fits))
    with pytest.raises(errors.OutcomeTooLarge):
        store.ledger.encode(Result(fits + "x"))


# -- several processes -----------------------------------------------------


#: Stands ready before it says so, and opens the store when it is told to.
OPEN_AND_SIGN = """
import contextlib, sys
from lazy_engine import ledger
from lazy_engine.access import open_backend
print("ready", flush=True)
sys.stdin.readline()
backend = open_backend(sys.argv[1])
with contextlib.closing(backend), contextlib.closing(ledger.beside(backend)) as opened:
    key = opened.signing_key()
print(key.key_id, key.secret.hex())
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql", "dir", "zookeeper"])
def test_tables_and_key_are_made_once_by_several_processes_at_once(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    with contextlib.ExitStack() as stack:
        opening = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", OPEN_AND_SIGN, url],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        for process in opening:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        keys = {process.communicate("go\n", timeout=120)[0] for process in opening}
    assert {process.returncode for process in opening} == {0}
    assert len(keys) == 1


def test_newer_tables_are_refused(sqlite_url: str) -> None:
    backend = open_backend(sqlite_url)
    with contextlib.closing(backend):
        only = ledger.beside(backend)
        only._transactor.write(lambda c: c.execute(sa.text("UPDATE lazy_facts SET value = '999'")))
        only.close()
    backend = backends.fetch({"connection": sqlite_url})
    with contextlib.closing(backend), pytest.raises(errors.StoreUnavailable, match="version 999"):
        ledger.beside(backend)


def test_missing_host_tables_are_named(sqlite_url: str) -> None:
    backend = backends.fetch({"connection": sqlite_url})
    with contextlib.closing(backend), pytest.raises(errors.StoreUnavailable, match="init"):
        ledger.beside(backend)


def test_one_backend_has_one_ledger_whoever_asks(sqlite_url: str) -> None:
    backend = open_backend(sqlite_url)
    with contextlib.closing(backend):
        backend.__dict__.pop("_lazy_engine_ledger").close()
        found = at_once(*[lambda: ledger.beside(backend)] * 6)
        assert len({id(one) for one in found}) == 1
        found[0].close()


# -- the keeper ------------------------------------------------------------


def _hold(lease: r.Lease, **changes: Any) -> Any:
    from lazy_engine.ledger.keeper import Hold

    nothing: dict[str, Any] = {
        "is_active": lambda: True,
        "on_pulse": lambda _pulse: None,
        "on_lost": lambda: None,
        "flush": lambda: None,
    }
    return Hold(lease=lease, **{**nothing, **changes})


def test_keeper_renews_an_active_lease(flow: Flow) -> None:
    lease = flow.take(seconds=A_SHORT_LEASE).lease
    first = flow.record().lease_expires_at
    pulses: list[r.Pulse] = []
    hold = _hold(lease, on_pulse=pulses.append)
    flow.ledger.keeper.hold(hold)
    try:
        wait_until(lambda: flow.record().lease_expires_at > first + 3 * A_SHORT_LEASE * 1e6)
        assert pulses
    finally:
        flow.ledger.keeper.let_go(hold)


def test_keeper_lets_an_idle_lease_run_out(flow: Flow) -> None:
    lease = flow.take(seconds=A_SHORT_LEASE).lease
    hold = _hold(lease, is_active=lambda: False)
    flow.ledger.keeper.hold(hold)
    try:
        wait_until(lambda: isinstance(flow.other.take(flow.request()), r.Taken))
    finally:
        flow.ledger.keeper.let_go(hold)


def test_keeper_tells_an_owner_that_was_superseded(flow: Flow) -> None:
    lease = flow.take(owner="me", seconds=A_SHORT_LEASE).lease
    flow.take(owner="me")
    lost = threading.Event()
    hold = _hold(lease, on_lost=lost.set)
    flow.ledger.keeper.hold(hold)
    try:
        assert lost.wait(timeout=10)
    finally:
        flow.ledger.keeper.let_go(hold)


def test_progress_that_cannot_be_written_does_not_stop_renewals(flow: Flow) -> None:
    """What a task gives as progress may be anything; other flows' leases must not depend on it."""

    def flush() -> None:
        raise ValueError("Cannot convert <object> to primitive")

    lease = flow.take(seconds=A_SHORT_LEASE).lease
    hold = _hold(lease, flush=flush)
    flow.ledger.keeper.hold(hold)
    hold.flush_due = 0.0
    try:
        wait_until(lambda: hold.flush_due > 0.0, what="the flush")
        seen = flow.record().lease_expires_at
        wait_until(lambda: flow.record().lease_expires_at > seen + 2 * A_SHORT_LEASE * 1e6)
    finally:
        flow.ledger.keeper.let_go(hold)
