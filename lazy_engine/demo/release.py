# SPDX-License-Identifier: Apache-2.0
"""The demo's flow: a release that waits for a person and for a build farm."""

from __future__ import annotations

import os
import time
from typing import Any

from taskflow import task
from taskflow.patterns import linear_flow, unordered_flow

from lazy_engine.delay import Delay

_STEPS = 20


class Build(task.Task):  # type: ignore[misc]  # TaskFlow has no types
    """Builds the release."""

    default_provides = "source"

    def execute(self, version: str) -> str:
        """Return the name of what was built."""
        _say(self, f"release {version} is built")
        return f"release-{version}.tar.gz"


class SecurityReview(task.Task):  # type: ignore[misc]  # no types
    """Asks a person."""

    default_provides = "review"

    def execute(self, source: str) -> Delay:
        """Ask, and park."""
        _say(self, f"somebody has to look at {source}")
        return Delay(details=f"a person's review of {source}")


class BuildFarm(task.Task):  # type: ignore[misc]  # no types
    """Asks a machine elsewhere."""

    default_provides = "packages"

    def execute(self, source: str) -> Delay:
        """Ask, and park. A real task would send ``delay.token`` to the farm."""
        delay = Delay(details=f"packages of {source} from the build farm")
        _say(self, f"job {delay.id} is sent to the farm")
        return delay


class SignOff(task.Task):  # type: ignore[misc]  # no types
    """Joins both branches."""

    default_provides = "signature"

    def execute(self, review: dict[str, Any], packages: list[str]) -> str:
        """Return who signed what."""
        _say(self, f"{review['by']} approves, {len(packages)} packages are there")
        return f"{len(packages)} packages signed by {review['by']}"


class Publish(task.Task):  # type: ignore[misc]  # no types
    """Uploads; slow if it is told to be."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name)
        self._seconds = seconds

    def execute(self, packages: list[str], signature: str) -> None:
        """Upload step by step."""
        _say(self, f"uploading {', '.join(packages)}")
        for step in range(_STEPS):
            time.sleep(self._seconds / _STEPS)
            self.update_progress((step + 1) / _STEPS)
        _say(self, "uploaded")


class Announce(task.Task):  # type: ignore[misc]  # no types
    """Tells the world."""

    def execute(self, version: str, signature: str) -> None:
        """Tell it."""
        _say(self, f"release {version} is out, {signature}")


def release(version: str, publish_seconds: float = 0.0) -> linear_flow.Flow:
    """Return the flow that releases a version.

    :param publish_seconds: how long publishing takes.
    """
    checks = unordered_flow.Flow("checks")
    checks.add(SecurityReview("security_review"), BuildFarm("build_farm"))
    return linear_flow.Flow(f"release-{version}").add(
        Build("build", inject={"version": version}),
        checks,
        SignOff("sign_off"),
        Publish("publish", publish_seconds),
        Announce("announce", inject={"version": version}),
    )


def _say(teller: task.Task, text: str) -> None:
    print(f"[process {os.getpid()}] {teller.name}: {text}", flush=True)
