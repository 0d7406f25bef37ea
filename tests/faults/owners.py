# SPDX-License-Identifier: Apache-2.0
"""Flows for the fencing tests, and owners in processes of their own.

Run as a script: ``python owners.py engine|conductor JSON``. What becomes of the run is written to the file ``result``,
as a JSON list of words.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
from typing import Any

import sqlalchemy as sa
import taskflow.engines
from taskflow import task
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.persistence import backends

from lazy_engine import Delay, address
from tests.waiting import wait_until


class Hold(task.Task):
    """Hold the first owner up until it may go on; let any later one through."""

    def __init__(self, directory: str) -> None:
        super().__init__("hold", provides="held_by")
        self._directory = pathlib.Path(directory)

    def execute(self) -> str:
        try:
            (self._directory / "held").open("x").close()
        except FileExistsError:
            return "a later owner"
        wait_until((self._directory / "go on").exists, timeout_seconds=60)
        return "the first owner"


class Ask(task.Task):
    def __init__(self, name: str = "ask") -> None:
        super().__init__(name, provides=name)

    def execute(self) -> Delay:
        return Delay(timeout_seconds=None)


def hold_and_ask(directory: str) -> Any:
    return linear_flow.Flow("flow").add(Hold(directory), Ask())


def ask() -> Any:
    return linear_flow.Flow("flow").add(Ask())


def ask_two() -> Any:
    return unordered_flow.Flow("flow").add(Ask("first"), Ask("second"))


def ask_twice() -> Any:
    return linear_flow.Flow("flow").add(Ask("first"), Ask("second"))


def load(backend: Any, flow_uuid: str, **options: Any) -> Any:
    """Load an engine for a stored flow."""
    connection = backend.get_connection()
    detail = connection.get_flow_details(flow_uuid)
    connection.close()
    return taskflow.engines.load_from_detail(detail, backend=backend, engine="lazy", **options)


def _pause_in_commit(directory: pathlib.Path) -> None:
    """Stop this process once, by itself, within the transaction that stores what ``hold`` returned."""

    def note(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE atomdetails") and "results" in statement:
            connection.info["stores results"] = True

    def stop(connection: sa.Connection) -> None:
        if connection.info.pop("stores results", False) and not (directory / "stopped").exists():
            (directory / "stopped").touch()
            os.kill(os.getpid(), signal.SIGSTOP)

    sa.event.listen(sa.Engine, "after_cursor_execute", note)
    sa.event.listen(sa.Engine, "commit", stop)


def _run_engine(backend: Any, given: dict[str, Any], words: list[str]) -> None:
    if given.get("pauses_in_commit"):
        _pause_in_commit(pathlib.Path(given["directory"]))
    engine = load(backend, given["flow_uuid"], lease_seconds=given["lease_seconds"])
    words.append(engine.run())


def _run_conductor(backend: Any, given: dict[str, Any], words: list[str]) -> None:
    board = jobboards.fetch("board", given["board"], persistence=backend)
    board.connect()
    options = {"lease_seconds": given["lease_seconds"]}
    conductor = conductors.fetch(
        "lazy", "paused", board, persistence=backend, engine_options=options
    )
    for event in ("job_consumed", "job_abandoned"):
        conductor.notifier.register(event, lambda event, details: words.append(event))
    conductor.run(max_dispatches=1)
    board.close()


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    words: list[str] = []
    try:
        run = {"engine": _run_engine, "conductor": _run_conductor}[sys.argv[1]]
        run(backends.fetch(address.configuration(given["url"])), given, words)
    except Exception as error:
        words.append(type(error).__name__)
    pathlib.Path(given["directory"], "result").write_text(json.dumps(words))
