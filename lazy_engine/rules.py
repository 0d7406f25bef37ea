# SPDX-License-Identifier: Apache-2.0
"""Every rule of the protocol between owners, deliverers and rings.

Theory of operation
===================

A flow has at most one *owner*: the engine whose epoch is the flow's newest.
Taking the lease raises the epoch by one, and every commit names the epoch it
was made under, so that an owner that was superseded cannot write any more,
however long it slept. It names the owner as well: a store that is restored from
a backup comes to the same epochs again, and never to the same owner. The *expiry*
of a lease only says when somebody else may take it; it fences nobody.

Deliverers never own anything. They write an outcome beside the flow, in a
transaction that begins by writing the flow's own record. Owners do the same
with every commit. So a delivery and a commit of one flow have an order, and
one of two things is true of a flow that is about to be parked: the delivery
came first, and the owner sees it and goes on; or the parking came first, and
the deliverer sees a flow without an owner and rings.

This module knows no I/O and no clock. The ledgers ask it; the documentation's
tables are drawn from it.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from taskflow import states

from lazy_engine.delay import DELAYED
from lazy_engine.ledger.record import (
    WISH_CANCEL,
    WISH_SUSPEND,
    DelayRecord,
    Ending,
    FlowRecord,
    Submission,
)
from lazy_engine.receipt import Disposition
from lazy_engine.token import EXECUTE

#: Lived states in which a flow is over.
FINAL_STATES: Final = frozenset((states.SUCCESS, states.FAILURE, states.REVERTED))

#: How long a doorbell that was asked for counts as under way. Somebody who
#: died between noting and posting it delays the next ring by at most this.
RING_FRESH_SECONDS: Final = 60.0

#: A doorbell that nobody answers is repeated ever less often, down to this:
#: conductors that were away for a day must not find a day's doorbells.
LONGEST_RING_SECONDS: Final = 3600.0

#: Flow states beside TaskFlow's own pairs (``taskflow/states.py``): from, to,
#: and whether the change is made (or silently left out).
FLOW_TRANSITIONS: Final = {
    (states.RUNNING, DELAYED): True,
    (states.SUSPENDING, DELAYED): True,
    (DELAYED, states.RUNNING): True,
    (DELAYED, states.SUSPENDED): False,
    (DELAYED, states.SUSPENDING): False,
    (DELAYED, states.RESUMING): False,
}


def moves(old_state: str, new_state: str) -> bool:
    """Return whether a flow goes from one state to the other.

    :raises taskflow.exceptions.InvalidState: for a pair nobody allows.
    """
    try:
        return FLOW_TRANSITIONS[old_state, new_state]
    except KeyError:
        return bool(states.check_flow_transition(old_state, new_state))


def has_owner(flow: FlowRecord, now: int) -> bool:
    """Whether somebody holds a lease that has not run out."""
    return flow.owner is not None and (flow.lease_expires_at or 0) > now


def is_over(flow: FlowRecord) -> bool:
    """Whether the flow has ended for good."""
    return flow.state in FINAL_STATES


def is_suspended(flow: FlowRecord) -> bool:
    """Whether somebody asked for the flow to rest until it is resumed."""
    return flow.wish == WISH_SUSPEND


def is_cancelled(flow: FlowRecord) -> bool:
    """Whether somebody asked for the flow to be called off."""
    return flow.wish == WISH_CANCEL


def takes_none(flow: FlowRecord, kind: str) -> bool:
    """Whether no outcome can reach a delay of that kind any more.

    A flow that was called off is reverted, and a ``revert`` may wait too: the
    outside still answers those delays.

    :param kind: ``execute`` or ``revert``.
    """
    return is_over(flow) or (is_cancelled(flow) and kind == EXECUTE)


def is_rung(flow: FlowRecord, now: int) -> bool:
    """Whether a doorbell was asked for so recently that it must be under way.

    Where a store has no clock the instant is the ringer's own. One that lies
    far ahead tells of a clock that is wrong, not of a ring: a superfluous
    doorbell does no harm, and a missing one would last as long as the clock
    is ahead.
    """
    return flow.rung_at is not None and abs(now - flow.rung_at) < RING_FRESH_SECONDS * 1e6


def rests(flow: FlowRecord, now: int) -> bool:
    """Whether a flow that could not be run is to be left alone for now, or for good."""
    if flow.incident is None:
        return False
    next_try_at = flow.incident["next_try_at"]
    return next_try_at is None or next_try_at > now


def lived_state(flow: FlowRecord, now: int) -> str:
    """Return a flow's state as it is lived."""
    if is_over(flow):
        return flow.state
    if has_owner(flow, now):
        return str(states.RUNNING)
    return str(states.SUSPENDED) if is_suspended(flow) else flow.state


