# SPDX-License-Identifier: Apache-2.0
"""The commands ``watchdog``, ``heartbeat``, ``cancel`` and ``suspend``."""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Callable

from lazy_engine.cli import argument, exit_code, observe, parser
from lazy_engine.cli.conductor import noted_signals
from lazy_engine.cli.delivery import add_target, split_token
from lazy_engine.cli.exit_code import ExitCode, UsageError
from lazy_engine.cli.session import Session
from lazy_engine.client import Client
from lazy_engine.watchdog import PERIOD_SECONDS, Watchdog

LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2


def add(commands: parser.Commands) -> None:
    """Add the commands to the parser."""
    watchdog = commands.add(
        "watchdog",
        _watch,
        "see to deadlines, sleeps, lost doorbells and dead owners until SIGINT or SIGTERM",
        details="Every 'lazy' conductor has one inside. Any number may run side by side.",
    )
    watchdog.add_argument("--once", action="store_true", help="do one round, and list what is due")
    watchdog.add_argument(
        "--resume",
        action="store_true",
        help="run flows that want an owner on, one after the other, here (without a job board)",
    )
    watchdog.add_argument(
        "--period-seconds",
        metavar="S",
        type=float,
        default=PERIOD_SECONDS,
        help=f"time between two rounds ({PERIOD_SECONDS:g})",
    )
    observe.add_options(watchdog)
    watchdog.set_defaults(log_level=logging.WARNING)
    heartbeat = commands.add(
        "heartbeat",
        _beat,
        "say that the outside work goes on",
        usage="lazy-engine heartbeat (TOKEN | --flow UUID --task NAME) [--progress P]"
        " [--details JSON]",
    )
    add_target(heartbeat, "TOKEN")
    heartbeat.add_argument("--progress", metavar="P", type=float, help="between 0 and 1")
    heartbeat.add_argument("--details", metavar="JSON", help="what goes with the progress")
    for name, act, summary in (
        ("cancel", _cancel, "call a flow off: revert all it has done"),
        ("suspend", _suspend, "have a flow rest until it is resumed; outcomes are kept"),
    ):
        command = commands.add(name, act, summary)
        command.add_argument("flow", metavar="FLOW", help="the flow's uuid")
        command.add_argument("--reason", metavar="TEXT", help="why, for people")


def _watch(session: Session, arguments: argparse.Namespace) -> int:
    if not arguments.period_seconds > 0:
        raise UsageError("--period-seconds takes a number above 0")
    if arguments.resume and session.jobboard:
        raise UsageError("--resume is for a store without a job board: conductors answer that one")
    argument.look_in_current_directory()
    client = session.open_client(rings=True)
    if arguments.once:
        return _sweep_once(session, client, resumes=arguments.resume)
    on_wanting = (
        None if session.jobboard else (client.resume if arguments.resume else _announce(session))
    )
    watchdog = Watchdog(client, period_seconds=arguments.period_seconds, on_wanting=on_wanting)
    session.output.remark(f"watching {session.store_name}")
    stopped = threading.Event()
    measuring = observe.observed(session, client.backend, arguments)
    with noted_signals() as noted, session.others_code(), measuring, watchdog:
        while not noted:
            stopped.wait(_LOOK_SECONDS)
    return ExitCode.DONE


def _announce(session: Session) -> Callable[[str], None]:
    def announce(flow_uuid: str) -> None:
        session.output.line(flow_uuid)
        session.output.json({"flow_uuid": flow_uuid, "wants": "resume"})

    return announce


def _sweep_once(session: Session, client: Client, *, resumes: bool) -> int:
    found = client.sweep()
    states = {}
    failures: dict[str, Exception] = {}
    for flow_uuid in found:
        session.output.line(flow_uuid)
        if not resumes:
            continue
        try:
            with session.others_code():
                states[flow_uuid] = client.resume(flow_uuid)
        except Exception as error:
            # The other flows are due as well.
            failures[flow_uuid] = error
            session.output.error(f"flow {flow_uuid}: {exit_code.words(error)}")
    if not found:
        session.output.remark("nothing is due")
    session.output.json(
        {
            "wanting": found,
            "states": states,
            "errors": {flow_uuid: exit_code.words(error) for flow_uuid, error in failures.items()},
        }
    )
    return next((exit_code.of_error(error) for error in failures.values()), ExitCode.DONE)


def _beat(session: Session, arguments: argparse.Namespace) -> int:
    target = split_token(arguments, "TOKEN")
    if target.words:
        raise UsageError("'heartbeat' takes one TOKEN")
    if arguments.progress is not None and not 0 <= arguments.progress <= 1:
        raise UsageError("--progress takes a number between 0 and 1")
    details = None
    if arguments.details is not None:
        details = argument.read_json(arguments.details, "--details")
    client = session.open_client()
    beat = client.heartbeat(target.find_token(client), progress=arguments.progress, details=details)
    session.output.json({"cancelled": beat.cancelled})
    session.output.line("cancelled: stop the work" if beat.cancelled else "go on")
    return ExitCode.LATE if beat.cancelled else ExitCode.DONE


def _cancel(session: Session, arguments: argparse.Namespace) -> int:
    client = session.open_client(rings=True)
    is_new = client.cancel(arguments.flow, arguments.reason or "")
    session.output.json({"flow_uuid": arguments.flow, "cancelled": is_new})
    if not is_new:
        session.output.line("the flow was over, or cancelled, before")
    elif session.jobboard:
        session.output.line("cancelled; a conductor reverts what it has done")
    else:
        session.output.line(
            f"cancelled; 'lazy-engine resume {arguments.flow}' reverts what it has done"
        )
    return ExitCode.DONE


def _suspend(session: Session, arguments: argparse.Namespace) -> int:
    client = session.open_client()
    is_asked = client.suspend(arguments.flow, arguments.reason)
    session.output.json({"flow_uuid": arguments.flow, "suspended": is_asked})
    session.output.line(
        f"asked to rest until 'lazy-engine resume {arguments.flow}'; outcomes are kept"
        if is_asked
        else "the flow is over, or being called off: it stays as it is"
    )
    return ExitCode.DONE
