# SPDX-License-Identifier: Apache-2.0
"""Human approval: a person's answer decides which way the flow goes.

The waiting task's result is the person's decision; deciders, which are
TaskFlow's own, look at it.
"""

import tempfile

import taskflow.engines
from taskflow import task
from taskflow.patterns import graph_flow

from lazy_engine import Client, Delay


class Approve(task.Task):
    default_provides = "decision"

    def execute(self, change):
        return Delay(details={"change": change, "answers": ["yes", "no"]})


class Deploy(task.Task):
    def execute(self, change, decision):
        print(f"  deploy: {change}, approved by {decision['by']}")


class Reject(task.Task):
    def execute(self, change, decision):
        print(f"  reject: {change}, because {decision['reason']}")


def make_flow():
    approve, deploy, reject = Approve("approve"), Deploy("deploy"), Reject("reject")
    flow = graph_flow.Flow("change").add(approve, deploy, reject)
    flow.link(approve, deploy, decider=lambda history: history["approve"]["answer"] == "yes")
    flow.link(approve, reject, decider=lambda history: history["approve"]["answer"] == "no")
    return flow


def run(client, change, decision):
    print(change)
    engine = taskflow.engines.load(
        make_flow(), store={"change": change}, backend=client.backend, engine="lazy"
    )
    flow_uuid = engine.storage.flow_uuid
    print("  first run:", engine.run())
    (question,) = client.delays(flow_uuid=flow_uuid)
    print("  question:", question.details)
    client.complete(client.token(flow_uuid, "approve"), decision)
    print("  second run:", client.resume(flow_uuid, flow=make_flow()))
    for name, state in sorted(client.flow(flow_uuid).tasks.items()):
        print(f"  {name}: {state}")


with tempfile.TemporaryDirectory() as directory:
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    run(client, "new front page", {"answer": "yes", "by": "Ada"})
    run(client, "delete all users", {"answer": "no", "reason": "this is Friday"})
