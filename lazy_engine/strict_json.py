# SPDX-License-Identifier: Apache-2.0
"""Reading JSON that strangers sent, by the letter of RFC 8259.

Python's reader takes more than JSON, and reads the same text as other
readers do not: whoever checks a message and whoever acts on it must not see
two different ones.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from lazy_engine import outcome

#: An outcome may stand a few levels below the top of what carries it.
_MAX_DEPTH: Final = outcome.MAX_DEPTH + 4


def read(text: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Refused are NaN and infinities (also numbers too large for a float), names
    that come twice in an object, and more than about 200 levels.

    :raises ValueError: with words that hold nothing of the text.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    try:
        value = json.loads(
            decoded,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_distinct,
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"it is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # Most texts need no look at their depth.
    if decoded.count("[") + decoded.count("{") > _MAX_DEPTH:
        _require_shallow(value)
    return value


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("it is not JSON: NaN and Infinity are no numbers there")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number in it is too large")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object in it has the same name twice")
    return found


def _require_shallow(value: object) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")
