# SPDX-License-Identifier: Apache-2.0
"""Two branches and a join: the answers may come in any order.

``attach`` needs a server and a volume. Both are asked for in the same run, and
so is what needs neither of them; whichever answer comes first is taken in.
"""

import tempfile

import taskflow.engines
from taskflow import task
from taskflow.patterns import graph_flow

from lazy_engine import Client, Delay


class Create(task.Task):
    def execute(self):
        return Delay(details={"create": self.name})


class Announce(task.Task):
    def execute(self):
        print("  announce: this task waits for nobody")


class Attach(task.Task):
    def execute(self, server, volume):
        print(f"  attach: {volume} to {server}")


def make_flow():
    return graph_flow.Flow("attach a volume").add(
        Create("server", provides="server"),
        Create("volume", provides="volume"),
        Announce("announce"),
        Attach("attach"),
    )


with tempfile.TemporaryDirectory() as directory:
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    engine = taskflow.engines.load(make_flow(), backend=client.backend, engine="lazy")
    flow_uuid = engine.storage.flow_uuid
    print("first run:", engine.run())
    print("waiting:", sorted(delay.task_name for delay in client.delays()))

    # The last branch answers first.
    client.complete(client.token(flow_uuid, "volume"), "volume-1")
    print("second run:", client.resume(flow_uuid, flow=make_flow()))
    print("waiting:", sorted(delay.task_name for delay in client.delays()))

    client.complete(client.token(flow_uuid, "server"), "server-1")
    print("third run:", client.resume(flow_uuid, flow=make_flow()))
