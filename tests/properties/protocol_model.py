# SPDX-License-Identifier: Apache-2.0
"""A small model of parking, delivering and waking: one flow, two owners, two or three deliverers, a job board.

What the ledger decides by pure code is asked of that very code here: ``rules`` and ``ledger.desk.Desk`` judge every
delivery of the model. What it decides in SQL (``take``, ``commit``, ``release``, ``unring``) is written down again, one
transaction a step; so is what an engine does between two transactions, and what a conductor does with its job.

Left out, since it changes nothing but timing: the ``pulse`` (an owner of the model looks for arrivals with every
commit), ``linger_seconds``, and taking a dead process' lease before it has run out. Epochs are not counted: a flow's row
knows who took it last, and nobody else's epoch is the newest. So the model is finite, without any bound on its depth.

A step is *due* if it happens sooner or later; all others (crashes, slowness, a stop) may happen or not, and each kind
of them as often as its budget says.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from taskflow import states

from lazy_engine import rules
from lazy_engine.delay import DELAYED
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
    def start(self) -> System:
        return System(
            # Submitted, and the job is on its way.
            row=Row(rung="fresh", rung_by=OTHER),
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


# -- what happens -----------------------------------------------------------------

Step = tuple[str, bool, System]


class Model:
    """All that may happen next in a scenario, under its mutation (if it has one)."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._values = tuple(value for _key, value in scenario.answers)
        self._mutation = scenario.mutation

    def steps(self, system: System) -> Iterator[Step]:
        """Yield each possible step: its name, whether it is due, and where it leads.

        :raises Violation: one of them is forbidden.
        """
        if system.jobs > MOST_JOBS:
            raise Violation("I4", "jobs pile up on the board")
        for who in range(len(system.deliverers)):
            yield from self._deliver(system, who)
        for who in range(len(system.owners)):
            yield from self._own(system, who)
        yield from self._pass_time(system)
        yield from self._watch(system)

    def _may(self, system: System, fault: str) -> System | None:
        index = FAULTS.index(fault)
        if not system.budget[index]:
            return None
        return system._replace(budget=put(system.budget, index, system.budget[index] - 1))

    # -- deliverers -------------------------------------------------------

    def _deliver(self, system: System, who: int) -> Iterator[Step]:
        me = system.deliverers[who]
        name = f"deliverer {who}" if who < len(self._values) else "submitter"
        if me.phase in ("waits", "repeats", "saw", "posted"):
            yield from self._hand_in(system, who, name)
        elif me.phase == "posts":
            posted = self._as(system, who, Deliverer("done"))
            yield f"{name} posts", True, posted._replace(jobs=system.jobs + 1)
            if who < len(self._values) and (broken := self._may(system, "unposted")):
                yield f"{name} cannot post", False, self._as(broken, who, Deliverer("failed"))
            if broken := self._may(system, "crash"):
                row = system.row._replace(is_lost=True)
                dead = self._as(broken, who, Deliverer("done"))
                yield f"{name} dies before posting", False, dead._replace(row=row)
        elif me.phase == "failed":
            row = system.row._replace(rung="", rung_by=NOBODY)
            unrung = self._as(system, who, Deliverer("done"))._replace(row=row)
            yield f"{name} notes that it could not post", True, unrung

    def _hand_in(self, system: System, who: int, name: str) -> Iterator[Step]:
        me = system.deliverers[who]
        index, _value = self.scenario.answers[who]
        if index not in system.told:
            return
        if self._mutation == "token names no attempt":
            index = self._newest_key(system, index)
        if self._mutation == "deliver reads first" and me.phase == "waits":
            seen = (system.row, system.delays[index])
            yield f"{name} reads", True, self._as(system, who, Deliverer("saw", seen))
            return
        if self._mutation == "deliver rings before it records" and me.phase == "waits":
            rung = self._as(system, who, Deliverer("posted"))
            if may_ring(system.row):
                row = system.row._replace(rung="fresh", rung_by=who)
                rung = rung._replace(row=row, jobs=system.jobs + 1)
            yield f"{name} rings", True, rung
            return
        done, told = self._record(system, who, index)
        yield f"{name}: {told.name}", True, done
        if broken := self._may(done, "unanswered"):
            yield (
                f"{name}: {told.name}, and the answer is lost",
                False,
                self._as(broken, who, Deliverer("repeats")),
            )

    def _newest_key(self, system: System, index: int) -> int:
        task = self.scenario.keys[index][0]
        return max(
            number
            for number, (of, attempt) in enumerate(self.scenario.keys)
            if of == task and (number in system.told)
        )

    def _record(self, system: System, who: int, index: int) -> tuple[System, Disposition]:
        """Carry the transaction of a delivery out."""
        task, attempt = self.scenario.keys[index]
        row, delay = system.deliverers[who].seen or (system.row, system.delays[index])
        trusts = self._mutation == "deliver trusts its own ring"
        if system.deliverers[who].phase == "repeats" and row.rung_by == who and not trusts:
            # This very call noted that ring, and nobody was told to post it.
            row = row._replace(rung="", rung_by=NOBODY)
        atom = system.atoms[task]
        told, is_recorded, rings = receive(row, delay, atom, attempt, who, self._values)
        if self._mutation == "last outcome wins" and told is Disposition.CONFLICT:
            is_recorded = True
        if self._mutation == "deliver rings each time":
            rings = rings or (row.rung == "fresh" and may_ring(row._replace(rung="")))
        rings = rings and system.deliverers[who].phase != "posted"
        meant = self.scenario.keys[self.scenario.answers[who][0]]
        if is_recorded and (meant != (task, attempt) or attempt < atom.attempt):
            raise Violation("I5", f"an answer to {meant} was recorded for {(task, attempt)}")
        if is_recorded and system.delays[index].by != NOBODY:
            raise Violation("I2", "an outcome was recorded over another one")
        if rings and system.row.rung == "fresh" and system.row.rung_by != who:
            raise Violation("I4", "a second ring while one is under way")
        after = self._as(system, who, Deliverer("posts" if rings else "done"))
        if is_recorded:
            stored = system.delays[index]._replace(by=who)
            after = after._replace(delays=put(system.delays, index, stored))
        if rings:
            ring = system.row._replace(rung="fresh", rung_by=who, is_lost=False)
            after = after._replace(row=ring)
        if after.delays[index].waits_for_owner and not rings:
            self._check_woken(after)
        return after, told

    def _check_woken(self, system: System) -> None:
        row = system.row
        # These are to be found out by what becomes of the flow.
        is_late = self._mutation in ("deliver reads first", "deliver rings before it records")
        is_excused = row.is_lost or row.wish or is_late
        if has_owner(row) or is_excused or system.jobs:
            return
        # One that cannot post tells the next deliverer so, and an earlier one is told by nobody.
        at_it = ("posts", "repeats", "failed")
        posts = any(deliverer.phase in at_it for deliverer in system.deliverers)
        if not posts and not any(owner.phase == "claimed" for owner in system.owners):
            raise Violation("I3", "an outcome is there, and nobody to whom it matters is called")

    @staticmethod
    def _as(system: System, who: int, deliverer: Deliverer) -> System:
        return system._replace(deliverers=put(system.deliverers, who, deliverer))

    # -- owners -----------------------------------------------------------

    def _own(self, system: System, who: int) -> Iterator[Step]:
        me = system.owners[who]
        name = f"owner {who}"
        for label, is_due, after in self._proceed(system, who):
            yield f"{name} {label}", is_due, after
        if me.phase != "idle" and (broken := self._may(system, "crash")):
            # Its claim goes with its session; a new process takes its place.
            row = system.row
            if row.newest == who:
                row = row._replace(newest=NOBODY)
            if row.owner == who:
                row = row._replace(owner=DEAD)
            yield f"{name} dies", False, self._go_home(broken._replace(row=row), who, me.has_job)

    def _proceed(self, system: System, who: int) -> Iterator[Step]:
        me = system.owners[who]
        phase = me.phase
        if phase == "idle":
            if system.jobs:
                claimed = self._be(system, who, Owner("claimed", has_job=True))
                yield "claims a job", True, claimed._replace(jobs=system.jobs - 1)
            if who == 1 and not is_over(system.row):
                # The second one also calls Client.resume, as it pleases.
                yield from self._take(system, who, resumes=True)
        elif phase == "claimed":
            yield from self._take(system, who, resumes=False)
        elif phase == "runs":
            for label, ready in self._run(system, who):
                yield label, True, ready
            # Who runs a flow without a job, and stops, resumes it himself.
            if me.has_job and not me.stops and (stopped := self._may(system, "stop")):
                yield "is asked to stop", False, self._be(stopped, who, me._replace(stops=True))
            if me.has_job and (broken := self._may(system, "incident")):
                consumed = self._be(broken, who, me._replace(has_job=False))
                row = consumed.row._replace(incident=consumed.row.newest == who)
                yield "finds its code broken", False, self._release(consumed._replace(row=row), who)
            # Whoever runs it without a job is told so, and sees to it.
            if me.has_job and (broken := self._may(system, "failure")):
                yield "fails for a while", False, self._release(broken, who)
        elif phase == "checked":
            yield "writes what it checked", True, self._commit(system, who, is_checked=True)
        elif phase == "flags":
            yield "notes what it absorbed", True, self._commit(system, who, part="flags")
        elif phase == "commits":
            yield from self._try_commit(system, who)
        elif phase == "unsure":
            yield "repeats its commit", True, self._settle(system, who)
        elif phase == "ends":
            yield "gives its job up", True, self._go_home(system, who, me.has_job and me.stops)

    @staticmethod
    def _be(system: System, who: int, owner: Owner) -> System:
        return system._replace(owners=put(system.owners, who, owner))

    def _go_home(self, system: System, who: int, abandons: bool = False) -> System:
        return self._be(system, who, Owner())._replace(jobs=system.jobs + abandons)

    def _take(self, system: System, who: int, *, resumes: bool) -> Iterator[Step]:
        row = system.row
        if is_over(row) and self._mutation != "take runs an ended flow again":
            yield "finds the flow ended", True, self._go_home(system, who)
        elif row.wish and not resumes:
            yield "finds the flow suspended", True, self._go_home(system, who)
        elif has_owner(row):
            if not resumes:
                yield "finds the flow busy", True, self._go_home(system, who, abandons=True)
        elif is_over(row):
            raise Violation("I4", "a flow that had ended was taken, by a job that came too late")
        else:
            keeps_ring = self._mutation in ("take leaves the ring", "nobody clears the ring")
            taken = row._replace(
                owner=who,
                is_live=True,
                newest=who,
                rung=row.rung if keeps_ring else "",
                rung_by=row.rung_by if keeps_ring else NOBODY,
                wish=False,
                is_lost=False,
                state=states.RUNNING if is_over(row) else row.state,
            )
            if self._mutation == "take leaves the epoch" and row.newest != NOBODY:
                taken = taken._replace(newest=EVERYBODY)
            waiting = [k for k, delay in enumerate(system.delays) if delay.waits_for_owner]
            early = tuple(k for k in waiting if not system.delays[k].opened)
            me = Owner(
                phase="runs",
                has_job=system.owners[who].has_job,
                atoms=system.atoms,
                inbox=tuple(k for k in waiting if system.delays[k].opened),
                early=() if self._mutation == "take leaves early outcomes" else early,
                was_early=early,
            )
            # Whether somebody resumes a flow that rests is up to them; but somebody will.
            is_due = not resumes or row.wish or row.incident
            yield "takes the flow", is_due, self._be(system._replace(row=taken), who, me)

    def _release(self, system: System, who: int) -> System:
        """Give the lease up as things stand, and the job (if it has not been consumed) back."""
        row = system.row
        if row.owner == who and row.newest == who:
            row = row._replace(owner=NOBODY, is_live=False)
        return self._go_home(system._replace(row=row), who, system.owners[who].has_job)

    # -- what an engine does between two commits ----------------------------

    def _run(self, system: System, who: int) -> Iterator[tuple[str, System]]:
        """Run one turn: absorb what is here, execute what can be."""
        me = system.owners[who]
        atoms = list(me.atoms)
        # What comes after an absorbed outcome starts once that is committed.
        ready = () if me.stops else self._ready(me.atoms)
        absorbed, closed = list(me.absorbed), list(me.closed)
        for index in me.inbox:
            task, attempt = self.scenario.keys[index]
            if atoms[task] != Atom(DELAYED, attempt):
                raise Violation("I2", f"an outcome was handed to {atoms[task]}, which has it")
            absorbed.append(index)
            atoms[task] = self._completed(index, system.delays[index].by)
        told, opened, fickle = set(system.told), list(me.opened), []
        for task in ready:
            attempt = atoms[task].attempt + (atoms[task].state != states.RUNNING)
            index = self.scenario.keys.index((task, attempt))
            closed += [
                k for k, (t, a) in enumerate(self.scenario.keys) if t == task and a < attempt
            ]
            if index in me.early:
                absorbed.append(index)
                atoms[task] = self._completed(index, system.delays[index].by)
                continue
            if index in me.was_early:
                raise Violation("I2", "an attempt was executed although it has an outcome")
            told.add(index)
            opened.append(index)
            atoms[task] = Atom(DELAYED, attempt)
            if task in self.scenario.fickle:
                fickle.append(index)
        ready_to_commit = me._replace(
            phase="commits",
            atoms=tuple(atoms),
            inbox=(),
            opened=tuple(opened),
            absorbed=tuple(absorbed),
            closed=tuple(sorted(set(closed))),
        )
        yield "runs", self._be(system._replace(told=frozenset(told)), who, ready_to_commit)
        for index in fickle:
            task, attempt = self.scenario.keys[index]
            quick = ready_to_commit._replace(
                atoms=put(ready_to_commit.atoms, task, Atom(states.SUCCESS, attempt)),
                opened=tuple(k for k in opened if k != index),
            )
            yield f"runs; task {task} makes no Delay", self._be(system, who, quick)
            made = quick._replace(closed=tuple(sorted({*quick.closed, index})))
            yield (
                f"runs; task {task} makes a Delay and ends without",
                self._be(system._replace(told=frozenset(told)), who, made),
            )

    def _ready(self, atoms: tuple[Atom, ...]) -> tuple[int, ...]:
        return tuple(
            task
            for task, before in enumerate(self.scenario.after)
            if atoms[task].state in (states.PENDING, states.RUNNING)
            and (before < 0 or atoms[before].state == states.SUCCESS)
        )

    def _completed(self, index: int, by: int) -> Atom:
        task, attempt = self.scenario.keys[index]
        is_retried = self._values[by] == FAILS and (task, attempt + 1) in self.scenario.keys
        return Atom(states.PENDING if is_retried else states.SUCCESS, attempt)

    # -- commits ----------------------------------------------------------

    def _try_commit(self, system: System, who: int) -> Iterator[Step]:
        me = system.owners[who]
        if self._mutation == "commit checks the epoch first":
            if system.row.newest != who:
                yield "is fenced", True, self._go_home(system, who, me.has_job)
            else:
                yield "checks", True, self._be(system, who, me._replace(phase="checked"))
            return
        begun = [t for t, atom in enumerate(me.atoms) if atom.attempt > system.atoms[t].attempt]
        if begun and system.row.newest == who:
            yield "writes marks", False, self._mark(system, begun)
        if self._mutation == "absorbing is two commits" and me.absorbed:
            yield "commits atoms", True, self._commit(system, who, part="atoms")
            return
        done = self._commit(system, who)
        yield "commits", True, done
        if broken := self._may(done, "unanswered"):
            unsure = me._replace(phase="unsure")
            yield "commits, and the answer is lost", False, self._be(broken, who, unsure)

    def _mark(self, system: System, begun: list[int]) -> System:
        atoms = system.atoms
        for task in begun:
            atoms = put(atoms, task, Atom(states.RUNNING, atoms[task].attempt + 1))
        return system._replace(atoms=atoms, row=system.row._replace(is_live=True))

    def _commit(
        self, system: System, who: int, *, is_checked: bool = False, part: str = ""
    ) -> System:
        """Carry the transaction of a commit out, and the end of the run with it."""
        me, row = system.owners[who], system.row
        is_fenced = self._mutation != "commit checks no epoch" and not is_checked
        if is_fenced and row.newest not in (who, EVERYBODY):
            return self._go_home(system, who, me.has_job)
        if row.newest not in (who, EVERYBODY) or (row.owner >= 0 and row.owner != who):
            raise Violation("I1", f"owner {who} committed after owner {row.owner} took the flow")
        if is_over(row):
            raise Violation("I4", "a flow that had ended was written to")
        delays = list(system.delays)
        for index in me.opened if part != "flags" else ():
            delays[index] = delays[index]._replace(opened=True)
        for index in me.absorbed if part != "atoms" else ():
            if delays[index].absorbed:
                raise Violation("I2", "an outcome was absorbed twice")
            delays[index] = delays[index]._replace(absorbed=True, opened=True)
        for index in me.closed if part != "flags" else ():
            delays[index] = delays[index]._replace(closed=True)
        after = system._replace(
            delays=tuple(delays),
            atoms=me.atoms,
            row=row._replace(state=states.RUNNING, is_live=row.owner != NOBODY, incident=False),
        )
        if part == "atoms":
            return self._be(after, who, me._replace(phase="flags", opened=(), closed=()))
        return self._end(after, who)

    def _end(self, system: System, who: int) -> System:
        me = system.owners[who]
        arrivals = tuple(
            k for k, delay in enumerate(system.delays) if delay.opened and delay.waits_for_owner
        )
        goes_on = me._replace(phase="runs", opened=(), absorbed=(), closed=(), inbox=arrivals)
        rests = me.stops or system.row.wish
        if not rests and self._ready(me.atoms):
            return self._be(system, who, goes_on)
        if rests and not any(atom.state != states.SUCCESS for atom in me.atoms):
            rests = False
        if not rests and arrivals and self._mutation != "park without looking":
            return self._be(system, who, goes_on)
        is_final = all(atom.state == states.SUCCESS for atom in me.atoms)
        state = states.SUCCESS if is_final else states.SUSPENDED if rests else DELAYED
        if is_final and arrivals:
            raise Violation("I2", "a flow ended over an outcome that was not absorbed")
        keeps_ring = self._mutation == "nobody clears the ring"
        row = system.row._replace(
            owner=NOBODY,
            is_live=False,
            state=state,
            rung=system.row.rung if keeps_ring else "",
            rung_by=system.row.rung_by if keeps_ring else NOBODY,
            is_lost=False,
        )
        delays = tuple(
            delay._replace(closed=True) if is_final or self._nobody_waits_for(system, k) else delay
            for k, delay in enumerate(system.delays)
        )
        ended = Owner("ends", has_job=me.has_job, stops=me.stops)
        return self._be(system._replace(row=row, delays=delays), who, ended)

    def _nobody_waits_for(self, system: System, index: int) -> bool:
        if self._mutation == "park keeps outcomes nobody waits for":
            return False
        task, attempt = self.scenario.keys[index]
        atom = system.atoms[task]
        delay = system.delays[index]
        return (
            delay.waits_for_owner
            and not delay.opened
            and rules.attempt_is_over(
                attempt,
                stored_attempt=atom.attempt,
                stored_state=atom.state,
                stored_is_delayed=atom.state == DELAYED,
            )
        )

    def _settle(self, system: System, who: int) -> System:
        """Repeat a commit that was carried out and whose answer was lost."""
        me, row = system.owners[who], system.row
        if self._mutation == "commit counts no commits":
            return self._commit(system, who)
        if row.newest != who:
            return self._go_home(system, who, me.has_job)
        if row.owner == NOBODY:
            return self._be(system, who, Owner("ends", has_job=me.has_job, stops=me.stops))
        arrivals = tuple(
            k for k, delay in enumerate(system.delays) if delay.opened and delay.waits_for_owner
        )
        goes_on = me._replace(phase="runs", opened=(), absorbed=(), closed=(), inbox=arrivals)
        return self._be(system, who, goes_on)

    # -- time, wishes, the watchdog -----------------------------------------

    def _pass_time(self, system: System) -> Iterator[Step]:
        row = system.row
        if row.is_live:
            expired = row._replace(is_live=False)
            if row.owner == DEAD:
                yield "a dead owner's lease runs out", True, system._replace(row=expired)
            elif slow := self._may(system, "slow"):
                yield "a slow owner's lease runs out", False, slow._replace(row=expired)
        if row.rung == "fresh":
            stale = row._replace(rung="stale")
            posts = any(deliverer.phase == "posts" for deliverer in system.deliverers)
            if not posts and not system.jobs and all(o.phase == "idle" for o in system.owners):
                yield "the ring grows stale", True, system._replace(row=stale)
            elif slow := self._may(system, "stale"):
                yield "the ring grows stale early", False, slow._replace(row=stale)
        if not row.wish and not is_over(row) and (asked := self._may(system, "suspend")):
            yield "somebody suspends the flow", False, asked._replace(row=row._replace(wish=True))

    def _watch(self, system: System) -> Iterator[Step]:
        row = system.row
        if not self.scenario.has_watchdog or not may_ring(row):
            return
        reasons = {
            "stale rings": row.rung == "stale",
            "unabsorbed outcomes": row.owner == NOBODY
            and any(delay.waits_for_owner for delay in system.delays),
            "expired leases": row.owner != NOBODY,
        }
        for reason, holds in reasons.items():
            if holds and self._mutation != f"watchdog overlooks {reason}":
                rung = row._replace(rung="fresh", rung_by=OTHER, is_lost=False)
                label = f"the watchdog rings for {reason}"
                yield label, True, system._replace(row=rung, jobs=system.jobs + 1)
                return

    # -- rest ---------------------------------------------------------------

    def check_rest(self, system: System) -> None:
        """Check a state in which nothing is due.

        :raises Violation: something will never happen that should.
        """
        row = system.row
        if row.wish:
            return
        if any(delay.waits_for_owner for delay in system.delays):
            raise Violation("I3", "an outcome waits, and nothing will ever happen")
        if row.owner != NOBODY or row.state not in (DELAYED, *rules.FINAL_STATES):
            raise Violation("I3", f"the flow is left {row.state}, and nothing will ever happen")
        if system.jobs:
            raise Violation("I4", "a job stays on the board")
        if row.state == DELAYED and all(delay.by != NOBODY for delay in system.delays):
            raise Violation("I3", "everything was answered, and the flow waits")


