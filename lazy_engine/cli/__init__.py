# SPDX-License-Identifier: Apache-2.0
"""The command line ``lazy-engine``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata

from lazy_engine.cli import (
    completion,
    conductor,
    delivery,
    doctor,
    exit_code,
    flow,
    flows,
    parser,
    purge,
    serve,
    show,
    story,
    watch,
)
from lazy_engine.cli.exit_code import ExitCode
from lazy_engine.cli.output import Output
from lazy_engine.cli.session import Session

__all__ = ["ExitCode", "main"]

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    :param argv: the arguments, without the program's name; ``None`` means
        those of this process.
    """
    whole = build_parser()
    try:
        arguments = whole.parse_args(argv)
    except SystemExit as ending:
        return int(ending.code or 0)
    parser.complete_shared(arguments)
    if arguments.command is None:
        whole.print_help(sys.stderr)
        return ExitCode.WRONG_USE
    _set_up_logging(arguments)
    output = Output(is_json=arguments.json)
    session = Session(arguments.persistence, arguments.jobboard, output)
    try:
        return int(arguments.act(session, arguments))
    except KeyboardInterrupt as ending:
        output.error(f"interrupted{': ' if str(ending) else ''}{ending}")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has enough; Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:
        # A person is told in a line what failed; whoever wants the traceback asks for it.
        if arguments.debug:
            output.trace(traceback.format_exc())
        output.error(exit_code.words(error))
        return exit_code.of_error(error)
    finally:
        session.close()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    made: parser.Parser

    def add_commands(commands: parser.Commands) -> None:
        modules = (flow, flows, show, delivery, watch, conductor, serve, purge, doctor, story)
        for module in modules:
            module.add(commands)
        completion.adder(lambda: made)(commands)

    made = parser.build(add_commands, metadata.version("lazy_engine"))
    return made


def _set_up_logging(arguments: argparse.Namespace) -> None:
    quiet = getattr(arguments, "log_level", None)
    level = logging.DEBUG if arguments.debug else logging.INFO if arguments.verbose else quiet
    if level is None:
        # Otherwise Python prints warnings of libraries among the answers.
        logging.getLogger().addHandler(logging.NullHandler())
    else:
        logging.basicConfig(
            level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
