# SPDX-License-Identifier: Apache-2.0
"""What comes back from outside: a result or a failure, and how it is stored.

An outcome is stored as *canonical JSON* (sorted keys, no white space, ASCII
only, no NaN), so that "the very same outcome" has an exact meaning: the same
SHA-256 digest over kind and payload.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any, Final

from oslo_utils import reflection
from taskflow.types import failure as taskflow_failure

from lazy_engine import errors

RESULT: Final = "result"
FAILURE: Final = "failure"
#: Made by a delay's own timer: the task fails with ``DelayTimeout``.
TIMEOUT: Final = "timeout"
#: Made by a delay's own timer: the task's result is the delay's default.
DEFAULT: Final = "default"

#: Longest ``kind`` of a failure, in characters.
MAX_KIND_LENGTH: Final = 255

#: Deepest nesting of lists and objects in a stored value.
MAX_DEPTH: Final = 200


@dataclasses.dataclass(frozen=True)
class Result:
    """The outside finished the work.

    :ivar value: what the task's result becomes. On a store that needs JSON:
        strict JSON (tuples come back as lists; no NaN, no sets, no keys that
        are not strings).
    """

    value: Any = None


@dataclasses.dataclass(frozen=True)
class Failed:
    """The outside could not do the work.

    :ivar message: what went wrong, for people.
    :ivar kind: a name for this sort of failure, 1 to 255 characters; it joins
        the failure's type names, so that a retry controller can ask for it
        with ``failure.check(kind)``.
    :ivar details: any strict JSON value.
    """

    message: str
    kind: str | None = dataclasses.field(default=None, kw_only=True)
    details: Any = dataclasses.field(default=None, kw_only=True)
    type_names: tuple[str, ...] = dataclasses.field(default=(), kw_only=True, repr=False)

    @classmethod
    def from_error(
        cls,
        error: str | BaseException | taskflow_failure.Failure,
        *,
        kind: str | None = None,
        details: Any = None,
    ) -> Failed:
        """Make one from what a caller has at hand.

        :param error: a message, an exception, or a TaskFlow failure; of the
            last two the type names are kept too.
        :raises TypeError: for anything else.
        """
        if isinstance(error, str):
            return cls(error, kind=kind, details=details)
        if isinstance(error, taskflow_failure.Failure):
            return cls(error.exception_str, kind=kind, details=details, type_names=tuple(error))
        if isinstance(error, Exception):
            names = tuple(reflection.get_all_class_names(type(error), up_to=Exception))
            return cls(str(error), kind=kind, details=details, type_names=names)
        raise TypeError(
            f"an error must be a str, an exception or a Failure, not {type(error).__name__}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """An outcome as a ledger keeps it.

    :ivar kind: ``"result"`` or ``"failure"``; ``"timeout"`` or ``"default"`` if
        nobody delivered it and the delay's time was up.
    :ivar body: canonical JSON text (a store of Python objects keeps the
        payload itself).
    :ivar digest: hexadecimal SHA-256 over kind and payload.
    """

    kind: str
    body: Any
    digest: str

    @property
    def is_by_timer(self) -> bool:
        """Whether it came from the delay's own timer."""
        return self.kind in (TIMEOUT, DEFAULT)


def canonical_json(value: object, *, what: str = "result") -> str:
    """Return *value* as canonical JSON text.

    :param what: what to call the value in an error.
    :raises OutcomeNotStorable: naming the place inside the value that is not
        strict JSON.
    """
    _require_json(value, what, 0)
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:  # e.g. an integer with too many digits
        raise errors.OutcomeNotStorable(f"{what} cannot be written as JSON: {error}") from None


def _require_json(value: object, place: str, depth: int) -> None:
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if math.isfinite(value):
            return
        raise errors.OutcomeNotStorable(f"{place} is {value!r}, which JSON cannot hold")
    if depth >= MAX_DEPTH:
        raise errors.OutcomeNotStorable(f"{place} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise errors.OutcomeNotStorable(
                    f"{place} has the key {key!r}: JSON keys are strings, use {str(key)!r}"
                )
            _require_json(item, f"{place}.{key}", depth + 1)
        return
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _require_json(item, f"{place}[{index}]", depth + 1)
        return
    raise errors.OutcomeNotStorable(
        f"{place} is a {type(value).__name__}, which JSON cannot hold;"
        " use numbers, strings, lists and dictionaries"
    )


