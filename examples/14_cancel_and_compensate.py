# SPDX-License-Identifier: Apache-2.0
"""Cancel a flow, with a compensation that itself waits for outside.

Cancelling reverts all that was done, past every retry controller. What waits
is called off: its token is late from then on, and the outside worker hears so
when it next sends a heartbeat. A ``revert`` may answer with a ``Delay`` too.
"""

import tempfile

import taskflow.engines
from taskflow import retry, task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay


class Book(task.Task):
    default_provides = "ticket"

    def execute(self):
        print("  book: ticket 7")
        return 7

    def revert(self, result, **_):
        print(f"  book: ask the airline to take ticket {result} back")
        return Delay(timeout_seconds=3600)


class Drive(task.Task):
    def execute(self, ticket):
        print("  drive: send a driver")
        return Delay(heartbeat_seconds=600)

    def revert(self, result, **_):
        print(f"  drive: called off ({result.exception_str})")


def make_flow():
    return linear_flow.Flow("journey", retry=retry.Times(5)).add(Book("book"), Drive("drive"))


with tempfile.TemporaryDirectory() as directory:
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    engine = taskflow.engines.load(make_flow(), backend=client.backend, engine="lazy")
    flow_uuid = engine.storage.flow_uuid
    print("first run:", engine.run())

    driver = client.token(flow_uuid, "drive")
    print("driver goes on:", not client.heartbeat(driver, progress=0.5).cancelled)
    print("cancelled:", client.cancel(flow_uuid, "the meeting is off"))
    print("driver is to stop:", client.heartbeat(driver).cancelled)
    print("driver arrives all the same:", client.complete(driver).disposition.name)

    print("second run:", client.resume(flow_uuid, flow=make_flow()))
    (waiting,) = client.delays(flow_uuid=flow_uuid)
    print("waits:", waiting.task_name, waiting.kind)
    refund = client.token(flow_uuid, "book")
    print("airline:", client.complete(refund, "refunded").disposition.name)
    print("third run:", client.resume(flow_uuid, flow=make_flow()))
    flow = client.flow(flow_uuid)
    print("ended:", flow.state, flow.wish_reason)
