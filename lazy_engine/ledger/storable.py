# SPDX-License-Identifier: Apache-2.0
"""Parts of an atom detail in a form that a store of JSON can keep; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from taskflow.persistence import models


def failure(value: Mapping[str, Any], dumps: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a failure's dictionary without arguments that cannot be JSON here.

    An exception may hold anything. Its task has failed in any case, and a
    turn that can never be committed would be run again for ever.

    :param value: as from ``Failure.to_dict``.
    :param dumps: encodes a value, or raises what says that it cannot.
    """
    try:
        dumps(value["exc_args"])
        arguments = value["exc_args"]
    except (TypeError, ValueError, RecursionError):
        arguments = ()
    causes = [failure(cause, dumps) for cause in value["causes"]]
    return {**value, "exc_args": arguments, "causes": causes}


def results(detail: models.AtomDetail, dumps: Callable[[Any], Any]) -> Any:
    """Return an atom's results: a task's as they are, a retry controller's history encoded."""
    found = detail.to_dict()["results"]
    if not isinstance(detail, models.RetryDetail):
        return found
    return [
        (result, {name: failure(failed, dumps) for name, failed in failures.items()})
        for result, failures in found
    ]
