# SPDX-License-Identifier: Apache-2.0
"""The demo with ZooKeeper: two conductors, one of which is killed at work."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from typing import Final

from lazy_engine.demo import zookeeper
from lazy_engine.demo.passive import FACTORY, PACKAGES, REVIEW, VERSION, state_of, token_of
from lazy_engine.demo.stage import Actor, Stage, wait_until

_PUBLISH_SECONDS: Final = 4.0
_SESSION_SECONDS: Final = 2
_LEASE_SECONDS: Final = 2
_PATIENCE_SECONDS: Final = 60.0


def play(stage: Stage) -> tuple[str, str]:
    """Play it; return the flow's uuid and the state it ended in."""
    stage.title("A ZooKeeper, and two conductors that answer its doorbells")
    address = zookeeper.start(stage)
    stage.set(
        LAZY_ENGINE_PERSISTENCE=f"sqlite:///{stage.path / 'release.sqlite'}",
        LAZY_ENGINE_JOBBOARD=f"zookeeper://{address}/release/jobs?timeout={_SESSION_SECONDS}",
    )
    stage.command("init")
    actors = [_conductor(stage, name) for name in ("conductor-a", "conductor-b")]
    for actor in actors:
        _await(f"{actor.name} to start", [actor], ": started", [actor])

    stage.title("1. One process submits the flow; a conductor runs it until it parks")
    kwargs = json.dumps({"version": VERSION, "publish_seconds": _PUBLISH_SECONDS})
    flow_uuid = stage.command("submit", FACTORY, "--kwargs", kwargs).strip()
    _await("the flow to park", actors, " parked (DELAYED)", actors)
    stage.command("show", flow_uuid)

    stage.title("2. The build farm answers; its answer rings, and the flow parks again")
    token = token_of(stage, flow_uuid, "build_farm")
    stage.command("complete", "-", "--result", PACKAGES, stdin=token)
    _await("the flow to park again", actors, " parked (DELAYED)", actors, times=2)
    stage.command("show", flow_uuid)

    stage.title("3. A person answers; the conductor that goes on is killed while it publishes")
    stage.command("complete", "--flow", flow_uuid, "--task", "security_review", "--result", REVIEW)
    victim = _await("the upload to begin", actors, "publish: uploading", actors)
    victim.process.send_signal(signal.SIGKILL)
    victim.process.wait()
    stage.say(f"{victim.name} (process {victim.process.pid}) is killed with SIGKILL")
    stage.command("show", flow_uuid)

    stage.title("4. The other conductor takes the flow over")
    (heir,) = (actor for actor in actors if actor is not victim)
    _await("the flow to end", [heir], " ended ", [heir])
    again = [task for task in ("build", "sign_off", "publish") if _has_run(heir, victim, task)]
    stage.say(
        f"{heir.name} (process {heir.process.pid}) went on after {victim.name} (process"
        f" {victim.process.pid}); executed again: {', '.join(again) or 'nothing'}"
    )
    stage.command("show", flow_uuid)
    return flow_uuid, state_of(stage, flow_uuid)


def _conductor(stage: Stage, name: str) -> Actor:
    lease = str(_LEASE_SECONDS)
    return stage.actor(name, "conductor", "--name", name, "--lease-seconds", lease)


def _has_run(heir: Actor, victim: Actor, task_name: str) -> bool:
    """Whether both have executed a task."""
    return all(any(f"] {task_name}: " in line for line in actor.lines) for actor in (heir, victim))


def _await(
    what: str, tellers: Sequence[Actor], words: str, living: Sequence[Actor], *, times: int = 1
) -> Actor:
    """Wait until *words* have been printed so often; return who printed them last.

    :raises CommandFailed: it takes too long, or one of *living* is gone.
    """

    def find() -> Actor | None:
        count = 0
        last = None
        for teller in tellers:
            told = sum(words in line for line in teller.lines)
            count += told
            last = teller if told else last
        return last if count >= times else None

    return wait_until(
        what,
        find,
        timeout_seconds=_PATIENCE_SECONDS,
        processes=[actor.process for actor in living],
    )
