# SPDX-License-Identifier: Apache-2.0
"""How SQLite carries out what a ledger asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa


def statements_and_plans(opened: Any, work: Callable[[], object]) -> tuple[list[str], list[str]]:
    """Have a ledger do some work; return all that it sent, and the steps of what is about its tables."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, text: str, values: Any, *_: Any) -> None:
        sent.append((text, values))

    engine = opened._transactor.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    plans = [
        row[-1]
        for text, values in sent
        if "lazy_" in text
        for row in opened._transactor.read(
            lambda c, text=text, values=values: c.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {text}", values
            ).all()
        )
    ]
    return [text for text, _ in sent], plans
