# SPDX-License-Identifier: Apache-2.0
"""The commands ``serve`` and ``consume``: answers by HTTP and from a message queue."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pathlib
import resource
import signal
import threading
from collections.abc import Sequence
from typing import Any, Final

from lazy_engine import resumer
from lazy_engine.cli import argument, observe, parser
from lazy_engine.cli.conductor import noted_signals
from lazy_engine.cli.exit_code import CommandFailed, ExitCode, UsageError
from lazy_engine.cli.session import Session
from lazy_engine.client import Client
from lazy_engine.watchdog import Watchdog

_LOOK_SECONDS: Final = 0.2
_CONNECTIONS: Final = 2000
#: Files beside connections: the store, the job board, logs.
_OTHER_FILES: Final = 256

API_KEY_VARIABLE: Final = "LAZY_ENGINE_HTTP_API_KEY"
READ_KEY_VARIABLE: Final = "LAZY_ENGINE_HTTP_READ_KEY"
SIGNATURE_VARIABLE: Final = "LAZY_ENGINE_HTTP_SIGN_KEY"
QUEUE_VARIABLE: Final = "LAZY_ENGINE_QUEUE"


def add(commands: parser.Commands) -> None:
    """Add the commands to the parser."""
    serve = commands.add(
        "serve",
        _serve,
        "answer delays over HTTP, and show a page, until SIGINT or SIGTERM",
        details="Needs the extra 'http'. The page is for whoever has an API key. Requests and flows"
        " at work are finished first; a second signal ends it at once, which does no harm.",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    serve.add_argument("--port", type=int, default=8080, help="0 takes a free one (8080)")
    serve.add_argument(
        "--connections",
        metavar="N",
        type=int,
        default=_CONNECTIONS,
        help=f"how many at most; those that only wait give way ({_CONNECTIONS})",
    )
    serve.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="API keys for the page and the operators' endpoints, one on each line; off without one"
        f" (default: ${API_KEY_VARIABLE}, a key and not a file)",
    )
    serve.add_argument(
        "--read-key-file",
        metavar="FILE",
        help="API keys for looking only, /metrics too, one on each line"
        f" (default: ${READ_KEY_VARIABLE}, a key and not a file)",
    )
    serve.add_argument(
        "--signature-key-file",
        metavar="FILE",
        help="keys that callers must sign with beside their token, one on each line"
        f" (default: ${SIGNATURE_VARIABLE}, a key and not a file)",
    )
    _add_resume(serve)
    consume = commands.add(
        "consume",
        _consume,
        "deliver what comes on a message queue until SIGINT or SIGTERM",
        details="Needs the extra 'mq'.",
    )
    consume.add_argument(
        "--queue",
        metavar="URL",
        help="the broker, as kombu knows it: amqp://user@host//, redis://host/0"
        f" (default: ${QUEUE_VARIABLE})",
    )
    consume.add_argument("--name", default="lazy-engine", help="of the queue (lazy-engine)")
    consume.add_argument(
        "--dead-letter",
        metavar="NAME",
        help="queue for messages that cannot be delivered; without one they are logged (without"
        " their token) and rejected, for the broker to do with as it is told",
    )
    _add_resume(consume)
    for command in (serve, consume):
        observe.add_options(command)
        command.set_defaults(log_level=logging.WARNING)


def _add_resume(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--resume",
        action="store_true",
        help="without a job board: run flows that are woken here, with a watchdog beside",
    )
    command.add_argument(
        "--workers",
        metavar="N",
        type=int,
        default=resumer.WORKERS,
        help=f"how many flows run at the same time ({resumer.WORKERS})",
    )


def _serve(session: Session, arguments: argparse.Namespace) -> int:
    try:
        from lazy_engine import http
        from lazy_engine.http.server import Server
    except ImportError as error:
        raise UsageError(
            f"'serve' needs the extra: pip install 'lazy_engine[http]' ({error})"
        ) from error
    if arguments.connections < 1:
        raise UsageError("--connections takes a number of at least 1")
    if not 0 <= arguments.port < 65536:
        raise UsageError("--port takes a number between 0 and 65535")
    api_keys = _read_keys(session, arguments.api_key_file, API_KEY_VARIABLE)
    read_keys = _read_keys(session, arguments.read_key_file, READ_KEY_VARIABLE)
    secrets = _read_keys(session, arguments.signature_key_file, SIGNATURE_VARIABLE)
    # Who had a token issued is told whatever else is.
    logging.getLogger("lazy_engine.http.audit").setLevel(logging.INFO)
    _allow_files(arguments.connections + _OTHER_FILES)
    with contextlib.ExitStack() as closing:
        client = _open(session, arguments, closing)
        try:
            signature = http.Signature(secrets=secrets) if secrets else None
            metrics = observe.make_metrics(client)
            app = http.make_app(
                client,
                api_keys=api_keys,
                read_keys=read_keys,
                metrics=metrics,
                signature=signature,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        try:
            server = Server(
                app,
                host=arguments.host,
                port=arguments.port,
                connections=arguments.connections,
            )
        except OSError as error:
            where = f"{arguments.host}:{arguments.port}"
            raise UsageError(f"cannot listen at {where}: {error.strerror or error}") from error
        if arguments.telemetry:
            observe.start_traces(client)
        if arguments.metrics_port is not None:
            observe.serve_metrics(session, arguments, metrics, closing)
        # Signals are noted before anybody is told that there is something to stop.
        with noted_signals() as noted, session.others_code(), server:
            session.output.line(f"serving {session.store_name} at {server.url}")
            session.output.json({"event": "started", "url": server.url, "pid": os.getpid()})
            _wait(noted, lambda: server.is_running)
            if not noted:
                raise CommandFailed("the HTTP server ended by itself; see the log")
            _tell_stopping(session, noted[0])
    return ExitCode.DONE


def _consume(session: Session, arguments: argparse.Namespace) -> int:
    try:
        from lazy_engine.mq import Consumer
    except ImportError as error:
        raise UsageError(
            f"'consume' needs the extra: pip install 'lazy_engine[mq]' ({error})"
        ) from error
    url = arguments.queue or os.environ.get(QUEUE_VARIABLE)
    if not url:
        raise UsageError(f"no queue: give --queue redis://host/0, or set {QUEUE_VARIABLE}")
    session.hide_passwords(url)
    with contextlib.ExitStack() as closing:
        client = _open(session, arguments, closing)
        closing.enter_context(observe.observed(session, client.backend, arguments))
        consumer = Consumer(client, url, arguments.name, dead_letter=arguments.dead_letter)
        with noted_signals() as noted, session.others_code(), consumer:
            session.output.line(f"delivering what comes on queue {arguments.name}")
            session.output.json({"event": "started", "queue": arguments.name, "pid": os.getpid()})
            _wait(noted, lambda: consumer.is_running)
            if not noted:
                raise CommandFailed("the consumer ended by itself; see the log")
            _tell_stopping(session, noted[0])
    return ExitCode.DONE


def _open(session: Session, arguments: argparse.Namespace, closing: contextlib.ExitStack) -> Client:
    """Return the client to deliver with; with ``--resume`` it wakes flows here."""
    if arguments.workers < 1:
        raise UsageError("--workers takes a number of at least 1")
    if not arguments.resume or session.jobboard:
        # With a job board, what is delivered rings, and conductors do the rest.
        return session.open_client(rings=True)
    argument.look_in_current_directory()
    worker = closing.enter_context(resumer.Resumer(session.open_store(), workers=arguments.workers))
    closing.enter_context(Watchdog(worker.client))
    return worker.client


def _wait(noted: Sequence[int], is_running: Any) -> None:
    never = threading.Event()
    while not noted and is_running():
        never.wait(_LOOK_SECONDS)


def _tell_stopping(session: Session, number: int) -> None:
    name = signal.Signals(number).name
    session.output.line(f"stopping ({name})")
    session.output.json({"event": "stopping", "signal": name, "pid": os.getpid()})


def _read_keys(session: Session, file: str | None, variable: str) -> Sequence[str]:
    """Return the keys of a file, or the one in an environment variable.

    Never of the command line, which others can read.
    """
    if file is None:
        text = os.environ.get(variable, "")
    else:
        try:
            text = pathlib.Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the keys in {file}: {error}") from None
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if file is not None and not keys:
        raise UsageError(f"there is no key in {file}")
    for key in keys:
        session.output.hide(key)
    return keys


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
