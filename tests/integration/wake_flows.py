# SPDX-License-Identifier: Apache-2.0
"""Flows for the conductor tests; other processes load them by name."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Delay
from tests.waiting import wait_until


class Ask(task.Task):
    default_provides = "answer"

    def execute(self) -> Any:
        return Delay()


class Note(task.Task):
    default_provides = "noted_at"

    def execute(self, answer: Any) -> float:
        return time.time()


class HangOnce(task.Task):
    """Hang in the first process that runs it, after leaving its pid; not again."""

    def execute(self, answer: Any, pid_path: str) -> str:
        path = pathlib.Path(pid_path)
        if not path.exists():
            path.write_text(str(os.getpid()))
            time.sleep(3600)  # until its process is killed
        return "ran again"


class Clock(task.Task):
    def execute(self, **_: Any) -> float:
        return time.time()


class Nap(task.Task):
    default_provides = "nap"

    def execute(self, seconds: float) -> Any:
        return Delay.sleep(seconds)


class Count(task.Task):
    def execute(self, path: str, nap: Any) -> None:
        with pathlib.Path(path).open("a") as file:
            file.write("x")


class GiveUp(task.Task):
    def execute(self, seconds: float) -> Any:
        return Delay(timeout_seconds=seconds)


class Make(task.Task):
    """Waits in ``revert``."""

    def execute(self) -> str:
        return "made"

    def revert(self, **_: Any) -> Any:
        return Delay()


class Look(task.Task):
    """Waits, and looks for itself."""

    def execute(self, path: str) -> Any:
        return Delay(probe_every_seconds=0.3)

    def probe(self, path: str) -> Any:
        return pathlib.Path(path).read_text() if pathlib.Path(path).exists() else None


def naps() -> linear_flow.Flow:
    return linear_flow.Flow("naps").add(Clock("begun"), Nap("nap"), Clock("woken"))


def naps_and_counts() -> linear_flow.Flow:
    return linear_flow.Flow("naps-and-counts").add(Nap("nap"), Count("count"))


def gives_up() -> linear_flow.Flow:
    return linear_flow.Flow("gives-up").add(GiveUp("give-up"))


def compensates() -> linear_flow.Flow:
    return linear_flow.Flow("compensates").add(Make("made"), Ask("ask"))


def polls() -> linear_flow.Flow:
    return linear_flow.Flow("polls").add(Look("look"))


class Begin(task.Task):
    """Says that it has begun, and waits to be let go on."""

    def execute(self, directory: str) -> None:
        pathlib.Path(directory, "begun").touch()
        wait_until(pathlib.Path(directory, "go").exists, timeout_seconds=60)

    def revert(self, directory: str, **_: Any) -> None:
        pathlib.Path(directory, "undone").touch()


class GoOn(task.Task):
    def execute(self, directory: str) -> None:
        pathlib.Path(directory, "went on").touch()


def goes_step_by_step() -> linear_flow.Flow:
    return linear_flow.Flow("step-by-step").add(Begin("begin"), GoOn("go-on"))


def one_wait() -> linear_flow.Flow:
    return linear_flow.Flow("one-wait").add(Ask("ask"), Note("note"))


def hangs_once() -> linear_flow.Flow:
    return linear_flow.Flow("hangs-once").add(Ask("ask"), HangOnce("hang"))