def may_ring(flow: FlowRecord, now: int) -> bool:
    """Whether an outcome for this flow calls for a new doorbell.

    Not while an owner lives (it will see the outcome before it parks), not
    while another doorbell is under way, not while the flow rests after an
    incident (the watchdog rings when that is over), and not for a flow that a
    conductor could not run: suspended, over, or without a factory.
    """
    return not (
        has_owner(flow, now)
        or is_rung(flow, now)
        or is_suspended(flow)
        or is_over(flow)
        or rests(flow, now)
        or not flow.has_factory
    )


def is_called(flow: FlowRecord, now: int) -> bool:
    """Whether somebody called for an owner, and none has come yet.

    Not where something else keeps the flow from being run: it is suspended, or has an incident.
    """
    return flow.check_at is not None and not (
        has_owner(flow, now) or is_suspended(flow) or is_over(flow) or flow.incident is not None
    )


def submitted(submission: Submission, now: int) -> FlowRecord:
    """Return a flow that nobody has run, as it is stored first."""
    detail, book = submission.detail, submission.book
    flow = FlowRecord(
        flow_uuid=detail.uuid,
        flow_name=detail.name,
        key_id=submission.key_id,
        has_factory=True,
        book_uuid=book.uuid,
        book_name=book.name,
        created_at=now,
        changed_at=now,
    )
    return ring(flow, now) if submission.is_rung else flow


def ring(flow: FlowRecord, now: int) -> FlowRecord:
    """Return a flow for which a doorbell is about to be posted."""
    fresh_seconds = min(LONGEST_RING_SECONDS, RING_FRESH_SECONDS * 2.0 ** min(flow.rings, 16))
    return dataclasses.replace(
        flow, rung_at=now, rings=flow.rings + 1, check_at=now + int(fresh_seconds * 1e6)
    )


def call(flow: FlowRecord, now: int, *, rings: bool) -> tuple[FlowRecord, bool]:
    """Call for an owner, for something came that somebody must see to.

    :param rings: whether the caller can post a doorbell.
    :returns: the flow as it is to be written, and whether a doorbell is to be posted.
    """
    if rings:
        return (ring(flow, now), True) if may_ring(flow, now) else (flow, False)
    # Whoever runs flows by hand may well know how to make one without a factory.
    is_missed = may_ring(dataclasses.replace(flow, has_factory=True), now)
    return (leave_to_watchdog(flow, now) if is_missed else flow), False


def wake(flow: FlowRecord, now: int, *, rings: bool) -> tuple[FlowRecord, bool]:
    """End a flow's suspension, and have it run on whatever it waits for.

    Rings though a doorbell may be under way, and though the flow rests after an
    incident: somebody asks for it. Should that doorbell get lost, the watchdog
    rings as for any other.

    :param rings: whether the caller can post a doorbell.
    :returns: the flow as it is to be written, and whether a doorbell is to be posted.
    """
    if is_over(flow):
        return flow, False
    if not is_cancelled(flow):
        flow = dataclasses.replace(flow, wish=None, wish_reason=None)
    if flow.incident is not None and rests(flow, now):
        flow = dataclasses.replace(flow, incident={**flow.incident, "next_try_at": now})
    if has_owner(flow, now):
        return flow, False
    flow = dataclasses.replace(flow, rings=0)  # should this one get lost, the next comes soon
    if rings and flow.has_factory:
        return ring(flow, now), True
    return leave_to_watchdog(flow, now), False


def cancel(flow: FlowRecord, reason: str, now: int, *, rings: bool) -> tuple[FlowRecord, bool]:
    """Note that somebody asks for a flow to be called off, and call for an owner who does it.

    :param flow: one that is neither over nor cancelled.
    :param rings: whether the caller can post a doorbell.
    :returns: the flow as it is to be written, and whether a doorbell is to be posted.
    """
    wanted = dataclasses.replace(flow, wish=WISH_CANCEL, wish_reason=reason, changed_at=now)
    return call(wanted, now, rings=rings)


def unring(flow: FlowRecord, now: int) -> FlowRecord:
    """Return a flow whose doorbell could not be posted after all.

    It does not count among those that nobody answered: when the board is back
    after a long time, the next one must not wait for an hour.
    """
    if flow.rung_at is None:  # somebody has taken the lease since
        return flow
    quiet = dataclasses.replace(flow, rung_at=None, rings=max(0, flow.rings - 1))
    return leave_to_watchdog(quiet, now)


def released(flow: FlowRecord, now: int) -> FlowRecord:
    """Return a flow whose owner gave it up in the middle.

    Whoever does so should see to it; should it not, the watchdog does, the
    less often the more often the flow could not be run.
    """
    failures = flow.incident["count"] if flow.incident else 0
    pause_seconds = min(LONGEST_RING_SECONDS, RING_FRESH_SECONDS * 2.0 ** min(failures, 16))
    check_at = now + int(pause_seconds * 1e6)
    return dataclasses.replace(flow, owner=None, lease_expires_at=None, check_at=check_at)


