# SPDX-License-Identifier: Apache-2.0
"""Outcomes: one canonical form, and clear words for what has none."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskflow.types import failure

from lazy_engine import errors, outcome
from lazy_engine.outcome import Failed, Result, canonical_json, encode_json, encode_object

MANY = 10_000_000

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_comes_back_as_it_was(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), json_values, min_size=2, max_size=6))
def test_order_of_keys_makes_no_difference(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    one, other = (encode_json(Result(v), max_bytes=MANY) for v in (value, turned))
    assert one == other


def test_canonical_form_is_fixed() -> None:
    """Digests are stored: this text must never change."""
    assert canonical_json({"b": [1, 2.5, None], "a": "ü"}) == '{"a":"\\u00fc","b":[1,2.5,null]}'
    assert outcome.digest("result", "1") == (
        "5891d4515562d7c9c7df3d68ce375b028467aac8338ad87d4140b5edc44b1772"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Result(1), Result(2)),
        (Result(1), Result("1")),
        (Result(1), Result(1.5)),
        (Result(True), Result(1)),
        (Result(None), Result({})),
        (Result([1, 2]), Result([2, 1])),
        (Failed("x"), Failed("y")),
        (Failed("x"), Failed("x", kind="k")),
        (Failed("x", kind="k"), Failed("x", kind="l")),
        (Failed("x"), Failed("x", details=1)),
        (Result({"message": "x", "kind": None, "details": None, "types": []}), Failed("x")),
    ],
)
def test_different_outcomes_have_different_digests(one: Any, other: Any) -> None:
    for encode in (encode_json, encode_object):
        assert encode(one, max_bytes=MANY).digest != encode(other, max_bytes=MANY).digest


def test_a_tuple_is_the_list_that_it_comes_back_as() -> None:
    assert encode_json(Result((1, 2)), max_bytes=MANY) == encode_json(
        Result([1, 2]), max_bytes=MANY
    )


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (math.nan, "result is nan"),
        ({"a": [0, math.inf]}, r"result\.a\[1\] is inf"),
        ([-math.inf], r"result\[0\] is -inf"),
        ({1, 2}, "result is a set"),
        ({"a": frozenset()}, r"result\.a is a frozenset"),
        (b"x", "result is a bytes"),
        ({"x": object()}, r"result\.x is a object"),
        ({1: "a"}, "has the key 1: JSON keys are strings, use '1'"),
        ({"a": {None: 1}}, r"result\.a has the key None"),
        ({(1, 2): 1}, r"has the key \(1, 2\)"),
        pytest.param(10**5000, "cannot be written as JSON", id="a very long number"),
    ],
)
def test_what_is_not_strict_json_is_refused_by_its_place(value: Any, place: str) -> None:
    with pytest.raises(errors.OutcomeNotStorable, match=place):
        encode_json(Result(value), max_bytes=MANY)


def test_failures_details_must_be_json_too() -> None:
    with pytest.raises(errors.OutcomeNotStorable):
        encode_json(Failed("x", details={1}), max_bytes=MANY)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_has_a_limit() -> None:
    canonical_json(nested(outcome.MAX_DEPTH))
    with pytest.raises(errors.OutcomeNotStorable, match="nested"):
        canonical_json(nested(outcome.MAX_DEPTH + 1))
    with pytest.raises(errors.OutcomeNotStorable, match="nested"):
        canonical_json(nested(900))


def test_value_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(errors.OutcomeNotStorable):
        canonical_json(endless)


def test_size_is_that_of_the_canonical_text_and_the_limit_is_inclusive() -> None:
    encode_json(Result("x" * 8), max_bytes=10)
    with pytest.raises(errors.OutcomeTooLarge, match=r"11 bytes.*10"):
        encode_json(Result("x" * 9), max_bytes=10)
    with pytest.raises(errors.OutcomeTooLarge):
        encode_json(Result("ü"), max_bytes=7)
    with pytest.raises(errors.OutcomeTooLarge):
        encode_object(Result("x" * 9), max_bytes=10)


@pytest.mark.parametrize("wrong", ["", "x" * 256, 1, b"kind"])
def test_kind_of_a_failure_is_a_short_text(wrong: Any) -> None:
    with pytest.raises(errors.OutcomeNotStorable, match="kind"):
        outcome.payload(Failed("x", kind=wrong))
    outcome.payload(Failed("x", kind="k" * 255))


def test_message_of_a_failure_is_text() -> None:
    with pytest.raises(errors.OutcomeNotStorable, match="message"):
        outcome.payload(Failed(1))  # type: ignore[arg-type]


def test_what_is_no_outcome_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="a Result or a Failed, not str"):
        outcome.payload("done")  # type: ignore[arg-type]


def test_objects_that_are_not_json_are_the_same_only_as_themselves() -> None:
    one, other = {1, 2}, {1, 2}
    digests = [encode_object(Result(v), max_bytes=MANY).digest for v in (one, one, other)]
    assert digests[0] == digests[1] != digests[2]


def test_failed_can_be_made_of_what_is_at_hand() -> None:
    assert Failed.from_error("text", kind="k", details=1) == Failed("text", kind="k", details=1)
    made = Failed.from_error(KeyError("x"))
    assert made.message == "'x'"
    assert made.type_names[:2] == ("KeyError", "LookupError")
    from_failure = Failed.from_error(failure.Failure.from_exception(KeyError("x")), kind="mine")
    assert (from_failure.message, from_failure.kind) == ("'x'", "mine")
    assert "KeyError" in from_failure.type_names


@pytest.mark.parametrize("wrong", [None, 5, {"message": "x"}, KeyboardInterrupt()])
def test_failed_cannot_be_made_of_anything_else(wrong: Any) -> None:
    with pytest.raises(TypeError):
        Failed.from_error(wrong)


def test_failure_carries_kind_types_and_details() -> None:
    sent = Failed.from_error(KeyError("x"), kind="Quota", details={"left": 0})
    _kind, value = outcome.payload(sent)
    made = outcome.failure_from(json.loads(json.dumps(value)), flow_uuid="f", task_name="t")
    assert made.check("Quota") == "Quota"
    assert made.check(LookupError) is LookupError
    assert made.check(errors.DelayFailed) is errors.DelayFailed
    assert made.check(OSError) is None
    error = made.exception
    assert (error.kind, error.details, error.flow_uuid, error.task_name) == (
        "Quota",
        {"left": 0},
        "f",
        "t",
    )
    assert str(error) == "'x'"
    failure.Failure.validate(made.to_dict())
    again = failure.Failure.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again.check("Quota") == "Quota"
    assert made.matches(again)


@pytest.mark.parametrize("kind", [None, "Exception", "a.b.C", "ü"])
def test_failure_of_any_kind_is_one_that_taskflow_takes(kind: str | None) -> None:
    _kind, value = outcome.payload(Failed("m", kind=kind))
    made = outcome.failure_from(value, flow_uuid="f", task_name="t")
    failure.Failure.validate(made.to_dict())


def test_outcomes_are_frozen() -> None:
    for value, name in ((Result(1), "value"), (Failed("x"), "message")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 2)
