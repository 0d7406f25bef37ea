# SPDX-License-Identifier: Apache-2.0
"""How a ZooKeeper board hears of jobs: with few requests, and each by one conductor first.

TaskFlow's board watches its children. A job's life changes them three times
(posted, claimed, consumed), and each time everybody who watches asks for all of
them again, and for the contents of each that is new. Here:

- A change that is most likely one's own claim, or the claim of a job that is
  another conductor's, is not looked at until that job is over or a moment has
  passed (see :mod:`~lazy_engine.board.zookeeper_calm`). One look then tells of
  all that happened meanwhile.
- A board that nobody conducts from, whose owner only posts, looks when it has
  been quiet for a second.
- Which jobs are claimed is read off the names of their locks, without asking.
- Of the conductors that are registered, one answers a job at once (see
  :mod:`~lazy_engine.board.share`). The others leave it alone, and do not even
  read it, unless it still is nobody's after a while: its conductor may be
  busy, or dead.

All jobs that are told of are in TaskFlow's own list, as if its own watch had
found them.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from kazoo import exceptions as kazoo_exceptions
from kazoo.protocol import paths
from kazoo.protocol.states import EventType, KazooState
from taskflow import exceptions as taskflow_exceptions
from taskflow.jobs import base as jobs_base

from lazy_engine.board import share
from lazy_engine.board.alarm import Alarm
from lazy_engine.board.zookeeper_calm import Calm
from lazy_engine.board.zookeeper_colleagues import Colleagues

LOG = logging.getLogger(__name__)

#: How long a job is left to the conductor that is to answer it first.
GRACE_SECONDS: Final = 0.15
#: How long a board that nobody conducts from is quiet before it looks, and how
#: long it puts that off at most while it goes on posting.
_QUIET_SECONDS: Final = 1.0
_LONGEST_QUIET_SECONDS: Final = 30.0

#: Where a board keeps its one hearing.
_ATTRIBUTE: Final = "_lazy_engine_hearing"

Tell = Callable[[Any], None]


def of(jobboard: Any) -> Hearing:
    """Return the hearing of TaskFlow's ZooKeeper board; the same one each time."""
    found: Hearing = vars(jobboard).setdefault(_ATTRIBUTE, Hearing(jobboard))
    return found


class _Question(NamedTuple):
    """A question what is there.

    :ivar number: in the order of the questions, and of their answers.
    :ivar known: the paths of the jobs that the board knew of: of these alone the
        answer can tell that they are gone.
    """

    number: int
    known: frozenset[str]


