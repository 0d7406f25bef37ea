# SPDX-License-Identifier: Apache-2.0
"""The processes that race in ``test_races``, and the flows they race for.

``python -m tests.faults.racers ROLE NUMBER CONFIG`` with a JSON file: ``{"url", "hosts", "path", "directory", "seed"}``.
Everybody writes what he did into journals of his own, one JSON object a line, in that directory:

- ``calls-PID``: a task was executed: ``{"flow", "task", "attempt", "token"}``, and ``"seen"`` for one that does not wait;
- ``receipts-PID``: an outcome was delivered: ``{"flow", "task", "attempt", "value", "disposition", "woken"}``;
- ``errors-PID``: something that must not happen.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from taskflow import retry, task
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards
from taskflow.patterns import graph_flow, linear_flow, unordered_flow

from lazy_engine import Client, Delay
from lazy_engine.outcome import Failed, Result

#: Between two looks at what the racers have left for each other; they end when they are told to.
_PAUSE_SECONDS = 0.002


def write(directory: str, kind: str, entry: Mapping[str, Any]) -> None:
    """Add a line to this process' journal; one write, so that threads do not mix theirs."""
    path = os.path.join(directory, f"{kind}-{os.getpid()}")
    with open(path, "ab", buffering=0) as journal:
        journal.write((json.dumps(entry) + "\n").encode())


def read(directory: str, kind: str, read_to: dict[pathlib.Path, int]) -> Iterator[Any]:
    """Yield what journals of a kind have gained."""
    for path in pathlib.Path(directory).glob(f"{kind}-*"):
        with path.open("rb") as journal:
            journal.seek(read_to.get(path, 0))
            for line in journal:
                if line.endswith(b"\n"):
                    read_to[path] = read_to.get(path, 0) + len(line)
                    yield json.loads(line)


# -- flows ------------------------------------------------------------------------


