# SPDX-License-Identifier: Apache-2.0
"""Ready-made tasks and retry controllers."""

from __future__ import annotations

from typing import Any

import pytest
import taskflow.engines
from taskflow import states, task
from taskflow.patterns import linear_flow

from lazy_engine import DELAYED, Client, Delay
from lazy_engine.pattern import Backoff, Sleep, retried


def waits(controller: Backoff, attempts: int) -> list[float]:
    return [controller.execute([None] * failed) for failed in range(attempts)]


def test_each_wait_is_longer_and_the_first_attempt_does_not_wait() -> None:
    assert waits(Backoff(5, first_seconds=2, factor=3), 4) == [0, 2, 6, 18]


def test_no_wait_is_longer_than_the_longest() -> None:
    controller = Backoff(10**6, first_seconds=1, factor=10, longest_seconds=500)
    assert waits(controller, 6) == [0, 1, 10, 100, 500, 500]
    assert controller.execute([None] * 100_000) == 500


def test_jitter_shortens_a_wait_by_up_to_its_share() -> None:
    controller = Backoff(3, first_seconds=100, jitter=0.25)
    found = {controller.execute([None]) for _ in range(50)}
    assert all(75 <= seconds <= 100 for seconds in found)
    assert len(found) > 40


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"first_seconds": -1},
        {"factor": 0.5},
        {"longest_seconds": -1},
        {"jitter": 1.5},
        {"jitter": -0.1},
    ],
)
def test_wrong_numbers_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Backoff(**wrong)


def run(flow: Any, **store: Any) -> Any:
    engine = taskflow.engines.load(flow, engine="lazy", store=store)
    return engine, engine.run()


def test_sleep_takes_its_time_as_an_argument_or_when_it_is_made() -> None:
    for sleep, store in ((Sleep("s", 5), {}), (Sleep("s"), {"seconds": 5})):
        engine, state = run(linear_flow.Flow("f").add(sleep), **store)
        assert state == DELAYED
        (delay,) = Client(engine.storage.backend).delays()
        assert (delay.timeout_at - delay.opened_at).total_seconds() == 5


def test_sleep_of_nothing_does_not_wait() -> None:
    _engine, state = run(linear_flow.Flow("f").add(Sleep("s", 0)))
    assert state == states.SUCCESS


class Ask(task.Task):  # type: ignore[misc]
    default_provides = "answer"

    def execute(self) -> Any:
        return Delay()


def test_retried_sets_the_deadline_of_its_task() -> None:
    engine, state = run(retried(Ask("ask"), 3, timeout_seconds=60))
    assert state == DELAYED
    (delay,) = Client(engine.storage.backend).delays()
    assert (delay.timeout_at - delay.opened_at).total_seconds() == 60


def test_retried_twice_in_one_flow() -> None:
    flow = linear_flow.Flow("f").add(
        retried(Ask("one"), 2, first_seconds=1), retried(Ask("two"), 2, first_seconds=5)
    )
    engine, state = run(flow)
    client = Client(engine.storage.backend)
    for name in ("one", "two"):
        assert state == DELAYED
        client.complete(client.token(engine.storage.flow_uuid, name), name)
        state = engine.run()
    assert state == states.SUCCESS


def test_retried_without_a_pause_has_none() -> None:
    names = {node.name for node, _ in retried(Ask("ask"), 3).iter_nodes()}
    assert names == {"ask"}
    names = {node.name for node, _ in retried(Ask("ask"), 3, first_seconds=1).iter_nodes()}
    assert names == {"ask.pause", "ask"}
