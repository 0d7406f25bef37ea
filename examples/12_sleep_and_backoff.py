# SPDX-License-Identifier: Apache-2.0
"""Sleep and back-off: waits that hold no thread and survive every restart.

``pattern.retried`` makes one line of "try three times, each with a deadline,
and wait longer before each try".
"""

import tempfile
import time

import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay, pattern


class Settle(task.Task):
    def execute(self):
        print("  settle: the disk needs a moment")
        return Delay.sleep(0.2, result="settled")


class Call(task.Task):
    def execute(self):
        delay = Delay(details={"to": "the printer"})
        print(f"  call: attempt {delay.attempt}")
        return delay


def make_flow():
    call = pattern.retried(Call("call"), 3, timeout_seconds=1, first_seconds=0.1, factor=2)
    return linear_flow.Flow("print").add(Settle("settle"), call)


with tempfile.TemporaryDirectory() as directory:
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    engine = taskflow.engines.load(make_flow(), backend=client.backend, engine="lazy")
    flow_uuid = engine.storage.flow_uuid
    state = engine.run()
    print("first run:", state)

    third_token = None
    while state == "DELAYED":
        for due_uuid in client.sweep():
            # Each time an engine that knows nothing but what is stored.
            state = client.resume(due_uuid, flow=make_flow())
            waits = [(delay.task_name, delay.attempt) for delay in client.delays()]
            print("woken:", state, waits)
            if ("call", 3) in waits:
                print("the third one is answered:", end=" ")
                print(client.complete(client.token(flow_uuid, "call"), "paper").disposition.name)
                state = client.resume(flow_uuid, flow=make_flow())
        time.sleep(0.02)
    print("last run:", state)
    results = client.flow(flow_uuid).results
    print("results:", {name: results[name] for name in ("settle", "call")})
