# SPDX-License-Identifier: Apache-2.0
"""A parked flow in a store, and checks that nothing about it has changed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from taskflow import states, task
from taskflow.patterns import linear_flow
from taskflow.persistence import backends

from lazy_engine import DELAYED, Client, Delay, Disposition, address, ledger


class Waits(task.Task):
    default_provides = "answer"

    def execute(self) -> Delay:
        return Delay(details={"who": "asks"})


class Echo(task.Task):
    def execute(self, answer: Any) -> Any:
        return answer


class Plain(task.Task):
    """Does what it is told."""

    def __init__(self, name: str, do: Callable[[Any], Any], undo: Any = None) -> None:
        super().__init__(name)
        self._do, self._undo = do, undo

    def execute(self) -> Any:
        return self._do(self)

    def revert(self, **_kwargs: Any) -> Any:
        return self._undo() if self._undo is not None else None


def raise_it(error: BaseException) -> Any:
    raise error


def make_flow() -> Any:
    return linear_flow.Flow("flow").add(Waits("waits"), Echo("echo"))


class WaitsToUndo(task.Task):
    def execute(self) -> None:
        return None

    def revert(self, **_kwargs: Any) -> Delay:
        return Delay()


def make_flow_that_waits_to_undo() -> Any:
    return linear_flow.Flow("flow").add(WaitsToUndo("undoes"), Waits("waits"))


@dataclasses.dataclass
class World:
    """A store with one flow that is parked in the task ``waits``."""

    backend: Any
    client: Client
    flow_uuid: str
    token: str

    @property
    def ledger(self) -> Any:
        return ledger.beside(self.backend)

    def snapshot(self, *, with_incident: bool = True) -> Any:
        """Return all that is stored about the flow.

        :param with_incident: with the incident, and with what taking the lease in vain leaves.
        """
        record = self.ledger.flow(self.flow_uuid)
        ignored: dict[str, Any] = {"changed_at": 0, "arrival_number": 0}
        if not with_incident:
            ignored |= {"incident": None, "epoch": 0, "commit_number": 0, "check_at": None}
        detail = self.ledger.detail(self.flow_uuid)
        return (
            dataclasses.replace(record, **ignored),
            self.ledger.delays_of(self.flow_uuid),
            (detail.state, detail.meta, {atom.name: atom.to_dict() for atom in detail}),
        )

    def assert_open(self) -> None:
        (waiting,) = self.client.delays(flow_uuid=self.flow_uuid)
        assert waiting.task_name == "waits"
        assert self.client.flow(self.flow_uuid).state == DELAYED

    def assert_goes_on(self, answer: Any = "good") -> None:
        """An answer is still taken, and ends the flow."""
        assert self.client.complete(self.token, answer).disposition is Disposition.ACCEPTED
        assert self.client.resume(self.flow_uuid) == states.SUCCESS
        assert self.client.flow(self.flow_uuid).results == {"waits": answer, "echo": answer}


@contextlib.contextmanager
def opened(url: str) -> Iterator[Any]:
    """Open a store's backend, with all tables made."""
    backend = backends.fetch(address.configuration(url))
    with contextlib.closing(backend):
        ledger.upgrade(backend)
        yield backend
        ledger.beside(backend).close()


def park(backend: Any, factory: str | Callable[..., Any] = make_flow, board: Any = None) -> World:
    """Submit a flow that waits in ``waits``, and run it until it does."""
    client = Client(backend, board)
    flow_uuid = Client(backend).submit(factory)
    assert client.resume(flow_uuid) == DELAYED
    return World(backend, client, flow_uuid, client.token(flow_uuid, "waits"))


@contextlib.contextmanager
def refused(
    world: World, *expected: type[BaseException], match: str | None = None
) -> Iterator[Any]:
    """Expect one of these errors, and that nothing has changed by it."""
    before = world.snapshot()
    with pytest.raises(expected, match=match) as caught:
        yield caught
    assert world.snapshot() == before
    world.assert_open()
