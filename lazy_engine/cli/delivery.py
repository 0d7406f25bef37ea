# SPDX-License-Identifier: Apache-2.0
"""The commands ``delays``, ``complete`` and ``fail``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lazy_engine import errors, ledger
from lazy_engine.cli import argument, exit_code, parser
from lazy_engine.cli.exit_code import BoardUnreachable, ExitCode, UsageError
from lazy_engine.cli.output import age, compact, printable
from lazy_engine.cli.session import Session
from lazy_engine.client import Client
from lazy_engine.receipt import Disposition, Receipt
from lazy_engine.token import MAX_LENGTH
from lazy_engine.view import OpenDelay

_MEANINGS = {
    Disposition.ACCEPTED: "recorded for {whom}",
    Disposition.EARLY: "recorded for {whom}, before the task has begun to wait; it counts as soon"
    " as it does",
    Disposition.DUPLICATE: "the very same outcome was recorded before for {whom}; nothing changed",
    Disposition.CONFLICT: "another outcome was recorded before for {whom}; nothing changed",
    Disposition.LATE: "{whom} no longer waits (timed out, cancelled, retried, or the flow is"
    " over); kept for inspection, nothing changed",
}

#: An outcome is in the store that somebody has to be woken for.
_RECORDED = (Disposition.ACCEPTED, Disposition.EARLY, Disposition.DUPLICATE)

_TOKEN_HELP = "names the delay; '-' reads it from standard input, away from the process list"


def add(commands: parser.Commands) -> None:
    """Add the commands to the parser."""
    delays = commands.add("delays", _delays, "list what waits for an answer, oldest first")
    delays.add_argument("--flow", metavar="UUID", help="only of this flow")
    delays.add_argument("--task", metavar="NAME", help="only of tasks with this name")
    delays.add_argument(
        "--due-before",
        metavar="WHEN",
        help="only with a deadline before this, e.g. 2030-12-31T23:59:00+00:00",
    )
    delays.add_argument("--limit", metavar="N", type=int, default=100, help="1 to 1000; 100")
    delays.add_argument("--after", metavar="PLACE", help="the page after this place")
    delays.add_argument(
        "--tokens", action="store_true", help="show the tokens; whoever has one can answer"
    )
    complete = commands.add(
        "complete",
        _complete,
        "deliver a result",
        usage="lazy-engine complete (TOKEN | --flow UUID --task NAME) [--result JSON]",
    )
    add_target(complete, "TOKEN")
    complete.add_argument("--result", metavar="JSON", help="the task's result; null if left out")
    fail = commands.add(
        "fail",
        _fail,
        "deliver a failure",
        usage="lazy-engine fail (TOKEN | --flow UUID --task NAME) MESSAGE"
        " [--kind KIND] [--details JSON]",
    )
    add_target(fail, "TOKEN MESSAGE")
    fail.add_argument("--kind", metavar="KIND", help="joins the failure's type names")
    fail.add_argument("--details", metavar="JSON", help="more about it")


def add_target(command: argparse.ArgumentParser, words: str) -> None:
    """Add the arguments that say which delay is meant; read them with :func:`split_token`."""
    command.add_argument("words", metavar=words, nargs="*", help=f"the token {_TOKEN_HELP}")
    command.add_argument("--flow", metavar="UUID", help="instead of a token, with --task")
    command.add_argument("--task", metavar="NAME", help="the task of that flow that waits")


def _delays(session: Session, arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.limit <= 1000:
        raise UsageError("--limit takes a number between 1 and 1000")
    client = session.open_client()
    try:
        found = client.delays(
            flow_uuid=arguments.flow,
            task_name=arguments.task,
            due_before_at=(
                argument.read_instant(arguments.due_before, "--due-before")
                if arguments.due_before is not None
                else None
            ),
            after=arguments.after,
            limit=arguments.limit,
        )
    except ValueError as error:
        raise UsageError("--after takes the place that a listing ended with") from error
    if arguments.flow is not None and not found:
        # Or else a mistyped uuid looks like a flow that has its answers.
        client.flow(arguments.flow)
    tokens = [_token_of(client, delay) for delay in found] if arguments.tokens else None
    next_place = found[-1].place if len(found) == arguments.limit else None
    if session.output.is_json:
        session.output.json({"delays": _documents(found, tokens), "next": next_place})
    elif found:
        _print_table(session, client, found, tokens)
        if next_place:
            session.output.remark(f"there may be more: --after {next_place}")
    else:
        session.output.remark("nothing waits for an answer")
    return ExitCode.DONE


def _token_of(client: Client, delay: OpenDelay) -> str | None:
    try:
        return client.token(delay.flow_uuid, delay.task_name)
    except (errors.UnknownDelay, errors.UnknownFlow):
        return None  # answered, or its flow purged, since it was listed


def _documents(found: Sequence[OpenDelay], tokens: Sequence[str | None] | None) -> list[Any]:
    documents = [dataclasses.asdict(delay) for delay in found]
    for document, token in zip(documents, tokens or (), strict=False):
        document["token"] = token
    return documents


def _print_table(
    session: Session,
    client: Client,
    found: Sequence[OpenDelay],
    tokens: Sequence[str | None] | None,
) -> None:
    now = ledger.beside(client.backend).now() / 1e6
    head = ["AGE", "DUE", "FLOW", "TASK", "ATTEMPT", "DETAILS"]
    rows = [
        [
            age(now - delay.opened_at.timestamp()),
            _due(delay, now),
            delay.flow_uuid,
            printable(delay.task_name) + ("" if delay.kind == "execute" else f" ({delay.kind})"),
            str(delay.attempt),
            printable(compact(delay.details)),
        ]
        for delay in found
    ]
    if tokens is not None:
        head.append("TOKEN")
        for row, token in zip(rows, tokens, strict=True):
            row.append(token or "(answered)")
    session.output.table(head, rows)


def _due(delay: OpenDelay, now: float) -> str:
    """Return how long the delay may still wait, for people."""
    if delay.alerted_at is not None:
        return "overdue"
    ends = [at.timestamp() for at in (delay.timeout_at, delay.heartbeat_at) if at is not None]
    if not ends:
        return "never"
    left = min(ends) - now
    return f"in {age(left)}" if left > 0 else "now"


def _complete(session: Session, arguments: argparse.Namespace) -> int:
    rest = split_token(arguments, "TOKEN")
    result = None if arguments.result is None else argument.read_json(arguments.result, "--result")
    if rest.words:
        raise UsageError("'complete' takes one TOKEN; the result goes into --result JSON")
    return _deliver(session, rest, lambda client, token: client.complete(token, result))


def _fail(session: Session, arguments: argparse.Namespace) -> int:
    rest = split_token(arguments, "TOKEN MESSAGE")
    if len(rest.words) != 1:
        raise UsageError("'fail' takes one MESSAGE; put it in quotes if it has blanks")
    (message,) = rest.words
    kind = arguments.kind
    details = None
    if arguments.details is not None:
        details = argument.read_json(arguments.details, "--details")
    return _deliver(
        session,
        rest,
        lambda client, token: client.fail(token, message, kind=kind, details=details),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Which delay is answered, by token or by name, and the words that are left."""

    token: str | None
    flow: str | None
    task: str | None
    words: Sequence[str]

    def find_token(self, client: Client) -> str:
        """Return the token that was given, or that names the delay that was named."""
        if self.token is not None:
            return self.token
        return client.token(str(self.flow), str(self.task))


