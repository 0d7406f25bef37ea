# SPDX-License-Identifier: Apache-2.0
"""``Delay``: what a task answers when somebody outside has to finish it."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
from typing import Any, Final, NoReturn

from lazy_engine import attempt as attempts
from lazy_engine import errors, outcome, token
from lazy_engine.terms import DEFAULT, FAIL, ON_TIMEOUT, Terms

#: Name of the state in which an atom, or a flow, waits for outside.
DELAYED: Final = "DELAYED"

#: Largest ``details``, in bytes of JSON.
MAX_DETAILS_BYTES: Final = 16 * 1024
#: Largest ``default``, in bytes of JSON.
MAX_DEFAULT_BYTES: Final = 64 * 1024
#: Longest time that a delay can ask for: a hundred years.
MAX_SECONDS: Final = 100 * 366 * 86400.0


class _Unset(enum.Enum):
    UNSET = enum.auto()


_UNSET: Final = _Unset.UNSET


class Delay(Exception):
    """Return (or raise) this from ``execute`` or ``revert`` to wait without holding anything.

    It knows its token as soon as it is made, so that the token can be handed
    out first and the ``Delay`` returned afterwards. An outcome that arrives in
    between is kept.

    :param timeout_seconds: from the moment at which the delay is stored to its
        deadline; ``None``: wait as long as it takes. Left out: the task's
        ``delay_timeout_seconds`` if it has one, or else the engine's
        ``default_timeout_seconds`` (7 days).
    :param heartbeat_seconds: longest time without ``Client.heartbeat``; after
        that the delay times out as if its deadline had passed.
    :param probe_every_seconds: have the task's own ``probe`` method look that
        often whether the outside is done. It takes the arguments of
        ``execute`` (and ``probe_state``, if it names that) and answers
        ``None`` or :class:`StillWaiting` to go on waiting, or the result; what
        it raises fails the task.
    :param on_timeout: ``"fail"``: the task fails with ``DelayTimeout``;
        ``"default"``: its result is *default*; ``"alert"``: it goes on waiting,
        and is marked where delays are listed.
    :param default: strict JSON, at most 64 KiB.
    :param details: strict JSON (at most 16 KiB) for the people and programs
        that list what waits; it is not secret.
    :raises DelayMisuse: made anywhere but in ``execute`` or ``revert`` of a
        task that a lazy engine is running; or a probe was asked for and there
        is no ``probe`` method, or it was asked for in ``revert``.
    :raises ValueError: a number of seconds that is none, or not above zero; an
        unknown *on_timeout*; a *default* that would never be used.
    :raises OutcomeNotStorable: *details* or *default* is not strict JSON.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float | _Unset | None = _UNSET,
        heartbeat_seconds: float | None = None,
        probe_every_seconds: float | None = None,
        on_timeout: str = FAIL,
        default: Any = None,
        details: Any = None,
    ) -> None:
        running = _attempt()
        if timeout_seconds is _UNSET:
            timeout_seconds = running.default_timeout_seconds
        if on_timeout not in ON_TIMEOUT:
            raise ValueError(f"on_timeout takes {', '.join(ON_TIMEOUT)}, not {on_timeout!r}")
        if default is not None and on_timeout != DEFAULT:
            raise ValueError('default= is used with on_timeout="default" only')
        if probe_every_seconds is not None:
            _require_probe(running)
        self._begin(
            running,
            Terms(
                timeout_seconds=_seconds("timeout_seconds", timeout_seconds),
                heartbeat_seconds=_seconds("heartbeat_seconds", heartbeat_seconds),
                probe_seconds=_seconds("probe_every_seconds", probe_every_seconds),
                on_timeout=on_timeout,
                default_text=_encode(default, "default", MAX_DEFAULT_BYTES) or "null",
            ),
            details,
        )

    def _begin(self, running: attempts.Attempt, terms: Terms, details: Any) -> None:
        super().__init__()
        self._attempt = running
        self._terms = terms
        self._details_text = _encode(details, "details", MAX_DETAILS_BYTES)
        running.made += 1

    @classmethod
    def sleep(cls, seconds: float, *, result: Any = None) -> Delay:
        """Wait for a time, from the moment at which the delay is stored.

        An outcome that is delivered meanwhile ends the wait at once.

        :param seconds: at least 0.
        :param result: what the task's result becomes, strict JSON.
        """
        given = _seconds("seconds", seconds, may_be_zero=True)
        return cls._asleep(
            Terms(timeout_seconds=given, on_timeout=DEFAULT, default_text=_result_text(result))
        )

    @classmethod
    def until(cls, when_at: datetime.datetime, *, result: Any = None) -> Delay:
        """Wait for an instant; one that has passed is over at once.

        :param when_at: timezone-aware.
        :raises ValueError: it is not timezone-aware.
        """
        if when_at.tzinfo is None:
            raise ValueError("when_at must be timezone-aware, e.g. datetime.now(UTC) + …")
        until = int(when_at.timestamp() * 1e6)
        return cls._asleep(
            Terms(until=until, on_timeout=DEFAULT, default_text=_result_text(result))
        )

    @classmethod
    def _asleep(cls, terms: Terms) -> Delay:
        made = cls.__new__(cls)
        made._begin(_attempt(), terms, None)
        return made

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
    def traceparent(self) -> str | None:
        """The trace that this attempt is part of (W3C Trace Context), to hand on.

        Give it to the outside as the ``traceparent`` of the request, so that its
        work joins the trace; not secret. It is kept with the delay, and the
        resume goes on with it. ``None`` without :mod:`lazy_engine.telemetry`.
        """
        watched = self._attempt.watched
        return None if watched is None else watched.traceparent

    @property
    def details_text(self) -> str | None:
        """*details* as canonical JSON, or ``None``."""
        return self._details_text

    @property
    def terms(self) -> Terms:
        """What it asks of the clock."""
        return self._terms

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


