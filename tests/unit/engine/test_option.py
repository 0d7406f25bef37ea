# SPDX-License-Identifier: Apache-2.0
"""Options: what an engine can be told, and what it says to anything else."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import pytest
import taskflow.engines
from taskflow.patterns import linear_flow

from lazy_engine.engine.option import DEFAULT_LEASE_SECONDS, Options


def test_defaults() -> None:
    options = Options.read({})
    assert (options.linger_seconds, options.lease_seconds) == (0.0, DEFAULT_LEASE_SECONDS)
    assert options.executor._is_serial


def test_seconds_may_be_text_as_in_a_uri() -> None:
    options = Options.read({"linger_seconds": "1.5", "lease_seconds": "5"})
    assert (options.linger_seconds, options.lease_seconds) == (1.5, 5.0)


@pytest.mark.parametrize("name", ["linger_seconds", "lease_seconds"])
@pytest.mark.parametrize("wrong", ["soon", None, -1, "nan", float("inf"), [], "-0.1"])
def test_wrong_seconds_are_refused_by_name(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Options.read({name: wrong})


@pytest.mark.parametrize("wrong", ["lingr_seconds", "linger_second", "max_worker", "Executor"])
def test_misspelt_name_is_refused_with_the_right_one(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"no engine option '{wrong}': did you mean '[a-z_]+'"):
        taskflow.engines.load(linear_flow.Flow("flow"), engine="lazy", **{wrong: 1})


def test_options_of_other_engines_are_passed_over() -> None:
    Options.read({"dispatch_periodicity": 1, "exchange": "e", "topics": [], "wait_timeout": 1})


def test_lease_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 0\.1"):
        Options.read({"lease_seconds": 0})


@pytest.mark.parametrize("name", ["serial", "SERIAL"])
def test_serial_runs_in_the_engines_thread(name: str) -> None:
    assert Options.read({"executor": name}).executor._is_serial


@pytest.mark.parametrize("name", ["thread", "threads", "threaded", "Threads"])
def test_threads(name: str) -> None:
    executor = Options.read({"executor": name, "max_workers": "3"}).executor
    assert not executor._is_serial
    assert executor._max_workers == 3


def test_given_executor_is_used() -> None:
    with futures.ThreadPoolExecutor(1) as pool:
        assert not Options.read({"executor": pool}).executor._is_serial


@pytest.mark.parametrize("wrong", ["processes", "greenthreads", "", "worker"])
def test_unknown_executor_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"executor.*serial"):
        Options.read({"executor": wrong})


@pytest.mark.parametrize("wrong", [None, 5, object(), [1]])
def test_what_is_no_executor_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="executor"):
        Options.read({"executor": wrong})


def test_process_pool_is_a_type_error() -> None:
    with (
        futures.ProcessPoolExecutor(1) as pool,
        pytest.raises(TypeError, match="tasks cannot run in processes"),
    ):
        Options.read({"executor": pool})


# BUG option.py: 0 and -1 are only refused when the engine runs, by a flow that has been taken already.
@pytest.mark.parametrize("wrong", ["many", [], 0, -1])
def test_wrong_number_of_workers_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="max_workers"):
        Options.read({"executor": "threads", "max_workers": wrong})


def test_options_come_through_keywords_and_uri() -> None:
    flow = linear_flow.Flow("flow")
    keyword = taskflow.engines.load(flow, engine="lazy", linger_seconds=2)
    uri = taskflow.engines.load(flow, engine="lazy://?linger_seconds=2&executor=threads")
    assert keyword._settings.linger_seconds == uri._settings.linger_seconds == 2.0
    assert not uri._settings.executor._is_serial


def test_wrong_option_is_told_when_the_engine_is_loaded() -> None:
    with pytest.raises(ValueError, match="linger_seconds"):
        taskflow.engines.load(linear_flow.Flow("flow"), engine="lazy", linger_seconds="soon")
