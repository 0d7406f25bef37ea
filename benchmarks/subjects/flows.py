# SPDX-License-Identifier: Apache-2.0
"""What the subjects that run TaskFlow's flows share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from taskflow import task
from taskflow.patterns import linear_flow, unordered_flow


class Step(task.Task):
    def execute(self) -> int:
        return 1


def make_row(count: int, shape: str = "row") -> Any:
    """Return a flow of so many tasks that do nothing, in a row or side by side."""
    pattern = {"row": linear_flow.Flow, "side": unordered_flow.Flow}[shape]
    return pattern(shape).add(*[Step(f"task {number}") for number in range(count)])


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count what SQLAlchemy carries out in this process."""
    counts = {"statements": 0, "commits": 0}

    def on_statement(*_: Any) -> None:
        counts["statements"] += 1

    def on_commit(_connection: Any) -> None:
        counts["commits"] += 1

    sa.event.listen(sa.Engine, "after_cursor_execute", on_statement)
    sa.event.listen(sa.Engine, "commit", on_commit)
    try:
        yield counts
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", on_statement)
        sa.event.remove(sa.Engine, "commit", on_commit)
