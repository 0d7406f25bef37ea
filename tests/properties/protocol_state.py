# SPDX-License-Identifier: Apache-2.0
"""What the model of the protocol is made of, and what it asks the real rules; see ``protocol_model``."""

from __future__ import annotations

import dataclasses
import functools
from typing import Final, NamedTuple

from taskflow import states

from lazy_engine import rules
from lazy_engine.ledger import record as r
from lazy_engine.ledger.desk import META_ATTEMPTS, Desk
from lazy_engine.outcome import Encoded
from lazy_engine.receipt import Disposition
from lazy_engine.token import EXECUTE, DelayKey

NOBODY: Final = -1
DEAD: Final = -2  # holds a lease and will never come back
EVERYBODY: Final = -3  # has the newest epoch, under a mutation
OTHER: Final = 99  # rang, and is no deliverer
FAILS: Final = "failure"  # an outcome that makes the task's retry controller try again

CALM: Final[tuple[str, ...]] = ()
_NOW: Final = 1_000_000_000

#: More than are posted for all outcomes, and for all rings that can be lost.
MOST_JOBS: Final = 6


class Row(NamedTuple):
    """The flow's row. ``newest`` is whose epoch it has; ``is_lost``, whether a ring was noted and its poster died."""

    owner: int = NOBODY
    is_live: bool = False
    newest: int = NOBODY
    rung: str = ""  # "", "fresh", "stale"
    rung_by: int = NOBODY
    wish: bool = False
    state: str = states.PENDING
    incident: bool = False
    check: str = ""  # when the watchdog is to look: "", "later", "due"
    is_lost: bool = False


class Delay(NamedTuple):
    """A delay's row. ``by`` is the deliverer whose outcome it has."""

    opened: bool = False
    by: int = NOBODY
    absorbed: bool = False
    closed: bool = False

    @property
    def waits_for_owner(self) -> bool:
        return self.by != NOBODY and not self.absorbed and not self.closed


class Atom(NamedTuple):
    state: str = states.PENDING
    attempt: int = 0


class Owner(NamedTuple):
    """A conductor, or somebody who calls ``resume``; and the engine that it runs. Keys are numbers of delays."""

    phase: str = "idle"
    has_job: bool = False
    atoms: tuple[Atom, ...] = ()
    inbox: tuple[int, ...] = ()
    early: tuple[int, ...] = ()
    was_early: tuple[int, ...] = ()
    opened: tuple[int, ...] = ()
    absorbed: tuple[int, ...] = ()
    closed: tuple[int, ...] = ()
    stops: bool = False


class Deliverer(NamedTuple):
    phase: str = "waits"  # "repeats", "posts", "failed", "done"; of mutations: "saw", "posted"
    seen: tuple[Row, Delay] | None = None


class System(NamedTuple):
    row: Row
    delays: tuple[Delay, ...]
    atoms: tuple[Atom, ...]
    jobs: int  # on the board, claimed by nobody
    owners: tuple[Owner, ...]
    deliverers: tuple[Deliverer, ...]
    told: frozenset[int]  # whose tokens have been handed out
    budget: tuple[int, ...]


#: What may happen, as often as a scenario's budget says.
FAULTS: Final = (
    "crash",  # of an owner, or of somebody about to post
    "slow",  # a lease runs out although its owner lives
    "stale",  # a ring grows stale although its job is under way
    "unposted",
    "unanswered",  # a transaction is carried out, and its answer is lost
    "stop",  # an engine is asked to suspend
    "suspend",  # somebody asks for the flow to rest
    "incident",
    "failure",  # of a run, as when the store is away for a while
)


class Violation(Exception):
    """Something happened that an invariant forbids."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A flow, and who answers what.

    :ivar after: for each of its tasks, which task must have succeeded before (or -1).
    :ivar keys: task and attempt of every delay there can be.
    :ivar answers: delay and value, for each deliverer.
    :ivar fickle: tasks that may answer at once when they are executed.
    """

    name: str
    after: tuple[int, ...]
    keys: tuple[tuple[int, int], ...]
    answers: tuple[tuple[int, str], ...]
    fickle: tuple[int, ...] = ()
    faults: tuple[str, ...] = CALM
    has_watchdog: bool = False
    mutation: str = ""

    @property
    def later(self) -> str:
        """What is noted for the watchdog, where there is one."""
        return "later" if self.has_watchdog else ""

    @property
    def start(self) -> System:
        return System(
            # Submitted, and the job is on its way.
            row=Row(rung="fresh", rung_by=OTHER, check=self.later),
            delays=(Delay(),) * len(self.keys),
            atoms=(Atom(),) * len(self.after),
            jobs=0,
            owners=(Owner(), Owner()),
            deliverers=(*(Deliverer(),) * len(self.answers), Deliverer("posts")),
            told=frozenset(),
            budget=tuple(self.faults.count(fault) for fault in FAULTS),
        )


