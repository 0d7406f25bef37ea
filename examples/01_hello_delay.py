# SPDX-License-Identifier: Apache-2.0
"""Hello, delay: a task asks, the flow parks, an answer comes, the flow goes on."""

import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay


class Ask(task.Task):
    default_provides = "name"

    def execute(self):
        return Delay(details={"question": "Who is there?"})


class Greet(task.Task):
    def execute(self, name):
        print(f"Hello, {name}!")


flow = linear_flow.Flow("hello").add(Ask("ask"), Greet("greet"))
engine = taskflow.engines.load(flow, engine="lazy")  # no backend: in memory
print(engine.run())  # the flow is parked; nothing waits for the answer

client = Client(engine.storage.backend)
token = client.token(engine.storage.flow_uuid, "ask")
print(client.complete(token, "world").disposition)
print(engine.run())
