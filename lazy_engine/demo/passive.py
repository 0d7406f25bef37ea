# SPDX-License-Identifier: Apache-2.0
"""The demo without a server: each step is a process that does its part and is gone."""

from __future__ import annotations

import json
from typing import Final

from lazy_engine.demo.stage import Stage

VERSION: Final = "2.4"
FACTORY: Final = "lazy_engine.demo.release:release"
PACKAGES: Final = '["amd64.deb", "arm64.deb"]'
REVIEW: Final = '{"by": "Ada", "approved": true}'


def play(stage: Stage) -> tuple[str, str]:
    """Play it; return the flow's uuid and the state it ended in."""
    stage.title("A release in six tasks; two of them wait for the world outside")
    stage.set(LAZY_ENGINE_PERSISTENCE=f"sqlite:///{stage.path / 'release.sqlite'}")

    stage.title("1. One process submits the flow and runs it as far as it can")
    kwargs = json.dumps({"version": VERSION})
    flow_uuid = stage.command("submit", FACTORY, "--kwargs", kwargs, "--run").strip()
    stage.say(f"Process {stage.steps[-1]['pid']} is gone. The flow is DELAYED; nothing runs:")
    stage.command("show", flow_uuid)

    stage.title("2. The build farm answers, with the token that its task gave it")
    token = token_of(stage, flow_uuid, "build_farm")
    stage.command("complete", "-", "--result", PACKAGES, stdin=token)
    stage.say("The answer is durable. Whoever resumes the flow hands it over:")
    stage.command("resume", flow_uuid)
    stage.command("show", flow_uuid)

    stage.title("3. A person answers, by the task's name, at a shell")
    stage.command("complete", "--flow", flow_uuid, "--task", "security_review", "--result", REVIEW)
    stage.command("resume", flow_uuid)
    stage.command("show", flow_uuid)
    return flow_uuid, state_of(stage, flow_uuid)


def token_of(stage: Stage, flow_uuid: str, task_name: str) -> str:
    """Return the token of a task that waits."""
    text = stage.ask("delays", "--flow", flow_uuid, "--task", task_name, "--tokens", "--json")
    return str(json.loads(text)["delays"][0]["token"])


def state_of(stage: Stage, flow_uuid: str) -> str:
    """Return a flow's state."""
    return str(json.loads(stage.ask("show", flow_uuid, "--json"))["state"])