class Hearing:
    """What one ZooKeeper board hears. Safe to use from any thread.

    The server's answers come in kazoo's threads; nothing here waits for one there.

    :ivar conductors: those that share the board's jobs.
    """

    def __init__(self, jobboard: Any) -> None:
        self._board = jobboard
        self._lock = threading.RLock()
        self._has_begun = False
        #: Conductors on this board, by the names under which they are registered.
        self._tells: dict[str, Tell] = {}
        self._notes: dict[str, Callable[[], None]] = {}
        self.conductors = Colleagues(jobboard, self._on_conductors)
        self._there: frozenset[str] = frozenset()
        self._claimed: frozenset[str] = frozenset()
        #: Paths of jobs that the board knew of when it was last asked what is there, or that an
        #: earlier answer had.
        self._known_then: frozenset[str] = frozenset()
        #: When whose turn it is not may answer a job after all.
        self._turns: dict[str, float] = {}
        self._told: set[str] = set()
        self._calm = Calm()
        self._posted_at = 0.0
        self._noted_at = 0.0
        self._look_at: float | None = None
        self._asked = 0
        self._taken_in = 0
        self._alarm = Alarm(self._ring)

    # -- beginning --------------------------------------------------------

    def begin(self) -> None:
        """Hear in TaskFlow's place; does nothing the second time."""
        with self._lock:
            watcher = self._board._job_watcher
            if watcher is None:
                return  # never connected
            watcher._stopped = True
            if self._has_begun:
                return
            self._has_begun = True
        self._board.notifier.register(jobs_base.POSTED, self._on_posted)
        self._client.add_listener(self._on_connection)
        self.look()

    def attend(self, name: str, tell: Tell, note: Callable[[], None]) -> Callable[[], None]:
        """Tell a conductor of each job when its turn has come; return what ends that.

        :param name: what it is registered as.
        :param tell: called with a job, in a thread that must not be held up.
        :param note: called likewise when other conductors have come or gone.
        """
        with self._lock:
            self._tells[name], self._notes[name] = tell, note
        self.begin()

        def end() -> None:
            with self._lock:
                del self._tells[name], self._notes[name]
                if not self._tells:
                    self._turns.clear()
                    self._told.clear()
                    self._set_alarm()

        return end

    @property
    def _client(self) -> Any:
        return self._board._client

    # -- what is known ----------------------------------------------------

    @property
    def is_listening(self) -> bool:
        """Whether the server would tell of a change, or a look is to come anyway."""
        return self._look_at is not None or bool(self._client._child_watchers.get(self._board.path))

    def is_claimed(self, job: Any) -> bool:
        """Whether somebody has a job, or it is gone, as far as is known here."""
        name = paths.basename(job.path)
        with self._lock:
            if name in self._claimed or self._calm.has_claimed(name):
                return True
        return job.path not in self._board._known_jobs

    def is_turn(self, job: Any) -> bool:
        """Whether a job may be claimed now; if not yet, it is told of when it may be."""
        if self.is_claimed(job):
            return False
        name, now = paths.basename(job.path), time.monotonic()
        with self._lock:
            self._consider(name, now)
            self._set_alarm()
            return self._may_answer(name, now)

    def note_post(self) -> None:
        """Note that this board posts: what changes is most likely that."""
        self._posted_at = time.monotonic()

    def note_claim(self, job: Any) -> None:
        """Note a claim that is about to be made here, and will change the board."""
        with self._lock:
            self._calm.begin(paths.basename(job.path))

    def note_end(self, job: Any) -> None:
        """Note that such a claim is given up, or was not made, before that changes the board."""
        with self._lock:
            self._calm.end(paths.basename(job.path))

    def note_freed(self, job: Any) -> None:
        """Note that such a claim was given up, and the job left on the board."""
        name = paths.basename(job.path)
        with self._lock:
            self._claimed -= {name}
            self._told.discard(name)
            self._turns.pop(name, None)

    def catch_up(self) -> None:
        """Look now if there is a look to come."""
        with self._lock:
            if self._look_at is None or not self._tells:
                return
        self.look()

    # -- looking ----------------------------------------------------------

    def look(self) -> None:
        """Ask for all jobs, and to be told of the next change; waits for nothing."""
        with self._lock:
            self._look_at = None
            self._noted_at = 0.0
        question, answer = self._ask()
        answer.rawlink(functools.partial(self._on_children, question))

    def look_and_wait(self) -> None:
        """As :meth:`look`, and take in the contents of what is new before returning.

        :raises taskflow.exceptions.JobFailure: the board cannot be read.
        """
        with self._lock:
            self._look_at = None
        try:
            question, answer = self._ask()
            children = answer.get()
        except kazoo_exceptions.NoNodeError:
            children = []
        except (kazoo_exceptions.KazooException, self._client.handler.timeout_exception) as error:
            raise taskflow_exceptions.JobFailure("the job board cannot be read", error) from error
        self._take_in(question, children, delayed=False)

    def _ask(self) -> tuple[_Question, Any]:
        """Ask for all jobs; return the question, and what its answer will be in."""
        with self._lock:
            self._asked += 1
            question = _Question(self._asked, frozenset(self._board._known_jobs))
            answer = self._client.get_children_async(self._board.path, watch=self._on_change)
            return question, answer

    def _on_children(self, question: _Question, answer: Any) -> None:
        try:
            children = answer.get()
        except kazoo_exceptions.KazooException:
            # The connection is lost; its return is the next occasion to look.
            LOG.debug("job board '%s' could not be looked at", self._board.name, exc_info=True)
            return
        self._take_in(question, children, delayed=True)

    def _take_in(self, question: _Question, children: Iterable[str], *, delayed: bool) -> None:
        now = time.monotonic()
        postfix, prefix = self._board.LOCK_POSTFIX, self._board.JOB_PREFIX
        of_jobs = [name for name in children if name.startswith(prefix)]
        claimed = frozenset(
            name.removesuffix(postfix) for name in of_jobs if name.endswith(postfix)
        )
        there = frozenset(name for name in of_jobs if not name.endswith(postfix))
        with self._lock:
            if question.number < self._taken_in:
                # Whoever waited for it was overtaken by kazoo's thread with a later answer,
                # after which the server tells of no change that had come before.
                return
            self._taken_in = question.number
            # What an earlier answer had is no news either.
            self._known_then = question.known | {self._path(name) for name in self._there}
            freed = (self._claimed - claimed) & there
            self._there, self._claimed = there, claimed
            # What could not be read when its turn came is read now.
            known = self._board._known_jobs
            self._told = {n for n in (self._told & there) - freed if self._path(n) in known}
            for name in (*(self._turns.keys() - there), *freed):
                self._turns.pop(name, None)
            self._calm.forget_others(there)
            for name in sorted(there):
                self._consider(name, now)
            wanted = self._due(now)
            self._set_alarm()
        self._ask_for(wanted, delayed=delayed)

    def _consider(self, name: str, now: float) -> None:
        """Note when a job's turn comes, the first time that it is seen."""
        if not self._tells or name in self._turns:
            return
        if name in self._claimed or not self._is_first(name):
            self._turns[name] = now + GRACE_SECONDS
            if name not in self._claimed and not self._calm.has_claimed(name):
                self._calm.expect(now)
        else:
            self._turns[name] = now

    def _is_first(self, name: str) -> bool:
        first = share.first_of(self.conductors.names, name)
        return first is None or first in self._tells

    def _may_answer(self, name: str, now: float) -> bool:
        at = self._turns.get(name)
        return self._is_first(name) if at is None else at <= now

    def _due(self, now: float) -> list[str]:
        """Return, once, the names of jobs whose turn has come; all, if nobody conducts from here."""
        if not self._tells:
            return list(self._there)
        due = [n for n, at in self._turns.items() if at <= now and n not in self._told]
        self._told.update(due)
        return due

    def _ask_for(self, names: Iterable[str], *, delayed: bool) -> None:
        """Have TaskFlow read what it does not know of these, and forget what is gone."""
        known = self._board._known_jobs
        wanted = {self._path(name) for name in names}
        with self._lock:
            there, known_then = self._there, self._known_then
            tells = list(self._tells.values())
        children = [n for n in there if self._path(n) in wanted or self._path(n) in known]
        again = [job for job in map(known.get, wanted) if job is not None]
        # Posted here after the question: the answer says nothing of these.
        newer = {paths.basename(path) for path in set(known) - known_then} - there
        self._board._on_job_posting(sorted([*children, *newer]), delayed=delayed)
        if newer:
            self.look()
        for job in sorted(again):
            if self.is_turn(job):
                for tell in tells:
                    tell(job)

    def _path(self, name: str) -> str:
        path: str = paths.join(self._board.path, name)
        return path

    # -- being told -------------------------------------------------------

    def _on_posted(self, _event: str, details: dict[str, Any]) -> None:
        """Told by TaskFlow's board of a job that it did not know."""
        job = details["job"]
        name = paths.basename(job.path)
        with self._lock:
            tells = list(self._tells.values())
            if not tells:
                return
            self._consider(name, time.monotonic())
            may_tell = self._may_answer(name, time.monotonic())
            if may_tell:
                self._told.add(name)
            self._set_alarm()
        if may_tell:
            for tell in tells:
                tell(job)

    def _on_change(self, event: Any) -> None:
        if event.type == EventType.NONE:
            return  # the watch went with the connection
        now = time.monotonic()
        with self._lock:
            if not self._tells:
                self._noted_at = self._noted_at or now
                self._look_at = now + _QUIET_SECONDS
                self._set_alarm()
                return
            if now < self._calm.until:
                self._look_at = self._calm.until
                self._set_alarm()
                return
        self.look()

    def _on_connection(self, state: str) -> None:
        if state == KazooState.LOST:
            with self._lock:
                self._calm.forget_all()
        elif state == KazooState.CONNECTED:
            self.look()

    # -- the alarm --------------------------------------------------------

    def _set_alarm(self) -> None:
        """Have :meth:`_ring` called when there is next something to do."""
        turns = [at for name, at in self._turns.items() if name not in self._told]
        self._alarm.set(min([math.inf if self._look_at is None else self._look_at, *turns]))

    def _ring(self, at: float) -> None:
        now = time.monotonic()
        with self._lock:
            if not self._alarm.is_for(at):
                return  # set anew in the meantime
            must_look = self._look_at is not None and self._look_at <= now
            if must_look and not self._tells:
                quiet_at = self._posted_at + _QUIET_SECONDS
                if now < min(quiet_at, self._noted_at + _LONGEST_QUIET_SECONDS):
                    must_look, self._look_at = False, quiet_at
            wanted = [] if must_look or not self._tells else self._due(now)
            if not must_look:
                self._set_alarm()
        if must_look:
            self.look()
        elif wanted:
            self._ask_for(wanted, delayed=True)

    def _on_conductors(self) -> None:
        for note in list(self._notes.values()):
            note()
