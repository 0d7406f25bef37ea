# SPDX-License-Identifier: Apache-2.0
"""The command ``conductor``."""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from taskflow.conductors import backends
from taskflow.types import notifier

from lazy_engine.cli import argument, observe, parser
from lazy_engine.cli.exit_code import ExitCode, UsageError
from lazy_engine.cli.output import printable
from lazy_engine.cli.session import Session, board_name
from lazy_engine.shelf import KEEP_ENGINES

_LOOK_SECONDS: Final = 0.2

#: What is said of an event; the others are inner stages.
_WORDS: Final[Mapping[str, str]] = {
    "running_start": "runs",
    "flow_parked": "parked (DELAYED)",
    "flow_ended": "ended",
    # Most often: somebody else runs the flow, and this is a doorbell too many.
    "job_abandoned": "not run now; its job is back on the board (--verbose says why)",
    "job_trashed": "put its job aside for good",
}


def add(commands: parser.Commands) -> None:
    """Add the command to the parser."""
    conductor = commands.add(
        "conductor",
        _conduct,
        "answer doorbells until SIGINT or SIGTERM",
        details="Needs a job board. A second signal ends it at once, which does no harm.",
    )
    conductor.add_argument("--name", help="shown as the owner of jobs (default: host and pid)")
    conductor.add_argument(
        "--max-jobs", metavar="N", type=int, help="how many flows run at the same time"
    )
    conductor.add_argument(
        "--executor", choices=("serial", "threads"), help="how a flow's tasks run (serial)"
    )
    conductor.add_argument(
        "--lease-seconds",
        metavar="S",
        type=float,
        help="a conductor that shows no sign of life for so long loses its flows (30)",
    )
    conductor.add_argument(
        "--keep-engines",
        metavar="N",
        type=int,
        help=f"of how many parked flows the engines are kept in memory, or 0 ({KEEP_ENGINES})",
    )
    observe.add_options(conductor)
    conductor.set_defaults(log_level=logging.WARNING)


def _conduct(session: Session, arguments: argparse.Namespace) -> int:
    argument.look_in_current_directory()
    backend = session.open_store()
    board = session.open_board(backend)
    name = arguments.name or f"{socket.gethostname()}-{os.getpid()}"
    # Signals are noted before anybody is told that it has started, and may send one.
    with (
        session.others_code(),
        observe.observed(session, backend, arguments),
        noted_signals() as noted,
    ):
        conductor = _make(name, board, backend, arguments)
        reporter = _Reporter(session, name)
        conductor.notifier.register(notifier.Notifier.ANY, reporter)
        where = board_name(str(session.jobboard))
        _say(session, name, "started", {"jobboard": where, "store": session.store_name})
        # The log is written past the output, and would run into a status line.
        is_logged = arguments.verbose or arguments.debug

        def tell() -> None:
            if not is_logged:
                session.output.status(
                    f"{name}: {conductor.at_work} flows at work; so far {reporter.parked} parked,"
                    f" {reporter.ended} ended"
                )

        try:
            _run_until_signalled(session, name, conductor, tell, noted)
        finally:
            session.output.status("")
    _say(session, name, "stopped", {})
    return ExitCode.DONE


def _make(name: str, board: Any, backend: Any, arguments: argparse.Namespace) -> Any:
    given = {"executor": arguments.executor, "lease_seconds": arguments.lease_seconds}
    if arguments.lease_seconds is not None and not 0.1 <= arguments.lease_seconds < float("inf"):
        raise UsageError("--lease-seconds takes seconds, at least 0.1")
    options: dict[str, Any] = {
        "persistence": backend,
        "engine": "lazy",
        "engine_options": {key: value for key, value in given.items() if value is not None},
    }
    if arguments.max_jobs is not None:
        if arguments.max_jobs < 1:
            raise UsageError("--max-jobs takes a number of at least 1")
        options["max_simultaneous_jobs"] = arguments.max_jobs
    if arguments.keep_engines is not None:
        if arguments.keep_engines < 0:
            raise UsageError("--keep-engines takes a number of at least 0")
        options["keep_engines"] = arguments.keep_engines
    return backends.fetch("lazy", name, board, **options)


def _run_until_signalled(
    session: Session,
    name: str,
    conductor: Any,
    tell: Callable[[], None],
    noted: Sequence[int],
) -> None:
    """Run the conductor in a thread of its own, and stop it at a signal.

    A signal handler runs between two steps of the main thread. Stopping the
    conductor there could wait for a lock which that thread holds, so the
    handler only notes the signal.

    :raises Exception: whatever ended the conductor.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            conductor.run()
        except BaseException as error:  # the caller raises it in its own thread
            failures.append(error)

    thread = threading.Thread(target=run, name="lazy-engine-conductor", daemon=True)
    thread.start()
    is_stopping = False
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
        tell()
        if noted and not is_stopping:
            is_stopping = True
            _say(session, name, "stopping", {"signal": signal.Signals(noted[0]).name})
            conductor.stop()
    if failures:
        raise failures[0]


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Yield a list that SIGINT and SIGTERM are noted in; the second one kills."""
    noted: list[int] = []

    def note(number: int, _frame: object) -> None:
        noted.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class _Reporter:
    """Prints what a conductor does."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name
        self.parked = 0
        self.ended = 0

    def __call__(self, event: str, details: Mapping[str, Any]) -> None:
        self.parked += event == "flow_parked"
        self.ended += event == "flow_ended"
        if event not in _WORDS:
            return
        job = details["job"]
        known: dict[str, Any] = {
            "flow": job.name,
            "flow_uuid": (job.details or {}).get("flow_uuid"),
        }
        if "state" in details:
            known["state"] = details["state"]
        _say(self._session, self._name, event, known)


def _say(session: Session, name: str, event: str, details: Mapping[str, Any]) -> None:
    """Print an event: one JSON document, or one line for people."""
    now = datetime.datetime.now(datetime.UTC)
    session.output.json(
        {"at": now, "conductor": name, "pid": os.getpid(), "event": event, **details}
    )
    lead = f"{now.astimezone():%H:%M:%S} {name} (process {os.getpid()})"
    if "flow_uuid" in details:
        words = _WORDS[event] + (f" {details['state']}" if event == "flow_ended" else "")
        flow = f"flow {details['flow_uuid']} ({details['flow']})"
        session.output.line(printable(f"{lead}: {flow} {words}"))
    else:
        rest = ", ".join(f"{key} {value}" for key, value in details.items())
        text = f"{lead}: {event}, {rest}" if rest else f"{lead}: {event}"
        session.output.line(printable(text))
