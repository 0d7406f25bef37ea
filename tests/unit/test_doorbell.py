# SPDX-License-Identifier: Apache-2.0
"""Whatever a job board raises, whoever rings is told that it did not take the doorbell."""

from __future__ import annotations

from typing import Any

import pytest
from taskflow import exceptions as taskflow_exceptions

from lazy_engine import doorbell
from lazy_engine.board import Board
from lazy_engine.ledger.record import FlowRecord

FLOW = FlowRecord(flow_uuid="f", flow_name="flow")


class Refusing:
    """A job board that raises."""

    name = "mine"
    connected = True

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def post(self, *_: Any, **__: Any) -> None:
        raise self.error


def ring(error: BaseException) -> None:
    ledger: Any = None  # is asked for the flow's details by conductors of this process
    doorbell.ring(Board(Refusing(error)), FLOW, ledger)


def test_error_of_another_library_is_a_job_failure() -> None:
    error = OSError("no route")
    with pytest.raises(
        taskflow_exceptions.JobFailure, match=r"'mine'.*OSError.*no route"
    ) as raised:
        ring(error)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [taskflow_exceptions.JobFailure("away"), KeyboardInterrupt()])
def test_what_boards_may_raise_is_left_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        ring(error)
    assert raised.value is error
