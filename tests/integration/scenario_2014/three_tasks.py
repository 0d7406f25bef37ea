# SPDX-License-Identifier: Apache-2.0
"""The flow of the scenarios: three tasks in a row, the third of which is answered later.

Its first task says on standard output that it is at work, and works until a line comes in on standard input.
"""

from __future__ import annotations

import sys
from typing import Any

from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Delay


class First(task.Task):
    default_provides = "first"

    def execute(self, who: str) -> str:
        print("at work", flush=True)
        sys.stdin.readline()
        return f"first of {who}"


class Second(task.Task):
    default_provides = "second"

    def execute(self, first: str) -> list[str]:
        return [first, "second"]


class Third(task.Task):
    default_provides = "third"

    def execute(self, second: list[str]) -> Any:
        return Delay(details={"asked": second})


def make() -> linear_flow.Flow:
    return linear_flow.Flow("three tasks").add(First("first"), Second("second"), Third("third"))
