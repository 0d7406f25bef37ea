# SPDX-License-Identifier: Apache-2.0
"""The command ``completion``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import shtab

from lazy_engine.cli import parser
from lazy_engine.cli.exit_code import ExitCode
from lazy_engine.cli.session import Session


def adder(whole: Callable[[], argparse.ArgumentParser]) -> Callable[[parser.Commands], None]:
    """Return what adds the command to the parser.

    :param whole: returns the parser of the whole command line, once it is made.
    """

    def print_script(session: Session, arguments: argparse.Namespace) -> int:
        script = shtab.complete(whole(), shell=arguments.shell)
        session.output.json({"shell": arguments.shell, "script": script})
        session.output.line(script)
        return ExitCode.DONE

    def add(commands: parser.Commands) -> None:
        completion = commands.add(
            "completion",
            print_script,
            "print a script that has a shell complete commands and options",
            details="bash: 'lazy-engine completion bash >"
            " ~/.local/share/bash-completion/completions/lazy-engine'."
            " zsh: the same into a file _lazy-engine in a directory of $fpath.",
        )
        completion.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)

    return add
