# SPDX-License-Identifier: Apache-2.0
"""What of an atom can be stored: everything that is JSON, and of a failure the rest without it."""

from __future__ import annotations

import json
from typing import Any

from taskflow.persistence import models
from taskflow.types import failure as taskflow_failure

from lazy_engine.ledger import storable


def failed_with(argument: Any, cause: BaseException | None = None) -> taskflow_failure.Failure:
    try:
        raise ValueError("no", argument) from cause
    except ValueError:
        return taskflow_failure.Failure()


def test_arguments_that_are_json_stay() -> None:
    value = failed_with(7).to_dict()
    assert storable.failure(value, json.dumps) == value


def test_arguments_that_are_not_go_and_the_rest_stays() -> None:
    value = failed_with(object(), cause=LookupError(object())).to_dict()
    kept = storable.failure(value, json.dumps)
    assert kept["exc_args"] == ()
    assert [cause["exc_args"] for cause in kept["causes"]] == [()]
    assert (kept["exception_str"], kept["exc_type_names"]) == (
        value["exception_str"],
        value["exc_type_names"],
    )
    json.dumps(kept)


def test_results_of_a_task_are_as_they_are_and_of_a_retry_controller_with_storable_failures() -> (
    None
):
    task = models.TaskDetail("task", "t")
    task.results = {"a": 1}
    assert storable.results(task, json.dumps) == {"a": 1}
    retry = models.RetryDetail("retry", "r")
    retry.results = [("one", {"task": failed_with(object())})]
    ((result, failures),) = storable.results(retry, json.dumps)
    assert (result, failures["task"]["exc_args"]) == ("one", ())