# -- exploring ----------------------------------------------------------------------


@dataclasses.dataclass
class Explored:
    """What an exploration has seen; ``rests`` are states in which nothing is due."""

    states: int
    steps: int
    rests: int


def explore(scenario: Scenario, step_names: Callable[[str], None] | None = None) -> Explored:
    """Go through every interleaving of a scenario, breadth first.

    :raises Violation: with the shortest way there in its text.
    """
    model = Model(scenario)
    number_of: dict[System, int] = {scenario.start: 0}
    found = [scenario.start]
    came_from: list[tuple[int, str]] = [(-1, "")]
    backward: list[list[int]] = [[]]
    rests: list[int] = []
    count = 0
    for number, system in enumerate(found):  # grows meanwhile
        is_at_rest = True
        try:
            for label, is_due, after in model.steps(system):
                count += 1
                if step_names is not None:
                    step_names(label)
                is_at_rest = is_at_rest and not is_due
                known = number_of.get(after)
                if known is None:
                    known = number_of[after] = len(found)
                    found.append(after)
                    came_from.append((number, label))
                    backward.append([])
                if is_due:
                    backward[known].append(number)
            if is_at_rest:
                rests.append(number)
                model.check_rest(system)
        except Violation as violation:
            raise _with_way(violation, came_from, number) from None
    _check_that_rest_comes(found, came_from, backward, rests)
    return Explored(len(found), count, len(rests))


def _with_way(violation: Violation, came_from: list[tuple[int, str]], number: int) -> Violation:
    way: list[str] = []
    while number > 0:
        number, label = came_from[number]
        way.append(label)
    text = "; ".join(reversed(way))
    return Violation(violation.invariant, f"{violation} | after: {text}")


def _check_that_rest_comes(
    found: list[System],
    came_from: list[tuple[int, str]],
    backward: list[list[int]],
    rests: list[int],
) -> None:
    reached = bytearray(len(found))
    pending = list(rests)
    for number in rests:
        reached[number] = 1
    while pending:
        for before in backward[pending.pop()]:
            if not reached[before]:
                reached[before] = 1
                pending.append(before)
    lost = reached.find(0)
    if lost >= 0:
        raise _with_way(Violation("I3", "this never comes to rest"), came_from, lost)
