# SPDX-License-Identifier: Apache-2.0
"""Duplicate and early answers: every delivery gets a receipt, with one of five dispositions."""

import tempfile

import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay


class Quick(task.Task):
    """Asks somebody who answers before the task has even returned."""

    def __init__(self, name, client):
        super().__init__(name)
        self._client = client

    def execute(self):
        delay = Delay()
        receipt = self._client.complete(delay.token, "at once")
        print("before the task returned:", receipt.disposition.name)
        return delay


class Slow(task.Task):
    def execute(self):
        return Delay()


with tempfile.TemporaryDirectory() as directory:
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    flow = linear_flow.Flow("answers").add(Quick("quick", client), Slow("slow"))
    engine = taskflow.engines.load(flow, backend=client.backend, engine="lazy")
    flow_uuid = engine.storage.flow_uuid
    print("run:", engine.run())

    token = client.token(flow_uuid, "slow")
    print("the first answer:", client.complete(token, 42).disposition.name)
    print("the same once more:", client.complete(token, 42).disposition.name)
    print("another one:", client.complete(token, 43).disposition.name)
    print("run:", engine.run())

    print("another one, too late:", client.complete(token, 44).disposition.name)
    print("the same as ever:", client.complete(token, 42).disposition.name)
    print("results:", client.flow(flow_uuid).results)
