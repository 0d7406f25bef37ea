# SPDX-License-Identifier: Apache-2.0
"""What ``lazy-engine`` exits with, and which error means which code."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from taskflow import exceptions as taskflow_exceptions

from lazy_engine import errors
from lazy_engine.receipt import Disposition


class ExitCode(enum.IntEnum):
    """The process' exit code; see :data:`MEANINGS`."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    INVALID_TOKEN = 3
    CONFLICT = 4
    LATE = 5
    UNREACHABLE = 6
    NOT_FOUND = 7
    INCIDENT = 8
    UNSOUND = 9
    STALLED = 10


class UsageError(Exception):
    """An argument that cannot be used; says which, and what would do."""


class CommandFailed(Exception):
    """The command could not do what it was asked to; its text says it all."""


class BoardUnreachable(Exception):
    """The job board does not answer."""


MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.DONE: "done (a duplicate, early or accepted delivery too)",
    ExitCode.FAILED: "the flow ended badly, or the command failed otherwise",
    ExitCode.WRONG_USE: "wrong use",
    ExitCode.INVALID_TOKEN: "the token is not valid",
    ExitCode.CONFLICT: "conflict: another outcome was recorded before",
    ExitCode.LATE: "late: the delay is closed",
    ExitCode.UNREACHABLE: "the store or the job board cannot be reached",
    ExitCode.NOT_FOUND: "no such flow, or no such delay",
    ExitCode.INCIDENT: "incident: the flow cannot be run, for a reason that is not its own",
    ExitCode.UNSOUND: "doctor: something in the store contradicts what is promised",
    ExitCode.STALLED: "doctor: sound, but something is left that nobody is going to do",
}

#: The first class that fits counts.
_OF_ERRORS: Final[tuple[tuple[type[BaseException], ExitCode], ...]] = (
    (UsageError, ExitCode.WRONG_USE),
    (errors.UnsupportedBackend, ExitCode.WRONG_USE),
    (errors.OutcomeNotStorable, ExitCode.WRONG_USE),
    (errors.OutcomeTooLarge, ExitCode.WRONG_USE),
    (errors.InvalidToken, ExitCode.INVALID_TOKEN),
    (errors.UnknownDelay, ExitCode.NOT_FOUND),
    (errors.UnknownFlow, ExitCode.NOT_FOUND),
    (errors.FlowIncident, ExitCode.INCIDENT),
    (BoardUnreachable, ExitCode.UNREACHABLE),
    (taskflow_exceptions.StorageFailure, ExitCode.UNREACHABLE),
    (taskflow_exceptions.JobFailure, ExitCode.UNREACHABLE),
)

_OF_DISPOSITIONS: Final[Mapping[Disposition, ExitCode]] = {
    Disposition.CONFLICT: ExitCode.CONFLICT,
    Disposition.LATE: ExitCode.LATE,
}


def of_error(error: BaseException) -> ExitCode:
    """Return the exit code for a command that ended with *error*."""
    for kind, code in _OF_ERRORS:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED


def words(error: BaseException) -> str:
    """Return what to say of an error; its type is named if it is not one of ours."""
    text = str(error).strip() or "(no message)"
    if isinstance(error, errors.FlowIncident):
        # TaskFlow puts the causes behind the message, which has named them and
        # ends with what to do.
        text = str(error.args[0])
    is_ours = isinstance(error, (CommandFailed, errors.LazyEngineError))
    if of_error(error) is ExitCode.FAILED and not is_ours:
        return f"{type(error).__name__}: {text}"
    return text


def of_disposition(disposition: Disposition) -> ExitCode:
    """Return the exit code for a delivery with that receipt."""
    return _OF_DISPOSITIONS.get(disposition, ExitCode.DONE)


def epilog() -> str:
    """Return the list of exit codes, for ``--help``."""
    lines = [f"  {code.value:>2}  {meaning}" for code, meaning in MEANINGS.items()]
    return "exit codes:\n" + "\n".join(lines)