def payload(outcome: Result | Failed) -> tuple[str, Any]:
    """Split an outcome into its kind and the value that is stored.

    Shape of a failure's payload: ``{"message": str, "kind": str | None,
    "details": JSON, "types": [str, …]}``.

    :raises OutcomeNotStorable: for a message or kind of the wrong type or length.
    :raises TypeError: for what is neither a result nor a failure.
    """
    if isinstance(outcome, Result):
        return RESULT, outcome.value
    if not isinstance(outcome, Failed):
        raise TypeError(f"an outcome is a Result or a Failed, not {type(outcome).__name__}")
    message: object = outcome.message
    kind: object = outcome.kind
    if not isinstance(message, str):
        raise errors.OutcomeNotStorable("the message of a failure must be a string")
    if kind is not None and (not isinstance(kind, str) or not 0 < len(kind) <= MAX_KIND_LENGTH):
        raise errors.OutcomeNotStorable(
            f"the kind of a failure must be a string of 1 to {MAX_KIND_LENGTH} characters"
        )
    return FAILURE, {
        "message": outcome.message,
        "kind": outcome.kind,
        "details": outcome.details,
        "types": list(outcome.type_names),
    }


def encode_json(outcome: Result | Failed, *, max_bytes: int) -> Encoded:
    """Encode an outcome for a store that needs JSON.

    :raises OutcomeNotStorable: not strict JSON.
    :raises OutcomeTooLarge: more than *max_bytes* bytes as canonical JSON.
    """
    kind, value = payload(outcome)
    text = canonical_json(value)
    require_size(len(text), max_bytes)
    return Encoded(kind, text, digest(kind, text))


def encode_object(outcome: Result | Failed, *, max_bytes: int) -> Encoded:
    """Encode an outcome for a store of Python objects, which takes anything.

    What is not strict JSON has no canonical form; such a payload counts as
    the same only when it is the same object.
    """
    kind, value = payload(outcome)
    try:
        text = canonical_json(value)
    except errors.OutcomeNotStorable:
        return Encoded(kind, value, f"object:{id(value):x}")
    require_size(len(text), max_bytes)
    return Encoded(kind, value, digest(kind, text))


def digest(kind: str, text: str) -> str:
    """Return the digest that decides whether two outcomes are the same."""
    return hashlib.sha256(f"{kind}:{text}".encode()).hexdigest()


def require_size(size: int, max_bytes: int) -> None:
    """Refuse what is over the store's limit.

    :raises OutcomeTooLarge: saying both sizes.
    """
    if size > max_bytes:
        raise errors.OutcomeTooLarge(
            f"the outcome has {size} bytes as JSON and this store takes {max_bytes};"
            " put large data elsewhere and deliver a reference to it"
        )


def timeout_from(encoded: Encoded, *, flow_uuid: str, task_name: str) -> taskflow_failure.Failure:
    """Build the TaskFlow failure of a task whose time was up."""
    value = json.loads(encoded.body)
    is_silence = value["timer"] == "heartbeat"
    made = errors.HeartbeatTimeout if is_silence else errors.DelayTimeout
    error = made(value["message"], flow_uuid=flow_uuid, task_name=task_name)
    return taskflow_failure.Failure.from_exception(error)


def failure_from(
    value: dict[str, Any], *, flow_uuid: str, task_name: str
) -> taskflow_failure.Failure:
    """Build the TaskFlow failure that a recorded failure stands for.

    Its type names begin with the reporter's ``kind`` and the type names that
    the reporter sent, so that retry controllers can check for either.
    """
    error = errors.DelayFailed(
        value["message"],
        kind=value["kind"],
        details=value["details"],
        flow_uuid=flow_uuid,
        task_name=task_name,
    )
    own = reflection.get_all_class_names(type(error), up_to=Exception)
    wanted = [value["kind"]] if value["kind"] else []
    names = list(dict.fromkeys([*wanted, *value.get("types", ()), *own]))
    # TaskFlow wants the root of all exceptions last (Failure.validate).
    names.sort(key=lambda name: name == "Exception")
    return taskflow_failure.Failure(
        exc_info=(type(error), error, None),
        exc_args=(value["message"],),
        exception_str=value["message"],
        exc_type_names=names,
        traceback_str="",
        causes=(),
    )