def leave_to_watchdog(flow: FlowRecord, now: int) -> FlowRecord:
    """Return a flow that wants an owner, for which whoever says so cannot ring.

    The caller is expected to run it; should it die first, the watchdog finds it.
    """
    later = now + int(RING_FRESH_SECONDS * 1e6)
    return dataclasses.replace(flow, check_at=min(flow.check_at or later, later))


def keeps_running(ending: Ending, flow: FlowRecord, *, has_arrivals: bool) -> bool:
    """Whether an owner that wants to end its run must go on.

    :param flow: its record in the very transaction that would end the run.
    """
    if has_arrivals and ending.absorbs:
        return True
    return ending.heeds_cancel and is_cancelled(flow)


def parked(flow: FlowRecord, ending: Ending, now: int, *, has_arrivals: bool) -> FlowRecord:
    """Return a flow whose owner's run has just ended.

    :param has_arrivals: it leaves outcomes behind, as one that was suspended may.
    """
    after = dataclasses.replace(
        flow,
        owner=None,
        lease_expires_at=None,
        rung_at=None,
        rings=0,
        check_at=None,
        state=ending.state,
        ended_at=now if ending.is_final else None,
    )
    # One that was interrupted in being called off can be reverted by nobody but a
    # new owner (one that is DELAYED has been, as far as its compensations allow);
    # nor can anybody else absorb what came while this one lived, and nobody rang.
    is_interrupted = is_cancelled(flow) and ending.state == states.SUSPENDED
    wants_owner = is_interrupted or (has_arrivals and not is_suspended(flow))
    return leave_to_watchdog(after, now) if wants_owner and not ending.is_final else after


def tend(flow: FlowRecord, now: int, *, has_news: bool, rings: bool) -> tuple[FlowRecord, bool]:
    """Say what the watchdog is to do with a flow that it looks at.

    :param has_news: a timer has just given one of its delays an outcome, or
        one of its tasks wants to look for itself.
    :param rings: whether the watchdog can post a doorbell; it says who wants
        an owner in any case.
    :returns: the flow as it is to be written, and whether it wants an owner now.
    """
    # A flow with an owner is always to be looked at again, whatever is asked of it: among
    # those few, lists look for flows that are run though they are stored as waiting.
    if has_owner(flow, now):
        return dataclasses.replace(flow, check_at=flow.lease_expires_at), False
    if is_over(flow) or is_suspended(flow) or (rings and not flow.has_factory):
        return dataclasses.replace(flow, check_at=None), False
    if flow.incident is not None and rests(flow, now):
        return dataclasses.replace(flow, check_at=flow.incident["next_try_at"]), False
    is_due = flow.check_at is not None and flow.check_at <= now
    if not is_due and (not has_news or is_rung(flow, now)):
        return flow, False
    rung = ring(flow, now)
    return (rung if rings else dataclasses.replace(rung, rung_at=flow.rung_at)), True


def attempt_is_over(
    attempt: int, *, stored_attempt: int, stored_state: str | None, stored_is_delayed: bool
) -> bool:
    """Whether an attempt that opened no delay can open one no more.

    The stored attempt may be one behind, since the mark that an attempt has
    begun need not be durable before the attempt itself ends. So a token for a
    *later* attempt than the stored one belongs to an attempt that is running
    now, or that a crash interrupted and that will be executed again.
    """
    if attempt != stored_attempt:
        return attempt < stored_attempt
    return not stored_is_delayed and stored_state not in (states.RUNNING, states.REVERTING)


def judge(
    delay: DelayRecord | None, *, digest: str, takes_none: bool, attempt_is_over: bool
) -> Disposition:
    """Say what becomes of an outcome with that digest, in order of precedence.

    :param delay: the delay's record, or ``None`` if there is none (yet).
    :param takes_none: what :func:`takes_none` says of its flow.
    :param attempt_is_over: counts only where there is no record.
    """
    if delay is not None and delay.outcome is not None and delay.outcome.digest == digest:
        return Disposition.DUPLICATE
    if takes_none or (delay is not None and delay.closed_at is not None):
        return Disposition.LATE
    if delay is None:
        return Disposition.LATE if attempt_is_over else Disposition.EARLY
    if delay.outcome is not None:
        return Disposition.LATE if delay.outcome.is_by_timer else Disposition.CONFLICT
    return Disposition.EARLY if delay.opened_at is None else Disposition.ACCEPTED


def records(disposition: Disposition) -> bool:
    """Whether an outcome so judged becomes the delay's outcome."""
    return disposition in (Disposition.EARLY, Disposition.ACCEPTED)
