# SPDX-License-Identifier: Apache-2.0
"""Hello, delay: a task asks, the flow parks, an answer comes, the flow goes on."""

import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay


class Ask(task.Task):
    default_provides = "name"

    def execute(self):
        return Delay(details="Who is there?", timeout_seconds=86400)


engine = taskflow.engines.load(linear_flow.Flow("hello").add(Ask("ask")), engine="lazy")
print(engine.run())  # the flow is parked; no thread waits for the answer

client = Client(engine.storage.backend)  # no backend was given: in memory
token = client.token(engine.storage.flow_uuid, "ask")
print(client.complete(token, "world").disposition)
print(engine.run(), engine.storage.fetch("name"))
