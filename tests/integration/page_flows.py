# SPDX-License-Identifier: Apache-2.0
"""Flows for the tests of the page; the served process loads them by name."""

from __future__ import annotations

from typing import Any

from taskflow import task
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine import Delay

#: What a stranger would have run, in as many ways as there are places for text.
EVIL = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>\"'>"


class Do(task.Task):
    def execute(self, **_: Any) -> dict[str, str]:
        return {"done": self.name}


class Give(task.Task):
    default_provides = "image"

    def execute(self, size: int, password: str) -> str:
        return f"image of {size}"


class Ask(task.Task):
    def execute(self, image: str | None = None) -> Delay:
        return Delay(timeout_seconds=5 * 3600, details={"who": "release manager", "why": self.name})


class AskEvil(task.Task):
    def execute(self) -> Delay:
        return Delay(details={"who": EVIL, EVIL: [EVIL]})


class FailEvil(task.Task):
    def execute(self) -> None:
        raise RuntimeError(EVIL)


class WaitsToUndo(task.Task):
    def execute(self) -> int:
        return 1

    def revert(self, **_: Any) -> Delay:
        return Delay(details={"who": "cloud", "why": "delete the volume"})


class Overdue(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=0.01, on_timeout="alert", details={"who": "the bank"})


def release() -> Any:
    checks = unordered_flow.Flow("checks").add(Ask("security"), Ask("legal"), Do("lint"))
    return linear_flow.Flow("release").add(Give("fetch"), checks, Do("publish"))


def approval() -> Any:
    return linear_flow.Flow("approval").add(Ask("approve"), Do("go on"))


def evil() -> Any:
    parts = unordered_flow.Flow("parts").add(AskEvil(f"ask {EVIL}"), Do(f"do {EVIL}"))
    return linear_flow.Flow(f"flow {EVIL}").add(parts)


def evil_failure() -> Any:
    return linear_flow.Flow("evil failure").add(WaitsToUndo("made"), FailEvil(f"fails {EVIL}"))


def overdue() -> Any:
    return linear_flow.Flow("payment").add(Overdue("charge"))


def large() -> Any:
    rows = [
        linear_flow.Flow(f"row {number}").add(Do(f"prepare {number}"), Ask(f"confirm {number}"))
        for number in range(99)
    ]
    return linear_flow.Flow("large").add(
        Do("begin"), unordered_flow.Flow("rows").add(*rows), Do("end")
    )
