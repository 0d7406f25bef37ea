# SPDX-License-Identifier: Apache-2.0
"""The command ``purge``."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from typing import Final

from lazy_engine import ledger
from lazy_engine.cli import argument, parser
from lazy_engine.cli.conductor import noted_signals
from lazy_engine.cli.exit_code import CommandFailed, ExitCode, UsageError
from lazy_engine.cli.session import Session
from lazy_engine.client import Client

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE: Final = re.compile(r"(\d{1,6})([mhdw])")


class _Ended(Exception):
    """Somebody pressed Ctrl-C between two pages."""


def add(commands: parser.Commands) -> None:
    """Add the command to the parser."""
    purge = commands.add(
        "purge",
        _purge,
        "delete flows that have ended, with all that is theirs",
        details="Asks before it does so; where nobody can be asked it needs --yes. Flows that have"
        " not ended are left alone, whatever their age. One flow after the other goes, each as a"
        " whole: after Ctrl-C run it again for the rest.",
    )
    when = purge.add_mutually_exclusive_group(required=True)
    when.add_argument(
        "--older-than", metavar="AGE", help="that ended longer ago than 90m, 12h, 30d or 4w"
    )
    when.add_argument(
        "--finished-before",
        metavar="TIME",
        help="that ended before 2030-12-31T23:59:00+00:00; without an offset in local time",
    )
    purge.add_argument("--yes", action="store_true", help="do not ask")


def _purge(session: Session, arguments: argparse.Namespace) -> int:
    client = session.open_client()
    before_at = _before_at(client, arguments)
    _confirm(session, before_at, is_confirmed=arguments.yes)
    output = session.output
    gone = 0
    with noted_signals() as noted:

        def tell(count: int) -> None:
            nonlocal gone
            gone = count
            output.status(f"{count} flows deleted")
            if noted:
                raise _Ended

        try:
            gone = client.purge(finished_before_at=before_at, progress=tell)
            is_whole = True
        except _Ended:
            is_whole = False
        finally:
            output.status("")
    output.json({"purged": gone, "finished_before_at": before_at, "is_complete": is_whole})
    if not is_whole:
        raise KeyboardInterrupt(
            f"{gone} flows were deleted as a whole, the others are as they were; run it again for"
            " the rest"
        )
    output.line(f"{gone} flows deleted")
    return ExitCode.DONE


def _before_at(client: Client, arguments: argparse.Namespace) -> datetime.datetime:
    if arguments.finished_before is not None:
        return argument.read_instant(arguments.finished_before, "--finished-before")
    found = _AGE.fullmatch(arguments.older_than)
    if found is None:
        raise UsageError("--older-than takes an age such as 90m, 12h, 30d or 4w")
    age = datetime.timedelta(**{_UNITS[found[2]]: int(found[1])})
    # The store's clock is the one by which flows ended.
    now = datetime.datetime.fromtimestamp(
        ledger.beside(client.backend).now() / 1e6, tz=datetime.UTC
    )
    try:
        return now - age
    except OverflowError:
        raise UsageError("--older-than: there was nothing that long ago") from None


def _confirm(session: Session, before_at: datetime.datetime, *, is_confirmed: bool) -> None:
    """Have somebody say yes, and only yes.

    :raises UsageError: nobody can be asked.
    :raises CommandFailed: it was not yes.
    """
    if is_confirmed:
        return
    what = (
        f"every flow in {session.store_name} that ended before"
        f" {before_at.astimezone():%Y-%m-%d %H:%M:%S %z}"
    )
    if session.output.is_json or not sys.stdin.isatty():
        raise UsageError(f"this deletes {what}, for good: give --yes if that is what you want")
    session.output.ask(f"Delete {what}, for good? Type yes: ")
    if sys.stdin.readline().strip().lower() != "yes":
        raise CommandFailed("nothing was deleted")
