# SPDX-License-Identifier: Apache-2.0
"""Tells a scenario again and again, with a crash at another place each time."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pathlib
import pkgutil
import queue
import random
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, Self, get_args

import taskflow.engines
from taskflow.patterns import linear_flow

from lazy_engine import address, doctor, ledger
from lazy_engine.access import open_backend
from lazy_engine.ledger import Ledger
from lazy_engine.testing import journal as j
from lazy_engine.testing import snapshot
from lazy_engine.testing.nursery import Nursery
from lazy_engine.testing.rule import Telling, problems
from lazy_engine.testing.site import Site, journal_path
from lazy_engine.testing.write import Side, WriteTap

#: A function that is told as a scenario.
Scenario = Callable[[Site], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrashPoint:
    """A moment beside a durable write.

    :ivar number: of the write, from one.
    :ivar side: ``"before"`` it, or ``"after"`` it: made, and nobody told.
    :ivar write: what the scenario writes there when it is not interrupted.
    """

    number: int
    side: Side
    write: str

    def __str__(self) -> str:
        return f"{self.side} write {self.number} ({self.write})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrashReport:
    """What came of killing a scenario everywhere.

    :ivar points: where it was killed.
    :ivar unreached: points that a telling did not come to (what other threads
        write may come in another order; in ZooKeeper the parents of some znodes
        are made anew each minute, by whoever comes first).
    :ivar lives: how many processes it took.
    :ivar problems: by point, what went wrong; empty if all went well.
    """

    points: Sequence[CrashPoint]
    unreached: Sequence[CrashPoint]
    lives: int
    problems: Mapping[CrashPoint, Sequence[str]]

    def __str__(self) -> str:
        lines = [
            f"{len(self.points)} crash points, {len(self.unreached)} not reached,"
            f" {self.lives} processes, {len(self.problems)} with problems"
        ]
        for point, found in self.problems.items():
            lines += [f"killed {point}:", *(f"    {line}" for line in found)]
        return "\n".join(lines)


class CrashTest:
    """Kills a scenario at each of its durable writes and lets it go on.

    :param scenario: a function of a module, given a :class:`Site`; it is told
        from its beginning after each crash, so it must be safe to repeat, as
        the code of any caller that may crash.
    :param persistence: address of a store (SQLAlchemy URL, or
        ``zookeeper://host:port/path``); its tables are made if need be. Each
        telling makes a flow of its own in it.
    :param directory: for journals and for what the scenario leaves outside.
    :param settings: strict JSON that the scenario finds in ``site.settings``.
    :param crew: the processes to use; without one, each run makes its own.
    :param timeout_seconds: how long one life may last.
    :raises ValueError: another process could not import the scenario.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        persistence: str,
        directory: pathlib.Path,
        settings: Mapping[str, Any] | None = None,
        crew: Crew | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        if scenario.__module__ == "__main__" or "<" in scenario.__qualname__:
            raise ValueError(
                f"scenario {scenario.__qualname__} of {scenario.__module__}: other processes"
                " must be able to import it; make it a function of a module"
            )
        self._module = scenario.__module__
        self._crew = crew
        self._scenario = f"{scenario.__module__}:{scenario.__qualname__}"
        self._persistence = persistence
        self._directory = directory
        self._settings = dict(settings or {})
        self._timeout_seconds = timeout_seconds

    def run(self, *, crashes: int = 1, dice: random.Random | None = None) -> CrashReport:
        """Tell the scenario once without a crash, and once for every crash point.

        :param crashes: how many lives of a telling are killed; those after the
            first one at random.
        :param dice: says where; needed for more than one crash.
        :raises AssertionError: the scenario fails without any crash.
        """
        with contextlib.ExitStack() as stack:
            crew = self._crew or stack.enter_context(Crew())
            book = stack.enter_context(_reading(self._persistence))
            crew.prepare(self._module, self._persistence)
            if address.kind_of(self._persistence) == address.ZOOKEEPER:
                # The first flow makes parents of znodes that the later ones find.
                self._tell(crew, book, [])
            reference, _lives = self._tell(crew, book, [])
            if wrong := problems(reference, reference):
                raise AssertionError("without any crash: " + "; ".join(wrong))
            writes = [entry["write"] for entry in reference.entries if entry["what"] == j.WRITE]
            points = [
                CrashPoint(number=number, side=side, write=write)
                for number, write in enumerate(writes, start=1)
                for side in get_args(Side)
            ]
            plans = [_plan(point, len(writes), crashes, dice) for point in points]
            threads = stack.enter_context(futures.ThreadPoolExecutor(crew.size))
            told = list(threads.map(lambda plan: self._try(crew, book, plan), plans))
        found: dict[CrashPoint, Sequence[str]] = {}
        for point, (telling, _lives) in zip(points, told, strict=True):
            wrong = [telling] if isinstance(telling, str) else problems(reference, telling)
            if wrong:
                found[point] = wrong
        return CrashReport(
            points=points,
            unreached=[p for p, (_, lives) in zip(points, told, strict=True) if lives == 1],
            lives=1 + sum(lives for _, lives in told),
            problems=found,
        )

    def _try(
        self, crew: Crew, book: Ledger, plan: Sequence[tuple[int, Side]]
    ) -> tuple[Telling | str, int]:
        try:
            return self._tell(crew, book, plan)
        except AssertionError as error:
            return str(error), len(plan) + 1

    def _tell(
        self, crew: Crew, book: Ledger, plan: Sequence[tuple[int, Side]]
    ) -> tuple[Telling, int]:
        """Tell the scenario, killed as planned; return it and the number of its lives."""
        flow_uuid = str(uuid.uuid4())
        directory = self._directory / flow_uuid
        directory.mkdir(parents=True)
        crashes: list[snapshot.Snapshot | None] = []
        life = 0
        for kill_at in (*plan, None):
            life += 1
            status = crew.run(
                f"{__name__}:live",
                {
                    "scenario": self._scenario,
                    "persistence": self._persistence,
                    "flow_uuid": flow_uuid,
                    "directory": str(directory),
                    "life": life,
                    "settings": self._settings,
                    "kill_at": kill_at,
                },
                errors_path=directory / f"life-{life}.txt",
                timeout_seconds=self._timeout_seconds,
            )
            if status == 0:
                break  # it came to its end, perhaps before the planned crash
            if status != -9 or kill_at is None:
                text = (directory / f"life-{life}.txt").read_text()
                raise AssertionError(f"life {life} ended with status {status}:\n{text}")
            crashes.append(snapshot.take(book, flow_uuid))
            _require_sound(book, flow_uuid, f"after life {life}")
        _require_sound(book, flow_uuid, "in the end")
        entries = j.Journal(journal_path(directory)).entries()
        telling = Telling(entries=entries, crashes=crashes, end=snapshot.take(book, flow_uuid))
        return telling, life


def _plan(
    point: CrashPoint, writes: int, crashes: int, dice: random.Random | None
) -> list[tuple[int, Side]]:
    plan: list[tuple[int, Side]] = [(point.number, point.side)]
    for _ in range(crashes - 1):
        assert dice is not None, "more than one crash needs dice"
        plan.append((dice.randint(1, writes), dice.choice(get_args(Side))))
    return plan


class Crew:
    """Processes that tell scenarios, to be shared by many tests.

    :param size: how many tellings go on at the same time.
    """

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self._all = [Nursery() for _ in range(size)]
        self._idle: queue.SimpleQueue[Nursery] = queue.SimpleQueue()
        for nursery in self._all:
            self._idle.put(nursery)

    def prepare(self, module: str, persistence: str) -> None:
        """Make the processes ready for scenarios of a module on a store.

        Nothing may be running meanwhile.
        """
        found = sys.modules[module].__file__
        assert found is not None
        # Where the top-level package lies: a test's own modules need not be
        # on the path of whoever imported them.
        root = pathlib.Path(found).resolve().parents[module.count(".")]
        given = {"path": str(root), "module": module, "persistence": persistence}
        for nursery in self._all:
            nursery.prepare(f"{__name__}:rehearse", given)

    def run(self, target: str, argument: Mapping[str, Any], **options: Any) -> int:
        """Run a function in a process of its own; see :meth:`Nursery.run`."""
        nursery = self._idle.get()
        try:
            return nursery.run(target, argument, **options)
        finally:
            self._idle.put(nursery)

    def close(self) -> None:
        """End the processes."""
        for nursery in self._all:
            nursery.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _require_sound(book: Ledger, flow_uuid: str, when: str) -> None:
    """Have the doctor look at what is stored of a flow.

    :raises AssertionError: it contradicts itself.
    """
    report = doctor.Report()
    doctor.examine_flow(book, flow_uuid, report)
    if report.is_wrong:
        raise AssertionError(f"the store contradicts itself {when}: {report.findings}")


@contextlib.contextmanager
def _reading(persistence: str) -> Iterator[Ledger]:
    """Open the ledger, for looking at what crashes leave behind."""
    backend = open_backend({"connection": persistence})
    book = ledger.beside(backend)
    try:
        book.signing_key()  # a store's first key is nobody's flow's
        yield book
    finally:
        book.close()
        backend.close()


def rehearse(given: Mapping[str, Any]) -> None:
    """Import whatever a life will import, by doing once what it will do.

    :param given: ``path`` to look for modules in, ``module``, and ``persistence``.
    """
    if given["path"] not in sys.path:
        sys.path.append(given["path"])
    importlib.import_module(given["module"])
    with _reading(given["persistence"]):
        taskflow.engines.load(linear_flow.Flow("rehearsal"), engine="lazy").compile()


def live(given: Mapping[str, Any]) -> None:
    """Tell a scenario in this process, which is made for the purpose.

    :param given: ``scenario``, ``persistence``, ``flow_uuid``, ``directory``, ``life``,
        ``settings``, and ``kill_at`` as for :class:`WriteTap`.
    """
    directory = pathlib.Path(given["directory"])
    journal = j.Journal(journal_path(directory))
    journal.note(j.LIFE, number=given["life"])
    kill_at = given["kill_at"]
    tap = WriteTap(
        lambda number, write: journal.note(j.WRITE, number=number, write=write),
        None if kill_at is None else (kill_at[0], kill_at[1]),
    )
    tap.watch_databases()
    tap.watch_zookeeper()
    site = Site(
        persistence=given["persistence"],
        flow_uuid=given["flow_uuid"],
        directory=directory,
        life=given["life"],
        settings=given["settings"],
    )
    pkgutil.resolve_name(given["scenario"])(site)
    site.close()
