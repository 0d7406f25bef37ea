# SPDX-License-Identifier: Apache-2.0
"""The commands ``init``, ``submit`` and ``resume``."""

from __future__ import annotations

import argparse
import time
from typing import Final

from taskflow import states

from lazy_engine.cli import argument, parser
from lazy_engine.cli.conductor import noted_signals
from lazy_engine.cli.exit_code import ExitCode
from lazy_engine.cli.output import Output, printable
from lazy_engine.cli.session import Session
from lazy_engine.client import Client
from lazy_engine.delay import DELAYED
from lazy_engine.view import FlowView

_RETRY_SECONDS: Final = 0.5


def add(commands: parser.Commands) -> None:
    """Add the commands to the parser."""
    commands.add("init", _init, "make or upgrade the store's tables", details="Safe to repeat.")
    _add_submit(commands)
    resume = commands.add(
        "resume",
        _resume,
        "run a flow on, here and now",
        details="Ends a suspension and clears an incident. Whatever the flow prints goes to stderr.",
    )
    resume.add_argument("flow", metavar="FLOW", help="the flow's uuid")
    resume.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="while somebody else runs it, or died doing so, try again for that long",
    )


def _add_submit(commands: parser.Commands) -> None:
    submit = commands.add(
        "submit",
        _submit,
        "store a flow, print its uuid, and with a job board ask for it to be run",
    )
    submit.add_argument(
        "factory",
        metavar="FACTORY",
        help="the function that makes the flow: module:function or module.function;"
        " modules in the current directory are found",
    )
    submit.add_argument("--args", metavar="JSON", help="its positional arguments, a list")
    submit.add_argument("--kwargs", metavar="JSON", help="its keyword arguments, an object")
    submit.add_argument("--store", metavar="JSON", help="values for the flow's tasks, an object")
    submit.add_argument(
        "--flow-uuid", metavar="UUID", help="the same one twice is the same flow: safe to repeat"
    )
    submit.add_argument(
        "--run", action="store_true", help="run it here and now, without a job board"
    )


def _init(session: Session, _arguments: argparse.Namespace) -> int:
    # MySQL undoes no half of an upgrade, so the first Ctrl-C only asks for an end.
    what = f"making or upgrading the tables in {session.store_name}"
    with noted_signals() as noted, session.output.busy(what):
        session.open_store(may_create=True)
    if noted:
        session.output.remark("it was finished first: tables are not left half done")
    session.output.line(f"the tables in {session.store_name} are up to date")
    session.output.json({"store": session.store_name})
    return ExitCode.DONE


def _submit(session: Session, arguments: argparse.Namespace) -> int:
    args = argument.read_typed_json(arguments.args, "--args", list, "list")
    kwargs = argument.read_typed_json(arguments.kwargs, "--kwargs", dict, "object")
    store = argument.read_typed_json(arguments.store, "--store", dict, "object")
    argument.look_in_current_directory()
    with session.others_code():
        factory = argument.read_factory(arguments.factory)
        client = session.open_client(may_create=True, rings=not arguments.run)
        flow_uuid = client.submit(factory, args, kwargs, store=store, flow_uuid=arguments.flow_uuid)
    session.output.line(flow_uuid)
    if not arguments.run:
        session.output.json({"flow_uuid": flow_uuid})
        return ExitCode.DONE
    with session.others_code():
        state = client.resume(flow_uuid)
    flow = client.flow(flow_uuid)
    if not session.output.is_json:
        # Standard output holds the uuid alone, for uuid=$(lazy-engine submit …).
        session.output.remark(_sentence(flow, state))
    return _report(session.output, flow, state)


def _resume(session: Session, arguments: argparse.Namespace) -> int:
    argument.look_in_current_directory()
    client = session.open_client()
    with session.others_code():
        state = _resume_patiently(client, arguments.flow, arguments.patience)
    flow = client.flow(arguments.flow)
    session.output.line(printable(_sentence(flow, state)))
    return _report(session.output, flow, state)


def _resume_patiently(client: Client, flow_uuid: str, patience_seconds: float) -> str:
    give_up_at = time.monotonic() + patience_seconds
    while True:
        state = client.resume(flow_uuid)
        left = give_up_at - time.monotonic()
        if state != states.RUNNING or left <= 0:
            return state
        time.sleep(min(_RETRY_SECONDS, left))  # somebody else runs it, and tells nobody here


def _report(output: Output, flow: FlowView, state: str) -> int:
    """Print what became of a flow that was run; return the exit code."""
    failures = {atom.name: atom.failure for atom in flow.atoms if atom.failure}
    output.json(
        {
            "flow_uuid": flow.uuid,
            "state": state,
            "waits_for": [delay.task_name for delay in flow.delays],
            "failures": failures,
        }
    )
    if state not in (states.FAILURE, states.REVERTED):
        return ExitCode.DONE
    for name, failure in failures.items():
        output.error(f"task '{name}' failed: {failure}")
    return ExitCode.FAILED


def _sentence(flow: FlowView, state: str) -> str:
    text = f"flow {flow.uuid} ({flow.name}) is {state}"
    if state == DELAYED and flow.delays:
        return f"{text}: waits for {', '.join(delay.task_name for delay in flow.delays)}"
    if state == states.RUNNING:
        return f"{text}: somebody else runs it"
    return text
