# SPDX-License-Identifier: Apache-2.0
"""The six scenarios that the Mistral team wrote down in 2014 (github.com/enykeev/lazyengine).

Every step is a process of its own. All they share is the store.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

_STEP = pathlib.Path(__file__).parent / "scenario_2014" / "step.py"
_TIMEOUT_SECONDS = 60.0


@pytest.fixture(params=["sqlite", "postgresql", "zookeeper"])
def store_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


class Execution:
    """A process that starts an execution, and is alive until the execution rests."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.flow_uuid = json.loads(self._say())

    def _say(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def wait_until_at_work(self) -> None:
        assert self._say() == "at work"

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> str:
        """Let the first task end; return the state in which the process left the execution."""
        said, _ = self._process.communicate("go on\n", timeout=_TIMEOUT_SECONDS)
        assert self._process.returncode == 0
        return str(json.loads(said))


class Store:
    """Runs steps against one store."""

    def __init__(self, url: str) -> None:
        self._url = url

    @contextlib.contextmanager
    def start(self, who: str) -> Iterator[Execution]:
        command = [sys.executable, str(_STEP), self._url, "start", who]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            try:
                yield Execution(process)
            finally:
                process.kill()

    def _do(self, *step: str) -> Any:
        done = subprocess.run(
            [sys.executable, str(_STEP), self._url, *step],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
        return json.loads(done.stdout) if done.stdout else None

    def look(self, flow_uuid: str) -> Any:
        return self._do("look", flow_uuid)

    def suspend(self, flow_uuid: str) -> None:
        self._do("suspend", flow_uuid)

    def complete(self, flow_uuid: str, result: Any) -> Any:
        return self._do("complete", flow_uuid, json.dumps(result))

    def resume(self, flow_uuid: str) -> Any:
        return self._do("resume", flow_uuid)


def test_two_executions_of_one_flow_one_suspended_one_answered_from_outside(
    store_url: str,
) -> None:
    store = Store(store_url)
    with store.start("one") as first, store.start("two") as second:
        # 1. Both are started, each from a process of its own, and count as running.
        first.wait_until_at_work()
        second.wait_until_at_work()
        assert first.flow_uuid != second.flow_uuid
        for execution in (first, second):
            seen = store.look(execution.flow_uuid)
            assert seen["state"] == "RUNNING"
            assert seen["results"] == {}
            assert seen["owner"] is not None
            assert execution.is_alive()

        # 2. A process that has the uuid alone suspends the first one while its first task is at work.
        store.suspend(first.flow_uuid)
        assert store.look(first.flow_uuid)["state"] == "RUNNING"
        assert first.finish() == "SUSPENDED"

        # The second one goes on to its third task, and nobody runs it any more.
        assert store.look(second.flow_uuid)["state"] == "RUNNING"
        assert second.finish() == "DELAYED"

    # 3. Anybody can read how far they are, and what they have done.
    suspended = {
        "state": "SUSPENDED",
        "tasks": {"first": "SUCCESS", "second": "PENDING", "third": "PENDING"},
        "results": {"first": "first of one"},
        "waits": {},
        "owner": None,
    }
    assert store.look(first.flow_uuid) == suspended
    assert store.look(second.flow_uuid) == {
        "state": "DELAYED",
        "tasks": {"first": "SUCCESS", "second": "SUCCESS", "third": "DELAYED"},
        "results": {"first": "first of two", "second": ["first of two", "second"]},
        "waits": {"third": {"asked": ["first of two", "second"]}},
        "owner": None,
    }

    # 4. It waits in no process; one completes its task by name, yet another one carries it on to its end.
    assert store.complete(second.flow_uuid, {"answer": 42}) == "accepted"
    waiting = store.look(second.flow_uuid)
    assert (waiting["state"], waiting["tasks"]["third"]) == ("DELAYED", "DELAYED")
    assert store.resume(second.flow_uuid) == "SUCCESS"

    # 5. and 6. Every process is gone; the store has kept it all.
    assert store.look(first.flow_uuid) == suspended
    assert store.look(second.flow_uuid) == {
        "state": "SUCCESS",
        "tasks": {"first": "SUCCESS", "second": "SUCCESS", "third": "SUCCESS"},
        "results": {
            "first": "first of two",
            "second": ["first of two", "second"],
            "third": {"answer": 42},
        },
        "waits": {},
        "owner": None,
    }
