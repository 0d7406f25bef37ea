# SPDX-License-Identifier: Apache-2.0
"""Values that arguments carry, checked before anything is done."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import sys
from typing import Any, NoReturn

from lazy_engine.cli.exit_code import UsageError


def read_json(text: str, option: str) -> Any:
    """Return the value of a JSON argument.

    :raises UsageError: it is not strict JSON. The value is not repeated, it
        may be secret.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{option} takes JSON: {error}; text needs its own quotes: {option} '\"text\"'"
        ) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_typed_json(text: str | None, option: str, kind: type, kind_name: str) -> Any:
    """Return the value of a JSON argument of one kind, empty if it is left out.

    :raises UsageError: it is not JSON, or of another kind.
    """
    if text is None:
        return kind()
    value = read_json(text, option)
    if not isinstance(value, kind):
        raise UsageError(f"{option} takes a JSON {kind_name}")
    return value


def read_instant(text: str, option: str) -> datetime.datetime:
    """Return an instant; without an offset it is one of local time.

    :raises UsageError: it is none.
    """
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} takes a time such as 2030-12-31T23:59:00+00:00") from None
    return found if found.tzinfo else found.astimezone()


def look_in_current_directory() -> None:
    """Let factories be imported from the current directory, after all others."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def read_factory(text: str) -> str:
    """Return a factory's import path, once it is known to lead to a function.

    :param text: ``module:function`` or ``module.function``.
    :raises UsageError: it does not.
    """
    module_name, separator, function_name = text.partition(":")
    if not separator:
        module_name, separator, function_name = text.rpartition(".")
    if not module_name or not function_name.isidentifier():
        raise UsageError(f"FACTORY is module:function or module.function, not {text!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"cannot import {module_name!r}: {error} (the current directory was looked in too)"
        ) from error
    found = getattr(module, function_name, None)
    if not callable(found):
        raise UsageError(f"module {module_name!r} has no function {function_name!r}")
    return f"{module_name}.{function_name}"
