# SPDX-License-Identifier: Apache-2.0
"""What is shown of one flow: long texts are cut, and nothing is told of arguments but what they are."""

from __future__ import annotations

from typing import Any

import pytest
from taskflow import states
from taskflow.persistence import models

from lazy_engine import picture, token
from lazy_engine.delay import DELAYED
from lazy_engine.token import DelayKey, Key


def test_token_is_masked_before_a_text_is_cut() -> None:
    key = Key(key_id="k", secret=b"0123456789abcdef")
    secret = token.sign(DelayKey(flow_uuid="f", atom_uuid="a", kind="execute", attempt=1), key)
    text = "x" * 1990 + " " + secret
    assert picture.cut(text) == "x" * 1990 + " lz1.***"
    # Not where only its end is cut off, which could be tried out.
    assert secret[:10] not in picture.cut("x" * 1970 + " " + secret + "y")


def test_long_text_is_cut_and_says_so() -> None:
    assert picture.cut("a" * 2000) == "a" * 2000
    assert picture.cut("a" * 2001) == "a" * 2000 + " …"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("hunter2", "text of 7 characters"),
        (42, "a number"),
        (True, "true or false"),
        (None, "nothing"),
        ({"password": "hunter2"}, "an object of 1 values"),
        (["hunter2"], "a list of 1 values"),
        (b"hunter2", "a list of 7 values"),
        (object, "type"),
    ],
)
def test_value_is_described_and_not_told(value: Any, what: str) -> None:
    assert picture.describe(value) == what


def test_what_went_wrong_comes_before_what_is_done() -> None:
    details = {
        state: models.TaskDetail(state, f"uuid-{state}")
        for state in (states.SUCCESS, states.PENDING, states.REVERTED, states.FAILURE, DELAYED)
    }
    for state, detail in details.items():
        detail.state = state
    details[states.REVERTED].failure = _Failure()
    found = sorted(picture.tasks(list(details.values()), {}), key=picture.importance)
    assert [task.look for task in found] == ["reverted", "failed", "waiting", "done", "pending"]
    assert found[0].failure == "it failed"


class _Failure:
    def pformat(self) -> str:
        return "it failed"
