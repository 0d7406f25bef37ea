# SPDX-License-Identifier: Apache-2.0
"""The command ``show``."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from typing import Any

from lazy_engine import ledger
from lazy_engine.cli import argument, parser, structure
from lazy_engine.cli.exit_code import ExitCode
from lazy_engine.cli.output import printable
from lazy_engine.cli.session import Session
from lazy_engine.cli.structure import Structure
from lazy_engine.cli.tree import Tree
from lazy_engine.client import Client
from lazy_engine.view import FlowView


def add(commands: parser.Commands) -> None:
    """Add the command to the parser."""
    show = commands.add(
        "show",
        _show,
        "draw a flow as a tree: states, ages, and what it waits for",
        details="Uses the flow's factory for its structure, where it can be imported.",
    )
    show.add_argument("flow", metavar="FLOW", help="the flow's uuid")
    show.add_argument(
        "--drift",
        action="store_true",
        help="say instead how its code has changed since it last ran, and whether a resume would"
        " go on; runs nothing (exits with 8 if it would not)",
    )


def _show(session: Session, arguments: argparse.Namespace) -> int:
    argument.look_in_current_directory()
    client = session.open_client()
    if arguments.drift:
        return _show_drift(session, client, arguments.flow)
    flow = client.flow(arguments.flow)
    with session.others_code():
        found = structure.read(client.backend, flow.uuid)
    if session.output.is_json:
        session.output.json(_document(flow, found))
        return ExitCode.DONE
    now = datetime.datetime.fromtimestamp(
        ledger.beside(client.backend).now() / 1e6, tz=datetime.UTC
    )
    known = found if isinstance(found, Structure) else None
    for line in Tree(session.output, flow, known, now).lines():
        session.output.line(line)
    if isinstance(found, str):
        session.output.remark(f"a flat list, since the flow's structure is unknown: {found}")
    return ExitCode.DONE


def _show_drift(session: Session, client: Client, flow_uuid: str) -> int:
    with session.others_code():
        drift = client.drift(flow_uuid)
    session.output.json(
        {
            "flow_uuid": flow_uuid,
            "can_resume": not drift.harmful,
            "changes": [
                {**dataclasses.asdict(change), "text": str(change)} for change in drift.changes
            ],
        }
    )
    for change in drift.changes:
        mark = "breaks it" if change.is_harmful else "allowed"
        style = "bad" if change.is_harmful else "faint"
        session.output.line(session.output.style(f"{mark}: {printable(str(change))}", style))
    if drift.harmful:
        session.output.line("a resume would be an incident: finished and waiting tasks must stay")
        return ExitCode.INCIDENT
    session.output.line(
        "a resume would go on with the changed code" if drift else "the code has not changed"
    )
    return ExitCode.DONE


def _document(flow: FlowView, found: Structure | str) -> dict[str, Any]:
    """Return the JSON for a flow: the fields of ``FlowView``, and ``structure``."""
    document = dataclasses.asdict(flow)
    document["structure"] = found.root.to_dict() if isinstance(found, Structure) else None
    return document
