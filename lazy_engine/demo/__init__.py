# SPDX-License-Identifier: Apache-2.0
"""A flow that parks, is answered from other processes, and goes on: to watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskflow import states

if TYPE_CHECKING:
    from lazy_engine.cli.output import Output

__all__ = ["run"]


def run(output: Output, *, with_zookeeper: bool) -> int:
    """Play the demo and return the exit code.

    Everything it starts and writes is gone when it returns, interrupted or not.

    :param with_zookeeper: with a ZooKeeper of its own and two conductors.
    :raises CommandFailed: something is not installed, or a step went wrong.
    """
    # Here, since the flow is imported by every process that runs it.
    from lazy_engine.cli.exit_code import ExitCode
    from lazy_engine.demo import conducted, passive
    from lazy_engine.demo.interrupts import Interrupts
    from lazy_engine.demo.stage import Stage

    play = conducted.play if with_zookeeper else passive.play
    with Interrupts() as interrupts, Stage(output, interrupts) as place:
        flow_uuid, state = play(place)
        place.say()
        place.say(f"The flow ended in {state}, after {len(place.steps)} processes.")
        output.json({"flow_uuid": flow_uuid, "state": state, "steps": place.steps})
    return ExitCode.DONE if state == states.SUCCESS else ExitCode.FAILED