@dataclasses.dataclass(frozen=True)
class StillWaiting:
    """What a task's ``probe`` answers to go on waiting and to remember something.

    :ivar state: strict JSON (at most 16 KiB); the next ``probe`` gets it as
        ``probe_state``, in whatever process that runs.
    """

    state: Any = None

    def to_text(self) -> str | None:
        """Return the state as canonical JSON.

        :raises OutcomeNotStorable: it is not strict JSON, or too large.
        """
        return _encode(self.state, "state", MAX_DETAILS_BYTES)


def _attempt() -> attempts.Attempt:
    running = attempts.current.get()
    if running is None:
        raise errors.DelayMisuse(
            "a Delay can only be made in a task that a lazy engine is running:"
            ' load the flow with engine="lazy", and make the Delay inside execute() or revert()'
        )
    return running


def _require_probe(running: attempts.Attempt) -> None:
    if running.name.kind == token.REVERT:
        raise errors.DelayMisuse(
            f"task '{running.task_name}': probe_every_seconds works in execute() only",
            flow_uuid=running.name.flow_uuid,
            task_name=running.task_name,
        )
    if not running.has_probe:
        raise errors.DelayMisuse(
            f"task '{running.task_name}' asks for a probe and has no probe() method:"
            " give it one that takes the arguments of execute()",
            flow_uuid=running.name.flow_uuid,
            task_name=running.task_name,
        )


def _result_text(result: object) -> str:
    return _encode(result, "result", MAX_DEFAULT_BYTES) or "null"


def _seconds(name: str, value: object, *, may_be_zero: bool = False) -> float | None:
    if value is None and not may_be_zero:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} takes a number of seconds, not {value!r}")
    if value < 0 or (value == 0 and not may_be_zero) or value > MAX_SECONDS:
        least = "at least 0" if may_be_zero else "above 0"
        raise ValueError(f"{name} must be {least} and at most {MAX_SECONDS:.0f}, not {value!r}")
    return float(value)


def encode_details(details: Any) -> str | None:
    """Return what goes with a delay or a heartbeat as canonical JSON.

    :raises OutcomeNotStorable: it is not strict JSON, or too large.
    """
    return _encode(details, "details", MAX_DETAILS_BYTES)


def _encode(value: object, what: str, max_bytes: int) -> str | None:
    if value is None:
        return None
    text = outcome.canonical_json(value, what=what)
    if len(text) > max_bytes:
        raise errors.OutcomeNotStorable(
            f"{what} has {len(text)} bytes as JSON; at most {max_bytes} are kept"
        )
    return text
