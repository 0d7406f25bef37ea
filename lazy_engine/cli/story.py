# SPDX-License-Identifier: Apache-2.0
"""The command ``demo``."""

from __future__ import annotations

import argparse

from lazy_engine.cli import parser
from lazy_engine.cli.session import Session


def add(commands: parser.Commands) -> None:
    """Add the command to the parser."""
    demo = commands.add(
        "demo",
        _demo,
        "show a flow that parks, is answered from other processes, and goes on",
        details="Uses a temporary directory of its own, and no other store or job board.",
    )
    demo.add_argument(
        "--zookeeper",
        action="store_true",
        help="start a ZooKeeper and two conductors, and kill one of them at work",
    )


def _demo(session: Session, arguments: argparse.Namespace) -> int:
    from lazy_engine import demo

    return demo.run(session.output, with_zookeeper=arguments.zookeeper)
