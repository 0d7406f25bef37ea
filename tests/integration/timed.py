# SPDX-License-Identifier: Apache-2.0
"""Flows that wait for time, in a store whose clock the tests move."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import taskflow.engines
from taskflow import task
from taskflow.types import failure

from lazy_engine import Client, Delay, ledger


class Say(task.Task):
    """Notes what it does and undoes."""

    def __init__(self, name: str, log: list[str], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._log = log

    def execute(self) -> str:
        self._log.append(f"do {self.name}")
        return self.name

    def revert(self, result: Any, **_: Any) -> Any:
        kind = next(iter(result)) if isinstance(result, failure.Failure) else str(result)
        self._log.append(f"undo {self.name} after {kind.rpartition('.')[2]}")
        return None


class Ask(Say):
    """Waits in ``execute``."""

    def __init__(self, name: str, log: list[str], **asked: Any) -> None:
        super().__init__(name, log)
        self.asked = asked

    def execute(self) -> Any:
        delay = Delay(**self.asked)
        self._log.append(f"ask {self.name} {delay.attempt}")
        return delay


class Compensate(Say):
    """Waits in ``revert``."""

    def __init__(self, name: str, log: list[str], **asked: Any) -> None:
        super().__init__(name, log)
        self.asked = asked

    def revert(self, result: Any, **_: Any) -> Any:
        delay = Delay(**self.asked)
        self._log.append(f"undo {self.name} {delay.attempt}")
        return delay


class Break(Say):
    def execute(self) -> Any:
        raise ValueError("broken")


@dataclasses.dataclass
class Timed:
    """A store with a clock to move, and one flow in it.

    :ivar make: makes the flow anew; each step loads it from the store.
    """

    client: Client
    log: list[str]
    make: Callable[[], Any] = dict
    flow_uuid: str = ""
    seconds: float = 0.0

    @property
    def ledger(self) -> Any:
        return ledger.beside(self.client.backend)

    def start(self, make: Callable[[], Any], **options: Any) -> str:
        self.make = make
        engine = taskflow.engines.load(
            make(), engine="lazy", backend=self.client.backend, **options
        )
        self.flow_uuid = engine.storage.flow_uuid
        return str(engine.run())

    def pass_seconds(self, seconds: float) -> list[str]:
        """Let time pass, and do one round of the watchdog; return what wants to be resumed."""
        self.seconds += seconds
        self.ledger.clock_offset_seconds = self.seconds
        return [uuid for uuid in self.client.sweep() if uuid == self.flow_uuid]

    def resume(self) -> str:
        """Run the flow on in an engine that is loaded anew."""
        return self.client.resume(self.flow_uuid, flow=self.make())

    def pass_and_resume(self, seconds: float) -> str:
        assert self.pass_seconds(seconds) == [self.flow_uuid]
        return self.resume()

    def token(self, task_name: str) -> str:
        return self.client.token(self.flow_uuid, task_name)

    def tasks(self) -> dict[str, str]:
        return dict(self.client.flow(self.flow_uuid).tasks)

    def delays(self) -> list[Any]:
        return self.client.delays(flow_uuid=self.flow_uuid)
