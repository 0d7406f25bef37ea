# SPDX-License-Identifier: Apache-2.0
"""What every ledger promises of having a flow run on: its rest ends and it is rung for in one write."""

from __future__ import annotations

from taskflow import states

from lazy_engine.ledger import record as r
from tests.contract.stored import PARKS, RESTS, SUCCEEDS, Flow, Store, answer_lost_once


def wake(flow: Flow, *, rings: bool = True) -> r.Woken:
    woken = flow.other.wake(flow.uuid, rings=rings)
    assert woken is not None
    return woken


def rest(flow: Flow) -> None:
    """Suspend a flow in the middle, and let its owner give it up."""
    lease = flow.take().lease
    flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, "holiday")
    assert flow.ledger.commit(lease, flow.changes(), RESTS).has_ended


def wants_owner(flow: Flow, *, rings: bool = True) -> bool:
    if flow.uuid not in flow.other.due(100):
        return False
    return bool(flow.other.tend(flow.uuid, rings=rings).wants_owner)


def test_wake_ends_the_rest_and_notes_the_ring_in_one_write(flow: Flow) -> None:
    rest(flow)
    woken = wake(flow)
    assert (woken.must_ring, woken.has_owner) == (True, False)
    stored = flow.record()
    assert (stored.wish, stored.wish_reason) == (None, None)
    assert stored.rung_at is not None
    assert stored.rung_at == woken.record.rung_at
    flow.take()


def test_doorbell_that_a_crash_kept_from_being_posted_is_found(flow: Flow, store: Store) -> None:
    rest(flow)
    assert wake(flow).must_ring  # and whoever was to post it dies
    assert not wants_owner(flow)
    store.set_clock(61)
    assert wants_owner(flow)


def test_wake_that_nobody_rings_for_is_found(flow: Flow, store: Store) -> None:
    rest(flow)
    assert not wake(flow, rings=False).must_ring
    store.set_clock(61)
    assert wants_owner(flow, rings=False)


def test_wake_of_a_resting_incident_is_not_lost_with_its_doorbell(flow: Flow, store: Store) -> None:
    flow.park()
    for _ in range(30):  # until it is left for a person
        record = flow.other.note_incident(flow.uuid, "code broken", "no")
        if record.incident["next_try_at"] is None:
            break
        store.set_clock((record.incident["next_try_at"] - store.ledger.now()) / 1e6 + 1)
    store.set_clock(10**6)
    assert not wants_owner(flow)
    assert wake(flow).must_ring
    assert flow.record().incident is not None, "it holds until the flow has run"
    store.set_clock(10**6 + 61)
    assert wants_owner(flow)


def test_wake_rings_again_however_often_it_is_asked_for(flow: Flow, store: Store) -> None:
    flow.park()
    assert [wake(flow).must_ring for _ in range(5)] == [True] * 5
    store.set_clock(61)
    assert wants_owner(flow)


def test_owner_that_lives_is_told_and_nobody_rings(flow: Flow) -> None:
    lease = flow.take().lease
    flow.other.set_wish(flow.uuid, r.WISH_SUSPEND, None)
    woken = wake(flow)
    assert (woken.must_ring, woken.has_owner) == (False, True)
    assert flow.ledger.pulse(lease).wish is None
    assert flow.ledger.commit(lease, flow.opening(), PARKS).has_ended


def test_wake_takes_no_cancelling_back(flow: Flow) -> None:
    flow.park()
    flow.other.cancel(flow.uuid, "enough", rings=True)
    assert wake(flow).must_ring
    assert (flow.record().wish, flow.record().wish_reason) == (r.WISH_CANCEL, "enough")


def test_flow_that_is_over_or_unknown_is_not_woken(flow: Flow) -> None:
    assert flow.other.wake(flow.uuid, rings=True) is None
    flow.ledger.commit(flow.take().lease, flow.changes(), SUCCEEDS)
    before = flow.snapshot()
    woken = wake(flow)
    assert (woken.must_ring, woken.has_owner) == (False, False)
    assert woken.record.state == states.SUCCESS
    assert flow.snapshot() == before


def test_flow_without_a_factory_is_left_to_whoever_can_make_it(flow: Flow) -> None:
    newcomer = r.Newcomer(
        flow_name="flow", has_factory=False, key_id=flow.ledger.signing_key().key_id
    )
    lease = flow.take(newcomer=newcomer).lease
    flow.ledger.commit(lease, flow.opening(), PARKS)
    assert not wake(flow).must_ring


def test_answer_to_a_wake_that_was_lost_is_asked_for_again(flow: Flow, store: Store) -> None:
    store.only_shared()
    rest(flow)
    with answer_lost_once(flow.other):
        assert wake(flow).must_ring
    assert flow.record().wish is None
