# SPDX-License-Identifier: Apache-2.0
"""One step of a scenario, in a process of its own: ``step.py STORE_URL STEP [FLOW_UUID] [RESULT]``.

Prints what it has to say as JSON, one value to a line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import three_tasks

from lazy_engine import Client


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def start(client: Client, who: str) -> None:
    flow_uuid = client.submit(three_tasks.make, store={"who": who})
    say(flow_uuid)
    say(client.resume(flow_uuid))


def suspend(client: Client, flow_uuid: str) -> None:
    client.suspend(flow_uuid)


def look(client: Client, flow_uuid: str) -> None:
    seen = client.flow(flow_uuid)
    say(
        {
            "state": seen.state,
            "tasks": dict(seen.tasks),
            "results": dict(seen.results),
            "waits": {delay.task_name: delay.details for delay in seen.delays},
            "owner": seen.owner,
        }
    )


def complete(client: Client, flow_uuid: str, result: str) -> None:
    receipt = client.complete(client.token(flow_uuid, "third"), json.loads(result))
    say(receipt.disposition.value)


def resume(client: Client, flow_uuid: str) -> None:
    say(client.resume(flow_uuid))


STEPS = {step.__name__: step for step in (start, suspend, look, complete, resume)}

if __name__ == "__main__":
    url, name, *arguments = sys.argv[1:]
    STEPS[name](Client({"connection": url}), *arguments)
