# SPDX-License-Identifier: Apache-2.0
"""Reading the command line's arguments."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lazy_engine.cli import exit_code
from lazy_engine.cli.output import printable
from lazy_engine.cli.session import Session

PERSISTENCE_VARIABLE = "LAZY_ENGINE_PERSISTENCE"
JOBBOARD_VARIABLE = "LAZY_ENGINE_JOBBOARD"

Command = Callable[[Session, argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """An argument parser that echoes no tokens and takes options anywhere."""

    _is_intermixing = False

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(exit_code.ExitCode.WRONG_USE, f"lazy-engine: {printable(message)}\n")

    def parse_known_args(  # type: ignore[override]  # argparse overloads it on the namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        # Without this a positional that may be left out is taken as left out
        # when an option stands before it. argparse refuses to intermix where
        # there are sub-commands, so only the sub-commands do.
        if self._is_intermixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._is_intermixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_intermixing = False


class Commands:
    """Collects the sub-commands.

    :param parser: the parser to add them to.
    :param shared: holds the options that every command takes.
    """

    def __init__(self, parser: Parser, shared: Parser) -> None:
        self._shared = shared
        self._group = parser.add_subparsers(
            title="commands", metavar="COMMAND", dest="command", parser_class=Parser
        )

    def add(
        self, name: str, act: Command, summary: str, *, details: str = "", **options: Any
    ) -> Parser:
        """Add a command and return its parser, for its arguments."""
        parser: Parser = self._group.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {details}".strip(),
            parents=[self._shared],
            **options,
        )
        parser.set_defaults(act=act)
        return parser


def build(add_commands: Callable[[Commands], None], version: str) -> Parser:
    """Return the parser of the whole command line."""
    shared = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    # A group of their own comes behind what a command takes for itself.
    _add_shared(shared.add_argument_group("options of every command"))
    parser = Parser(
        prog="lazy-engine",
        description="Flows that park: submit them, answer what they wait for, resume them.",
        epilog=exit_code.epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
    )
    parser.add_argument("--version", action="version", version=f"lazy-engine {version}")
    commands = Commands(parser, shared)
    add_commands(commands)
    return parser


def _add_shared(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--persistence",
        metavar="URL",
        help="where flows are kept: sqlite:////path/to/flows.db, dir:///path/to/flows,"
        " postgresql+psycopg://user@host/database, mysql+pymysql://user@host/database or"
        " zookeeper://host:port[,host:port]/path"
        f" (default: ${PERSISTENCE_VARIABLE})",
    )
    group.add_argument(
        "--jobboard",
        metavar="URL",
        help="where conductors are rung: zookeeper://host:port[,host:port]/path,"
        " redis://[user:password@]host[:port][/database] or etcd://host[:port][/path], each with"
        " ?name=value;"
        f" without one nobody is woken (default: ${JOBBOARD_VARIABLE})",
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    group.add_argument("--verbose", "-v", action="store_true", help="show the log on stderr")
    group.add_argument(
        "--debug", action="store_true", help="show the whole log, and tracebacks of errors"
    )


def complete_shared(arguments: argparse.Namespace) -> None:
    """Fill in the shared options that were not given.

    They have no defaults in the parser: a default of the sub-command would
    overwrite what was given before its name.
    """
    defaults = {
        "persistence": os.environ.get(PERSISTENCE_VARIABLE) or None,
        "jobboard": os.environ.get(JOBBOARD_VARIABLE) or None,
        "json": False,
        "verbose": False,
        "debug": False,
    }
    for name, value in defaults.items():
        if not hasattr(arguments, name):
            setattr(arguments, name, value)