def split_token(arguments: argparse.Namespace, wanted: str) -> Target:
    """Read which delay is meant.

    :param wanted: the words that the command takes.
    :raises UsageError: it is not said, or twice.
    """
    words = list(arguments.words)
    if (arguments.flow is None) != (arguments.task is None):
        raise UsageError("--flow and --task go together: they name the task that waits")
    if arguments.flow is not None:
        return Target(token=None, flow=arguments.flow, task=arguments.task, words=words)
    if not words:
        raise UsageError(f"which delay? give {wanted}, or --flow UUID --task NAME")
    token = words.pop(0)
    if token == "-":
        # One character more than a token has is enough to refuse it.
        token = sys.stdin.readline(MAX_LENGTH + 2).strip()
        if not token:
            raise UsageError("no token on standard input")
    # Blanks come along when it is copied, or read from a file by a script.
    token = token.strip()
    return Target(token=token, flow=None, task=None, words=words)


def _deliver(session: Session, target: Target, deliver: Callable[[Client, str], Receipt]) -> int:
    board_error: BoardUnreachable | None = None
    try:
        client = session.open_client(rings=True)
    except BoardUnreachable as error:
        # The answer is worth more than the bell.
        board_error = error
        client = session.open_client()
    receipt = deliver(client, target.find_token(client))
    _print_receipt(session, receipt)
    if board_error is not None and receipt.disposition in _RECORDED:
        session.output.error(
            f"the outcome is recorded, but nobody was woken: {board_error}; deliver it again"
            " later (it counts as a duplicate and rings), or resume the flow"
        )
        return ExitCode.UNREACHABLE
    return exit_code.of_disposition(receipt.disposition)


def _print_receipt(session: Session, receipt: Receipt) -> None:
    document = dataclasses.asdict(receipt)
    session.output.json({**document, "disposition": receipt.disposition.value})
    whom = f"task '{receipt.task_name}' of flow {receipt.flow_uuid}, attempt {receipt.attempt}"
    meaning = _MEANINGS[receipt.disposition].format(whom=whom)
    session.output.line(f"{receipt.disposition.value}: {printable(meaning)}")
    if receipt.woken:
        session.output.line("the flow is being woken")
    elif receipt.disposition is Disposition.ACCEPTED:
        session.output.line(f"nobody is woken: 'lazy-engine resume {receipt.flow_uuid}' runs it on")
