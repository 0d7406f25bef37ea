# SPDX-License-Identifier: Apache-2.0
"""Makes flows with their factories, and says what is wrong with one.

How a factory is named and stored is TaskFlow's own
(``taskflow.engines.save_factory_details``, taskflow 6.5); only the words in
which it is refused differ.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import taskflow.engines
from oslo_utils import reflection
from taskflow import flow as taskflow_flow
from taskflow import task as taskflow_task
from taskflow.persistence import models

from lazy_engine import garbage, incident, report
from lazy_engine.ledger import Ledger


def remember(
    detail: models.FlowDetail,
    factory: str | Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Write into a flow detail how its flow is made; make and return the flow.

    :raises ImportError: the factory cannot be imported by its name.
    :raises ValueError: it has none, or makes no flow.
    """
    name = factory if isinstance(factory, str) else _name_of(factory)
    flow = _make(name, args, kwargs)
    taskflow.engines.save_factory_details(detail, name, args, kwargs)
    return flow


def make(detail: models.FlowDetail) -> Any:
    """Make the flow of a stored flow detail; what goes wrong is raised as it is.

    :raises LookupError: it was stored without a factory.
    """
    made_by = (detail.meta or {}).get("factory")
    if made_by is None:
        raise LookupError("it has no factory that could make it")
    return _make(made_by["name"], made_by.get("args") or (), made_by.get("kwargs") or {})


def make_stored(
    detail: models.FlowDetail, ledger: Ledger, origin: Mapping[str, Any] | None = None
) -> Any:
    """Make the flow of a stored flow detail.

    :param origin: name and priority of the job that brought it, as engine options.
    :raises FlowIncident: it cannot be made; that is written on the flow.
    """
    lead = f"flow {detail.uuid} ({detail.name})"
    made_by = (detail.meta or {}).get("factory")
    if made_by is None:
        message = (
            f"{lead} has no factory that could make it: run it where its code is, with"
            " Client.resume(uuid, flow=...)"
        )
        raise report.write(ledger, detail.uuid, incident.NO_FACTORY, message)
    try:
        with garbage.put_off(len(detail)):
            return make(detail)
    except Exception as error:
        # A factory is anybody's code.
        message = (
            f"{lead} cannot be made by its factory {made_by.get('name')!r}:"
            f" {type(error).__name__}: {error}; the flow is kept as it is: mend the code, then"
            f" Client.resume() or 'lazy-engine resume {detail.uuid}'"
        )
        raise report.write_first(
            ledger, detail, incident.FACTORY_FAILED, message, error, origin=origin
        ) from error


def _name_of(factory: object) -> str:
    if not callable(factory):
        raise ValueError(
            f"a flow factory is a function or its import path (module.function), not {factory!r}"
        )
    name = str(reflection.get_callable_name(factory))
    try:
        is_there = _find(name) is factory
    except ImportError:
        is_there = False
    if not is_there:
        raise ValueError(
            f"the flow factory {name} cannot be found again by that name, and a flow that parks"
            " is made anew when it goes on: give a function at the top of a module"
        )
    return name


def _find(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.rpartition(".")
    why = "that is no import path"
    if module_name and function_name:
        try:
            found: object = getattr(importlib.import_module(module_name), function_name, None)
        except ImportError as error:
            raise _not_imported(name, str(error)) from error
        if callable(found):
            return found
        why = f"module {module_name!r} has no function {function_name!r}"
    raise _not_imported(name, why)


def _not_imported(name: str, why: str) -> ImportError:
    return ImportError(
        f"cannot import the flow factory {name!r}: {why}; give the import path of a function at"
        " the top of a module (module.function) that this process can import"
    )


def _make(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    flow = _find(name)(*args, **kwargs)
    if not isinstance(flow, (taskflow_flow.Flow, taskflow_task.Task)):
        raise ValueError(f"the flow factory {name!r} returned a {type(flow).__name__}, not a flow")
    return flow