class Ask(task.Task):
    """Tell the outside, dawdle a little, and wait."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, provides=name, **options)

    def execute(self, directory: str, flow: str, **_others: Any) -> Delay:
        delay = Delay()
        call = {"flow": flow, "task": self.name, "attempt": delay.attempt, "token": delay.token}
        write(directory, "calls", call)
        dawdle(random, 0.05)
        return delay


class Note(task.Task):
    """Write down what was answered."""

    def execute(self, directory: str, flow: str, **answers: Any) -> None:
        seen = {name: value for name, value in answers.items() if name in ("a", "b", "c")}
        write(directory, "calls", {"flow": flow, "task": self.name, "attempt": 1, "seen": seen})


def pair_and_one() -> Any:
    both = unordered_flow.Flow("both").add(Ask("a"), Ask("b"))
    return linear_flow.Flow("pair and one").add(
        both, Ask("c", requires=("a", "b")), Note("note", requires=("a", "b", "c"))
    )


def retried() -> Any:
    tried = linear_flow.Flow("tried", retry=retry.Times(3, "times")).add(Ask("a"))
    return linear_flow.Flow("retried").add(tried, Ask("b"), Note("note", requires=("a", "b")))


def lonely() -> Any:
    return graph_flow.Flow("lonely").add(Ask("a"), Note("note", requires=("a",)))


FLOWS = (pair_and_one, retried, lonely)


def dawdle(dice: Any, longest_seconds: float) -> None:
    """Take no time, a little, or as long as that; this is what makes the race."""
    time.sleep(dice.choice((0, 0, dice.random() ** 2)) * longest_seconds)


# -- racers -----------------------------------------------------------------------


class Racer:
    """One process: its client, its board, its dice."""

    def __init__(self, number: int, config: Mapping[str, Any]) -> None:
        self.number = number
        self.seed = config["seed"]
        self.dice = random.Random(f"{self.seed}:{number}")
        self.directory: str = config["directory"]
        self.stop_path = pathlib.Path(self.directory) / "stop"
        backend = Client({"connection": config["url"]}).backend
        self.board = open_board(config, backend, f"racer-{number}")
        self.client = Client(backend, self.board)

    def is_over(self) -> bool:
        return self.stop_path.exists()

    def close(self) -> None:
        self.board.close()
        self.client.backend.close()

    def conduct(self) -> None:
        conductor = conductors.fetch(
            "lazy", f"conductor-{self.number}", self.board, persistence=self.client.backend
        )
        thread = threading.Thread(target=conductor.run)
        thread.start()
        while not self.is_over() and thread.is_alive():
            thread.join(0.1)
        conductor.stop()
        thread.join()

    def deliver(self) -> None:
        """Answer every call, as its token and the seed say, and not alone."""
        read_to: dict[pathlib.Path, int] = {}
        while not self.is_over():
            for call in read(self.directory, "calls", read_to):
                if "token" in call:
                    self._answer(call)
            time.sleep(_PAUSE_SECONDS)  # another process writes the calls, and tells nobody

    def _answer(self, call: Mapping[str, Any]) -> None:
        # Both deliverers throw the same dice, and so know what the other one does.
        dice = random.Random(f"{self.seed}:{call['flow']}:{call['task']}:{call['attempt']}")
        agree = dice.random() < 0.5
        can_fail = call["attempt"] == 1 and call["task"] == "a" and dice.random() < 0.7
        repeats = dice.random() < 0.2
        value: Any = f"by {0 if agree else self.number}"
        outcome = (
            Failed(value) if can_fail and self._is_retried(call["flow"]) else Result({"is": value})
        )
        dawdle(self.dice, self.dice.choice((0, 0.01, 0.1)))
        for _ in range(2 if repeats else 1):
            (receipt,) = self.client.deliver_many([(call["token"], outcome)])
            if isinstance(receipt, Exception):
                raise receipt
            entry = {
                "flow": receipt.flow_uuid,
                "task": receipt.task_name,
                "attempt": receipt.attempt,
                "value": outcome.value if isinstance(outcome, Result) else outcome.message,
                "disposition": receipt.disposition.name,
                "woken": receipt.woken,
            }
            write(self.directory, "receipts", entry)

    def _is_retried(self, flow_uuid: str) -> bool:
        return flow_uuid.endswith("-retried")

    def resume(self) -> None:
        """Resume flows that are nobody's business, and suspend some first; let the others be."""
        known: dict[str, None] = {}
        read_to: dict[pathlib.Path, int] = {}
        while not self.is_over():
            new = {call["flow"]: None for call in read(self.directory, "calls", read_to)}
            known.update((flow, None) for flow in new if flow.startswith("meddled"))
            for flow_uuid in self.dice.sample(list(known), min(5, len(known))):
                if self.dice.random() < 0.3:
                    self.client.suspend(flow_uuid, "a race")
                    dawdle(self.dice, 0.02)
                if self.client.resume(flow_uuid) in ("SUCCESS", "REVERTED", "FAILURE"):
                    del known[flow_uuid]
            time.sleep(_PAUSE_SECONDS)  # the race is between those who pause, each by its dice


@contextlib.contextmanager
def racer(number: int, config: Mapping[str, Any]) -> Iterator[Racer]:
    made = Racer(number, config)
    try:
        yield made
    finally:
        made.close()


def open_board(config: Mapping[str, Any], backend: Any, name: str) -> Any:
    conf = {
        "board": "zookeeper",
        "hosts": config["hosts"],
        "path": config["path"],
        "check_compatible": False,
    }
    board = jobboards.fetch(name, conf, persistence=backend)
    board.connect()
    return board


def main() -> None:
    role, number, config_path = sys.argv[1:]
    warnings.simplefilter("ignore")
    config = json.loads(pathlib.Path(config_path).read_text())
    roles: dict[str, Callable[[Racer], None]] = {
        "conduct": Racer.conduct,
        "deliver": Racer.deliver,
        "resume": Racer.resume,
    }
    try:
        with racer(int(number), config) as me:
            roles[role](me)
    except BaseException:
        write(config["directory"], "errors", {"role": role, "error": traceback.format_exc()})
        raise


if __name__ == "__main__":
    main()
