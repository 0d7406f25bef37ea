# SPDX-License-Identifier: Apache-2.0
"""Errors: each survives the ways in which TaskFlow passes errors on, and decides a job's fate rightly."""

from __future__ import annotations

import copy
import inspect
import json
import pickle

import pytest
from taskflow import exceptions
from taskflow.types import failure

import lazy_engine
from lazy_engine import errors

ALL = sorted(
    (
        found
        for _name, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, errors.LazyEngineError)
    ),
    key=lambda found: found.__name__,
)


def make(cls: type[errors.LazyEngineError]) -> errors.LazyEngineError:
    extra = {"kind": "Quota", "details": {"a": 1}} if cls is errors.DelayFailed else {}
    return cls("what failed", flow_uuid="f", task_name="t", **extra)


def test_all_errors_are_found() -> None:
    assert len(ALL) >= 18


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_error_survives_pickle_and_copy(cls: type[errors.LazyEngineError], again: object) -> None:
    error = make(cls)
    twin = again(error)  # type: ignore[operator]
    assert type(twin) is cls
    assert str(twin) == "what failed"
    assert vars(twin) == vars(error)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_error_survives_taskflows_failure(cls: type[errors.LazyEngineError]) -> None:
    try:
        raise make(cls)
    except errors.LazyEngineError:
        made = failure.Failure()
    stored = json.loads(json.dumps(made.to_dict()))
    failure.Failure.validate(stored)
    again = failure.Failure.from_dict(stored)
    assert again.check(cls) is cls
    assert again.check(errors.LazyEngineError) is errors.LazyEngineError
    assert again.exception_str == "what failed"


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_error_is_a_taskflow_exception_with_a_docstring(cls: type) -> None:
    assert issubclass(cls, exceptions.TaskFlowException)
    assert cls.__doc__


#: After these a stock conductor keeps the job; it consumes the job after anything else.
KEEPING = {"FlowBusy", "Fenced", "StoreUnavailable"}


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_error_decides_the_fate_of_a_job(cls: type) -> None:
    keeps = issubclass(cls, (exceptions.ExecutionFailure, exceptions.StorageFailure))
    assert keeps is (cls.__name__ in KEEPING)


def test_delay_failed_has_the_reporters_kind_and_details() -> None:
    error = make(errors.DelayFailed)
    assert isinstance(error, errors.DelayFailed)
    assert (error.kind, error.details) == ("Quota", {"a": 1})
    plain = errors.DelayFailed("x")
    assert (plain.kind, plain.details, plain.flow_uuid) == (None, None, None)


def test_cause_is_kept() -> None:
    cause = KeyError("why")
    assert errors.FlowIncident("x", cause).cause is cause


def test_every_error_is_public() -> None:
    assert {cls.__name__ for cls in ALL} <= set(lazy_engine.__all__)
