# SPDX-License-Identifier: Apache-2.0
"""The command ``flows``."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from collections.abc import Sequence
from typing import Final

from taskflow import states

from lazy_engine import ledger
from lazy_engine.cli import parser
from lazy_engine.cli.exit_code import ExitCode, UsageError
from lazy_engine.cli.output import age, printable, shorten, times
from lazy_engine.cli.session import Session
from lazy_engine.client import Client
from lazy_engine.delay import DELAYED
from lazy_engine.view import FlowSummary

#: States that a flow may be lived in.
STATES: Final = (
    states.PENDING,
    states.RUNNING,
    DELAYED,
    states.SUSPENDED,
    states.SUCCESS,
    states.FAILURE,
    states.REVERTED,
)

_MESSAGE_WIDTH: Final = 100


def add(commands: parser.Commands) -> None:
    """Add the command to the parser."""
    flows = commands.add(
        "flows", _flows, "list flows: those that could not be run first, then the newest"
    )
    flows.add_argument("--state", choices=STATES, help="only flows in this state")
    flows.add_argument(
        "--incidents", action="store_true", help="only flows that could not be run, and why"
    )
    flows.add_argument("--limit", metavar="N", type=int, default=100, help="1 to 1000; 100")
    flows.add_argument("--after", metavar="PLACE", help="the page after this place")


def _flows(session: Session, arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.limit <= 1000:
        raise UsageError("--limit takes a number between 1 and 1000")
    client = session.open_client()
    try:
        found = client.flows(
            state=arguments.state,
            incidents=arguments.incidents,
            after=arguments.after,
            limit=arguments.limit,
        )
    except ValueError as error:
        raise UsageError("--after takes the place that a listing ended with") from error
    next_place = found[-1].place if len(found) == arguments.limit else None
    if session.output.is_json:
        documents = [dataclasses.asdict(flow) for flow in found]
        session.output.json({"flows": documents, "next": next_place})
    elif found:
        _print_table(session, client, found)
        if next_place:
            session.output.remark(f"there may be more: --after {next_place}")
    else:
        session.output.remark("no such flows")
    return ExitCode.DONE


def _print_table(session: Session, client: Client, found: Sequence[FlowSummary]) -> None:
    now = datetime.datetime.fromtimestamp(
        ledger.beside(client.backend).now() / 1e6, tz=datetime.UTC
    )
    rows = [
        [
            flow.uuid,
            flow.state,
            str(flow.open_delays or ""),
            age((now - flow.created_at).total_seconds()),
            printable(flow.name),
            _incident(flow, now),
        ]
        for flow in found
    ]
    session.output.table(["FLOW", "STATE", "WAITS", "AGE", "NAME", "INCIDENT"], rows)


def _incident(flow: FlowSummary, now: datetime.datetime) -> str:
    found = flow.incident
    if found is None:
        return ""
    if found.next_try_at is None:
        when = "left for you"
    else:
        left = (found.next_try_at - now).total_seconds()
        when = f"next try in {age(left)}" if left > 0 else "due for a try"
    message = shorten(printable(found.message), _MESSAGE_WIDTH)
    return f"{found.kind}, {times(found.count)}, {when}: {message}"