# -- what the real rules say ------------------------------------------------------


def _flow_record(row: Row) -> r.FlowRecord:
    rung_at = {"": None, "fresh": _NOW - 100, "stale": 100}[row.rung]
    return r.FlowRecord(
        flow_uuid="f",
        flow_name="flow",
        owner=None if row.owner == NOBODY else str(row.owner),
        lease_expires_at=None if row.owner == NOBODY else _NOW + (1 if row.is_live else 0),
        rung_at=None if rung_at is None else rung_at + row.rung_by,
        wish=r.WISH_SUSPEND if row.wish else None,
        state=row.state,
        has_factory=True,
        check_at={"": None, "later": _NOW + 10, "due": _NOW - 10}[row.check],
    )


@functools.cache
def may_ring(row: Row) -> bool:
    return rules.may_ring(_flow_record(row), _NOW)


@functools.cache
def has_owner(row: Row) -> bool:
    return rules.has_owner(_flow_record(row), _NOW)


@functools.cache
def is_over(row: Row) -> bool:
    return rules.is_over(_flow_record(row))


@functools.cache
def tend(row: Row) -> tuple[str, bool]:
    """Ask the real rules what the watchdog does: when to look again, and whether to ring."""
    after, wants_owner = rules.tend(_flow_record(row), _NOW, has_news=False, rings=True)
    return "" if after.check_at is None else "later", wants_owner


@functools.cache
def is_watched_after(row: Row, state: str, is_final: bool, has_arrivals: bool) -> bool:
    """Ask the real rules whether the watchdog has to look at a flow that was given up so."""
    ending = r.Ending(state=state, is_final=is_final, absorbs=state != states.SUSPENDED)
    after = rules.parked(_flow_record(row), ending, _NOW, has_arrivals=has_arrivals)
    return after.check_at is not None


@functools.cache
def receive(
    row: Row, delay: Delay, atom: Atom, attempt: int, who: int, values: tuple[str, ...]
) -> tuple[Disposition, bool, bool]:
    """Let the real desk judge one delivery; return what it says, whether it records it, and whether to ring."""
    key = DelayKey(flow_uuid="f", atom_uuid="a", kind=EXECUTE, attempt=attempt)
    flow = _flow_record(row)
    # The desk knows its own earlier try by two instants that are the same.
    arrived_at = flow.rung_at if row.rung_by == delay.by else 1
    desk = Desk(flow, _NOW, 1)
    if delay != Delay():
        desk.put_delays([_delay_record(key, delay, values, arrived_at)])
    desk.put_atoms({"a": ("t", atom.state, {META_ATTEMPTS: {EXECUTE: atom.attempt}})})
    told = desk.receive(
        r.Delivery(key=key, outcome=_encoded(values[who]), delivery_id=f"deliverer {who}")
    )
    rings = desk.calls_for_owner and rules.may_ring(desk.flow, _NOW)
    return told.disposition, key in desk.arrived, rings


def _encoded(value: str) -> Encoded:
    return Encoded("result", value, f"digest of {value}")


def _delay_record(
    key: DelayKey, delay: Delay, values: tuple[str, ...], arrived_at: int | None
) -> r.DelayRecord:
    has_come = delay.by != NOBODY
    return r.DelayRecord(
        key=key,
        task_name="t",
        opened_at=1 if delay.opened else None,
        outcome=_encoded(values[delay.by]) if has_come else None,
        arrived_at=arrived_at if has_come else None,
        delivery_id=f"deliverer {delay.by}" if has_come else None,
        absorbed_at=2 if delay.absorbed else None,
        closed_at=3 if delay.closed else None,
    )


def put(items: tuple[object, ...], index: int, item: object) -> tuple[object, ...]:
    return (*items[:index], item, *items[index + 1 :])
