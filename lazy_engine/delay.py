# SPDX-License-Identifier: Apache-2.0
"""``Delay``: what a task answers when somebody outside has to finish it."""

from __future__ import annotations

import datetime
import enum
from typing import Any, Final, NoReturn

from lazy_engine import attempt as attempts
from lazy_engine import errors, outcome, token

#: Name of the state in which an atom, or a flow, waits for outside.
DELAYED: Final = "DELAYED"

#: Largest ``details``, in bytes of JSON.
MAX_DETAILS_BYTES: Final = 16 * 1024


class _Unset(enum.Enum):
    UNSET = enum.auto()


_UNSET: Final = _Unset.UNSET


class Delay(Exception):
    """Return (or raise) this from ``execute`` to wait without holding anything.

    It knows its token as soon as it is made, so that the token can be handed
    out first and the ``Delay`` returned afterwards. An outcome that arrives in
    between is kept.

    :param timeout_seconds: ``None``, or left out: wait as long as it takes.
        Deadlines, and the other arguments that need a clock, are refused by
        this version.
    :param details: strict JSON (at most 16 KiB) for the people and programs
        that list what waits; it is not secret.
    :raises DelayMisuse: made anywhere but in the ``execute`` of a task that a
        lazy engine is running.
    :raises NotSupportedYet: for the arguments that need a clock.
    :raises OutcomeNotStorable: *details* is not strict JSON.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float | _Unset | None = _UNSET,
        heartbeat_seconds: float | None = None,
        probe_every_seconds: float | None = None,
        on_timeout: str = "fail",
        default: Any = None,
        details: Any = None,
    ) -> None:
        super().__init__()
        running = attempts.current.get()
        if running is None:
            raise errors.DelayMisuse(
                "a Delay can only be made in a task that a lazy engine is running:"
                ' load the flow with engine="lazy", and make the Delay inside execute()'
            )
        if running.name.kind == token.REVERT:
            raise _not_yet("a Delay made in revert()", running)
        for name, is_asked in (
            ("timeout_seconds", timeout_seconds not in (_UNSET, None)),
            ("heartbeat_seconds", heartbeat_seconds is not None),
            ("probe_every_seconds", probe_every_seconds is not None),
            ("on_timeout", on_timeout != "fail"),
            ("default", default is not None),
        ):
            if is_asked:
                raise _not_yet(name, running)
        self._attempt = running
        self._details_text = _encode_details(details)
        running.made += 1

    @classmethod
    def sleep(cls, seconds: float, *, result: Any = None) -> Delay:
        """Wait for a time.

        :raises NotSupportedYet: in this version, always.
        """
        raise _not_yet("Delay.sleep")

    @classmethod
    def until(cls, when_at: datetime.datetime, *, result: Any = None) -> Delay:
        """Wait for an instant.

        :raises NotSupportedYet: in this version, always.
        """
        raise _not_yet("Delay.until")

    @property
    def token(self) -> str:
        """The secret text with which outside answers this attempt."""
        return token.sign(self._attempt.name, self._attempt.signing_key)

    @property
    def id(self) -> str:
        """A UUID for this attempt: not secret, and the same after a crash.

        Give it to the outside as the request's idempotency key.
        """
        return self._attempt.name.delay_id

    @property
    def attempt(self) -> int:
        """Which attempt of the task this is, from 1."""
        return self._attempt.name.attempt

    @property
    def details_text(self) -> str | None:
        """*details* as canonical JSON, or ``None``."""
        return self._details_text

    def belongs_to(self, running: attempts.Attempt) -> bool:
        """Whether it was made by that very attempt."""
        return self._attempt is running

    def __repr__(self) -> str:
        return (
            f"<Delay of {self._attempt.task_name!r}, attempt {self.attempt},"
            f" id={self.id}, token=***>"
        )

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Delay cannot be pickled or copied: return it from the task that made it")


def _not_yet(what: str, running: attempts.Attempt | None = None) -> errors.NotSupportedYet:
    return errors.NotSupportedYet(
        f"{what} is not supported by this version of lazy_engine;"
        " make a Delay() in execute() and answer it from outside",
        flow_uuid=running.name.flow_uuid if running else None,
        task_name=running.task_name if running else None,
    )


def _encode_details(details: Any) -> str | None:
    if details is None:
        return None
    text = outcome.canonical_json(details, what="details")
    if len(text) > MAX_DETAILS_BYTES:
        raise errors.OutcomeNotStorable(
            f"details has {len(text)} bytes as JSON; at most {MAX_DETAILS_BYTES} are kept"
        )
    return text
