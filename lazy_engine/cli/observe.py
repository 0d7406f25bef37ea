# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that run on and on: metrics and traces."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

from lazy_engine.cli.exit_code import UsageError
from lazy_engine.cli.session import Session
from lazy_engine.client import Client


def add_options(command: argparse.ArgumentParser) -> None:
    """Let a command be told to measure and to trace."""
    command.add_argument(
        "--metrics-port",
        metavar="PORT",
        type=int,
        help="answer Prometheus at /metrics there; 0 takes a free one (needs the extra 'metrics')",
    )
    command.add_argument(
        "--metrics-host",
        metavar="HOST",
        default="127.0.0.1",
        help="address for that; whoever reaches it may read (127.0.0.1)",
    )
    command.add_argument(
        # Not "--traces": opentelemetry-instrument takes that for a part of an option of its own.
        "--telemetry",
        action="store_true",
        help="write OpenTelemetry spans, with the tracing that is set up around this command, for"
        " example by opentelemetry-instrument (needs the extra 'telemetry')",
    )


@contextlib.contextmanager
def observed(session: Session, backend: Any, arguments: argparse.Namespace) -> Iterator[None]:
    """Measure and trace what this process does in a store, if asked to.

    :raises UsageError: an extra is missing, or the address cannot be listened at.
    """
    client = Client(backend)
    with contextlib.ExitStack() as closing:
        if arguments.telemetry:
            start_traces(client)
        if arguments.metrics_port is not None:
            serve_metrics(session, arguments, make_metrics(client), closing)
        yield


def start_traces(client: Client) -> None:
    """Write spans of what happens in a client's store.

    :raises UsageError: the extra is missing.
    """
    try:
        from lazy_engine.telemetry import Telemetry
    except ImportError as error:
        raise UsageError(
            f"--telemetry needs the extra: pip install 'lazy_engine[telemetry]' ({error})"
        ) from error
    Telemetry(client)


def make_metrics(client: Client) -> Any:
    """Return what counts in a client's store.

    :raises UsageError: the extra is missing.
    """
    try:
        from lazy_engine.metrics import Metrics
    except ImportError as error:
        raise UsageError(
            f"metrics need the extra: pip install 'lazy_engine[metrics]' ({error})"
        ) from error
    return Metrics(client)


def serve_metrics(
    session: Session, arguments: argparse.Namespace, metrics: Any, closing: contextlib.ExitStack
) -> None:
    """Answer ``/metrics`` at the address that was asked for, until all is closed.

    :raises UsageError: the address cannot be listened at.
    """
    host, port = arguments.metrics_host, arguments.metrics_port
    if not 0 <= port < 65536:
        raise UsageError("--metrics-port takes a number between 0 and 65535")
    try:
        taken = closing.enter_context(metrics.served(host, port))
    except OSError as error:
        where = f"{host}:{port}"
        raise UsageError(f"cannot listen at {where}: {error.strerror or error}") from error
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{taken}/metrics"
    session.output.remark(f"metrics at {url}")
    session.output.json({"event": "metrics", "url": url})
