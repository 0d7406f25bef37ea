# SPDX-License-Identifier: Apache-2.0
"""What a task, a park and a wake cost a database: statements and transactions, counted and not timed.

A number that grows here is a cost that somebody pays for each flow; one that shrinks is to be written down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine import Client, Delay, Disposition, ledger
from lazy_engine.engine import ownership
from lazy_engine.ledger import sql_pipeline
from tests.counting import count_calls


class Step(task.Task):
    def execute(self) -> int:
        return 1


class Wait(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=3600)


def wait_between() -> Any:
    return linear_flow.Flow("f").add(Step("before"), Wait("wait", provides="x"), Step("after"))


@dataclasses.dataclass
class Cost:
    """What was carried out.

    :ivar statements: without those that begin a transaction.
    :ivar writes: transactions that wrote something.
    :ivar reads: transactions that did not.
    :ivar hurried: of those that wrote, the ones that did not wait for the disk (SQLite).
    """

    statements: int = 0
    writes: int = 0
    reads: int = 0
    hurried: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def counted(client: Client) -> Iterator[Cost]:
    cost = Cost()
    engine = ledger.beside(client.backend)._transactor.engine  # type: ignore[attr-defined]
    current: list[str] = []

    def note(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("BEGIN"):
            return
        cost.statements += 1
        if not statement.startswith("SELECT"):
            if not current and engine.dialect.name == "sqlite":
                (level,) = cursor.connection.execute("PRAGMA synchronous").fetchone()
                if level != 2:  # FULL
                    cost.hurried.append(statement)
            current.append(statement)

    def end(_connection: Any) -> None:
        cost.writes += bool(current)
        cost.reads += not current
        current.clear()

    sa.event.listen(engine, "after_cursor_execute", note)
    sa.event.listen(engine, "commit", end)
    try:
        yield cost
    finally:
        sa.event.remove(engine, "after_cursor_execute", note)
        sa.event.remove(engine, "commit", end)


@pytest.fixture(params=["sqlite", "postgresql"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    made = Client({"connection": request.getfixturevalue(f"{request.param}_url")})
    assert made.resume(made.submit(wait_between)) == "DELAYED"  # the key and the like
    with contextlib.closing(made.backend):
        yield made


def test_cost_of_a_park_and_a_wake(client: Client) -> None:
    with counted(client) as submitting:
        flow_uuid = client.submit(wait_between)
    assert (submitting.statements, submitting.writes, submitting.reads) == (5, 1, 0)
    with counted(client) as parking:
        assert client.resume(flow_uuid) == "DELAYED"
    # Take, which brings the atoms along; after the first task; with the park.
    assert (parking.statements, parking.writes, parking.reads) == (11, 3, 0)
    token = client.token(flow_uuid, "wait")
    with counted(client) as delivering:
        client.complete(token, 1)
    assert (delivering.statements, delivering.writes, delivering.reads) == (4, 1, 0)
    with counted(client) as waking:
        assert client.resume(flow_uuid) == "SUCCESS"
    # Read; take; with the end.
    assert (waking.statements, waking.writes, waking.reads) == (11, 2, 1)


def test_cost_of_a_wake_with_a_kept_engine(client: Client) -> None:
    keeping = Client(client.backend, keep_engines=8)
    flow_uuid = keeping.submit(wait_between)
    assert keeping.resume(flow_uuid) == "DELAYED"
    keeping.complete(keeping.token(flow_uuid, "wait"), 1)
    with counted(client) as waking:
        assert keeping.resume(flow_uuid) == "SUCCESS"
    # Take; with the end.
    assert (waking.statements, waking.writes, waking.reads) == (8, 2, 0)


def test_server_is_waited_for_twice_in_a_transaction(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the first answer and for the end; no wait is for nothing."""
    wait = sql_pipeline.Pipeline.wait
    waits: list[int] = []

    def note(self: sql_pipeline.Pipeline) -> None:
        waits.append(1)
        wait(self)

    def count(call: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
        waits.clear()
        return call(*arguments), len(waits)

    client = Client({"connection": postgresql_url})
    with contextlib.closing(client.backend):
        assert client.resume(client.submit(wait_between)) == "DELAYED"  # the key and the like
        monkeypatch.setattr(sql_pipeline.Pipeline, "wait", note)
        flow_uuid, submitting = count(client.submit, wait_between)
        assert submitting == 2
        assert count(client.resume, flow_uuid) == ("DELAYED", 3 * 2)
        receipt, delivering = count(client.complete, client.token(flow_uuid, "wait"), 1)
        assert (receipt.disposition, delivering) == (Disposition.ACCEPTED, 2)
        assert count(client.resume, flow_uuid) == ("SUCCESS", 1 + 2 * 2)


def test_cost_of_a_task_is_one_commit_of_two_statements(client: Client) -> None:
    def cost(count: int) -> Cost:
        flow = linear_flow.Flow("row").add(*[Step(f"step {number}") for number in range(count)])
        engine = taskflow.engines.load(flow, engine="lazy", backend=client.backend)
        with counted(client) as found:
            engine.run()
        return found

    few, many = cost(3), cost(13)
    assert many.statements - few.statements == 2 * 10
    assert (many.writes - few.writes, many.reads - few.reads) == (10, 0)


def test_tasks_side_by_side_are_one_commit(client: Client) -> None:
    def cost(count: int) -> Cost:
        flow = linear_flow.Flow("f").add(
            unordered_flow.Flow("wide").add(*[Step(f"step {number}") for number in range(count)])
        )
        engine = taskflow.engines.load(flow, engine="lazy", backend=client.backend)
        with counted(client) as found:
            engine.run()
        return found

    few, many = cost(3), cost(30)
    assert (few.statements, few.writes) == (many.statements, many.writes)


def test_only_taking_the_lease_of_a_begun_flow_does_not_wait_for_the_disk(
    tmp_path: pathlib.Path,
) -> None:
    made = Client({"connection": f"sqlite:///{tmp_path / 'flows.db'}"})
    with contextlib.closing(made.backend), counted(made) as cost:
        flow_uuid = made.submit(wait_between)
        made.resume(flow_uuid)
        made.complete(made.token(flow_uuid, "wait"), 1)
        assert made.resume(flow_uuid) == "SUCCESS"
    (taking,) = cost.hurried
    assert taking.startswith("UPDATE lazy_flows SET ") and " epoch=" in taking


class Hesitant(task.Task):
    """Gives its token away, and is answered and looked after before it waits."""

    def execute(self) -> Delay:
        delay = Delay(timeout_seconds=3600)
        HOOKS.pop()(delay.token)
        return delay


HOOKS: list[Any] = []


def hesitate() -> Any:
    return linear_flow.Flow("f").add(Hesitant("hesitant", provides="x"), Step("after"))


def test_early_outcome_that_a_look_has_told_of_is_absorbed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit must not take the look's word for it that nothing new has come."""
    owners: list[Any] = []
    begin = ownership.Ownership.begin

    def remember(owned: Any) -> None:
        owners.append(owned)
        begin(owned)

    monkeypatch.setattr(ownership.Ownership, "begin", remember)

    def answer(token: str) -> None:
        assert client.complete(token, 1).disposition is Disposition.EARLY
        assert owners[-1].look()

    HOOKS.append(answer)
    flow_uuid = client.submit(hesitate)
    assert client.resume(flow_uuid) == "SUCCESS"


def test_calls_of_a_wake_grow_with_the_flow_and_not_with_its_square(
    tmp_path: pathlib.Path,
) -> None:
    def calls(made: Client, count: int) -> int:
        def row() -> Any:
            steps = [Step(f"step {number}") for number in range(count)]
            return linear_flow.Flow("f").add(*steps, Wait("wait"), Step("last"))

        engine = taskflow.engines.load(row(), engine="lazy", backend=made.backend)
        assert engine.run() == "DELAYED"
        flow_uuid = engine.storage.flow_uuid
        made.complete(made.token(flow_uuid, "wait"), 1)
        flow = row()
        return count_calls(lambda: made.resume(flow_uuid, flow=flow))

    made = Client({"connection": f"sqlite:///{tmp_path / 'flows.db'}"})
    with contextlib.closing(made.backend):
        calls(made, 1)
        none, few, many = calls(made, 1), calls(made, 101), calls(made, 401)
    assert many - none < 4.2 * (few - none)
