# SPDX-License-Identifier: Apache-2.0
"""Races on purpose: five processes after the same flows, and a check of all that they wrote down.

Two conductors answer doorbells; two deliverers answer every token twice or more, with the same or another outcome, at
once or a little later, some while the task that made the token still runs; a fifth process suspends and resumes half of
the flows as it pleases. The other half has nothing but its doorbells: there every lost wake-up is a flow that never
ends. Nobody dies here, so that no task may be executed twice.

``LAZY_ENGINE_FAULT_SCALE=34`` runs thirty-four times as many flows (about 5,000 in each store).
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from lazy_engine import Client, ledger
from tests import child
from tests.faults import racers
from tests.servers import ZooKeeper
from tests.waiting import wait_until

_SCALE = float(os.environ.get("LAZY_ENGINE_FAULT_SCALE", "1"))
_FLOWS = max(1, int(150 * _SCALE))
_AT_ONCE = 100
_PATIENCE_SECONDS = 120.0
_RACERS = ("conduct", "conduct", "deliver", "deliver", "resume")
_TAKEN = ("ACCEPTED", "EARLY")

Name = tuple[str, str, int]


@pytest.fixture(params=["sqlite", "postgresql"])
def config(
    request: pytest.FixtureRequest,
    zookeeper: ZooKeeper,
    jobboard_path: str,
    tmp_path: pathlib.Path,
    dice: Any,
) -> dict[str, Any]:
    return {
        "url": request.getfixturevalue(f"{request.param}_url"),
        "hosts": zookeeper.hosts,
        "path": jobboard_path,
        "directory": str(tmp_path),
        "seed": dice.randrange(2**32),
    }


@pytest.fixture
def racing(config: dict[str, Any], tmp_path: pathlib.Path) -> Iterator[list[Any]]:
    """The five processes; they end when the file ``stop`` appears."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    Client({"connection": config["url"]}).backend.close()  # makes the tables
    with (tmp_path / "stderr").open("wb") as stderr:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.faults.racers", role, str(number), str(path)],
                cwd=tmp_path,
                env=child.environment(),
                stderr=stderr,
            )
            for number, role in enumerate(_RACERS)
        ]
    try:
        yield processes
    finally:
        (tmp_path / "stop").touch()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class History:
    """All that was written down, for checking."""

    def __init__(self, directory: str) -> None:
        self.calls = list(racers.read(directory, "calls", {}))
        self.receipts = list(racers.read(directory, "receipts", {}))
        self.errors = list(racers.read(directory, "errors", {}))

    def executions(self) -> collections.Counter[Name]:
        return collections.Counter((c["flow"], c["task"], c["attempt"]) for c in self.calls)

    def by_attempt(self) -> dict[Name, list[Any]]:
        found: dict[Name, list[Any]] = collections.defaultdict(list)
        for receipt in self.receipts:
            found[receipt["flow"], receipt["task"], receipt["attempt"]].append(receipt)
        return found

    def check_deliveries(self, backend: Any) -> dict[Name, Any]:
        """Check each attempt's receipts against each other and the ledger; return what was taken."""
        taken: dict[Name, Any] = {}
        for name, receipts in self.by_attempt().items():
            (first,) = (r["value"] for r in receipts if r["disposition"] in _TAKEN)
            taken[name] = first
            for receipt in receipts:
                if receipt["disposition"] == "DUPLICATE":
                    assert receipt["value"] == first, receipts
                elif receipt["disposition"] not in _TAKEN:
                    assert receipt["value"] != first, receipts
        rows = ledger.beside(backend)
        for flow_uuid in {name[0] for name in taken}:
            for delay in rows.delays_of(flow_uuid):
                assert delay.outcome is not None
                assert delay.opened_at and delay.arrived_at and delay.absorbed_at, delay
                assert delay.absorbed_at >= max(delay.opened_at, delay.arrived_at), delay
                assert delay.closed_at, delay
        return taken

    def check_notes(self, taken: dict[Name, Any]) -> None:
        """Check that what each flow was told in the end is what was taken."""
        last: dict[tuple[str, str], tuple[int, Any]] = {}
        for (flow, task, attempt), value in taken.items():
            last[flow, task] = max(last.get((flow, task), (0, None)), (attempt, value))
        for call in self.calls:
            for task, value in call.get("seen", {}).items():
                assert value == last[call["flow"], task][1], call


def submit(client: Client, directory: str, count: int) -> list[str]:
    """Submit flows, a hundred at a time; every second one is left to its doorbells."""
    uuids: list[str] = []
    for number in range(count):
        factory = racers.FLOWS[number % len(racers.FLOWS)]
        left = "meddled" if number % 2 else "left"
        flow_uuid = f"{left}-{uuid.uuid4().hex[:16]}-{factory.__name__}"
        uuids.append(flow_uuid)
        store = {"directory": directory, "flow": flow_uuid}
        client.submit(factory, store=store, flow_uuid=flow_uuid)
        if len(uuids) >= _AT_ONCE:
            client.wait(uuids[-_AT_ONCE], timeout_seconds=_PATIENCE_SECONDS)
    return uuids


@pytest.mark.slow
@pytest.mark.fault
def test_whoever_comes_first_every_outcome_is_applied_once(
    config: dict[str, Any], racing: list[Any]
) -> None:
    print(f"the racers' seed: {config['seed']}")  # the timing of processes is not in anybody's hand
    with racers.racer(len(_RACERS), config) as me:
        uuids = submit(me.client, config["directory"], _FLOWS)
        ends = collections.Counter(
            me.client.wait(flow_uuid, timeout_seconds=_PATIENCE_SECONDS) for flow_uuid in uuids
        )
        assert not list(racers.read(config["directory"], "errors", {}))
        assert ends == {"SUCCESS": _FLOWS}
        wait_until(lambda: me.board.job_count == 0, what="an empty board")
        # The slower deliverer may still have tokens to answer; they are too late, and counted too.
        wait_until(lambda: _all_answered(config["directory"]), timeout_seconds=_PATIENCE_SECONDS)
        history = History(config["directory"])
        assert all(process.poll() is None for process in racing)
        executions = history.executions()
        assert {name: count for name, count in executions.items() if count != 1} == {}
        history.check_notes(history.check_deliveries(me.client.backend))
    told = collections.Counter(receipt["disposition"] for receipt in history.receipts)
    print(f"{_FLOWS} flows, {len(executions)} executions, {len(history.receipts)} receipts", told)
    assert set(told) >= {"ACCEPTED", "EARLY", "DUPLICATE", "CONFLICT"}


def _all_answered(directory: str) -> bool:
    history = History(directory)
    answered = history.by_attempt()
    asked = [(c["flow"], c["task"], c["attempt"]) for c in history.calls if "token" in c]
    return all(len(answered.get(name, ())) >= 2 for name in asked)
