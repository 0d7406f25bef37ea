# SPDX-License-Identifier: Apache-2.0
"""A load that goes on while servers fail, in this process, and a check of its whole history.

Flows of :mod:`tests.faults.racers` are submitted, run by conductors and answered all the time. Whoever is told that
something could not be done does it again, with the same words, until he is told that it was.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from taskflow import exceptions as taskflow_exceptions
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards

from lazy_engine import Client, StoreUnavailable, ledger
from lazy_engine.outcome import Result
from tests.faults import racers
from tests.waiting import wait_until

_PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 30.0
#: So that what a lost server left behind is not what the test waits for.
LEASE_SECONDS = 2.0
_FLOWS = (racers.pair_and_one, racers.lonely)


@contextlib.contextmanager
def open_board(hosts: str, persistence: Any, name: str, **settings: Any) -> Iterator[Any]:
    """Open a job board whose client looks for its server again and again."""
    retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.2}
    conf = {"board": "zookeeper", "hosts": hosts, "path": "/jobs", "timeout": 2.0, **settings}
    conf = {**conf, "check_compatible": False, "connection_retry": retry}
    board = jobboards.fetch(name, conf, persistence=persistence)
    with contextlib.closing(board):
        board.connect()
        yield board


@contextlib.contextmanager
def open_backend(url: str) -> Iterator[Any]:
    backend = Client({"connection": url}).backend
    with contextlib.closing(backend), contextlib.closing(ledger.beside(backend)):
        yield backend


@contextlib.contextmanager
def conducting(board: Any, persistence: Any, name: str = "tests") -> Iterator[Any]:
    """Have a conductor at work that must not give up, and that must stop when it is told to."""
    conductor = conductors.fetch(
        "lazy",
        name,
        board,
        persistence=persistence,
        engine_options={"lease_seconds": LEASE_SECONDS},
    )
    thread = threading.Thread(target=conductor.run, name=name)
    thread.start()
    try:
        yield conductor
        assert thread.is_alive(), "the conductor gave up"
    finally:
        conductor.stop()
        thread.join(10)
        assert not thread.is_alive(), "the conductor did not stop"


class Load:
    """Submits flows and answers their tasks, until told to come to an end.

    :ivar refusals: how often a delivery, or a submission, was not taken.
    """

    def __init__(self, client: Client, directory: pathlib.Path) -> None:
        self._client = client
        self._directory = str(directory)
        self._submitted: list[str] = []
        self._receipts: list[tuple[str, Any, Any]] = []
        self._unexpected: list[BaseException] = []
        self._is_enough = threading.Event()
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.refusals: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> Load:
        for work in (self._submit, self._deliver):
            thread = threading.Thread(target=self._guard, args=(work,), name=work.__name__)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_enough.set()
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def await_progress(self, count: int = 3) -> None:
        """Wait until so many more flows have ended."""
        before = len(self._ended())
        wait_until(
            lambda: self._unexpected or len(self._ended()) >= before + count,
            timeout_seconds=_PATIENCE_SECONDS,
            what=f"{count} more flows to end",
        )
        assert not self._unexpected

    def finish(self, boards: list[Any]) -> None:
        """Submit no more, see every flow end and every doorbell go, and check the history."""
        self._is_enough.set()
        self._threads[0].join()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for flow_uuid in self._submitted:
            left = max(0.0, deadline - time.monotonic())
            state = self._client.wait(flow_uuid, timeout_seconds=left)
            assert state == "SUCCESS", f"{flow_uuid}: {state}; {self._unexpected}"
        for board in boards:
            # A job whose claim was lost, or that a conductor leaves alone for a while, goes last.
            # Asked is the server: what a board without a conductor remembers may be old.
            wait_until(
                lambda board=board: not list(board.iterjobs(ensure_fresh=True)),
                what="an empty board",
                timeout_seconds=_PATIENCE_SECONDS,
            )
        self._is_over.set()
        self._threads[1].join()
        assert not self._unexpected
        self._check()

    def _ended(self) -> set[str]:
        notes = racers.read(self._directory, "calls", {})
        return {call["flow"] for call in notes if "seen" in call}

    def _check(self) -> None:
        """What a receipt says was taken is in the ledger, was absorbed once, and was seen."""
        told: dict[tuple[str, str], Any] = {}
        for _, value, receipt in self._receipts:
            told[receipt.flow_uuid, receipt.task_name] = value
            assert receipt.disposition.name in ("ACCEPTED", "EARLY", "DUPLICATE"), receipt
        book = ledger.beside(self._client.backend)
        for flow_uuid in self._submitted:
            for delay in book.delays_of(flow_uuid):
                assert delay.absorbed_at is not None and delay.closed_at, delay
                assert (flow_uuid, delay.task_name) in told, delay
        calls = list(racers.read(self._directory, "calls", {}))
        for call in calls:
            for task, value in call.get("seen", {}).items():
                assert value == told[call["flow"], task], call
        # One token for each attempt, however often it was executed.
        tokens = collections.defaultdict(set)
        for call in calls:
            if "token" in call:
                tokens[call["flow"], call["task"]].add((call["attempt"], call["token"]))
        assert {name: len(found) for name, found in tokens.items() if len(found) > 1} == {}
        print(f"{len(self._submitted)} flows, {len(told)} answers, refused: {dict(self.refusals)}")

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._unexpected.append(error)

    def _submit(self) -> None:
        for number in itertools.count():
            if self._is_enough.is_set():
                return
            flow_uuid = f"flow-{number}"
            store = {"directory": self._directory, "flow": flow_uuid}
            factory = _FLOWS[number % len(_FLOWS)]
            while not self._attempt(
                "submit",
                lambda f=factory, s=store, u=flow_uuid: self._client.submit(
                    f, store=s, flow_uuid=u
                ),
            ):
                if self._is_over.wait(_PAUSE_SECONDS):
                    return
            self._submitted.append(flow_uuid)
            self._is_enough.wait(_PAUSE_SECONDS * 3)

    def _deliver(self) -> None:
        read_to: dict[pathlib.Path, int] = {}
        waiting: list[Any] = []
        answered: set[str] = set()
        while not self._is_over.wait(_PAUSE_SECONDS):
            waiting += [c for c in racers.read(self._directory, "calls", read_to) if "token" in c]
            waiting = [
                call
                for call in waiting
                if call["token"] not in answered and not self._answer(call, answered)
            ]

    def _answer(self, call: Any, answered: set[str]) -> bool:
        value = {"is": f"{call['flow']} {call['task']}"}
        receipt = self._attempt(
            "deliver", lambda: self._client.complete(call["token"], Result(value).value)
        )
        if receipt:
            self._receipts.append((call["token"], value, receipt))
            answered.add(call["token"])
        return bool(receipt)

    def _attempt(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except StoreUnavailable:
            self.refusals[f"{what}: the store"] += 1
        except taskflow_exceptions.JobFailure:
            self.refusals[f"{what}: the job board"] += 1
        return None
