# SPDX-License-Identifier: Apache-2.0
"""A conductor that is killed in the middle of a task."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys

from lazy_engine import Client
from tests import child
from tests.integration import wake_flows
from tests.waiting import wait_until


def kill_at_work(client: Client, script: str, arguments: list[str], place: pathlib.Path) -> str:
    """Have a process of its own conduct a flow, and kill it in a task; return the flow's uuid.

    :param script: what it runs, with *arguments*; the only one that conducts.
    :param place: a directory for the script and what is noted.
    """
    pid_path, script_path = place / "pid", place / "conduct.py"
    script_path.write_text(script)
    victim = subprocess.Popen(
        [sys.executable, str(script_path), *arguments],
        env=child.environment(PYTHONWARNINGS="ignore"),
    )
    try:
        flow_uuid = client.submit(wake_flows.hangs_once, store={"pid_path": str(pid_path)})
        wait_until(lambda: client.flow(flow_uuid).state == "DELAYED", timeout_seconds=30)
        client.complete(client.token(flow_uuid, "ask"), "go")
        wait_until(lambda: pid_path.exists() and pid_path.read_text(), timeout_seconds=30)
        assert int(pid_path.read_text()) == victim.pid
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    return flow_uuid
