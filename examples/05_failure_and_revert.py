# SPDX-License-Identifier: Apache-2.0
"""Failure and revert: the outside may fail, and a retry controller may try again.

``kind`` names the sort of failure. The retry controller asks for it, and so
decides between another attempt, with a fresh token, and a revert of all.
"""

import tempfile

import taskflow.engines
from taskflow import retry, task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay


class Reserve(task.Task):
    default_provides = "address"

    def execute(self):
        print("  reserve: 192.0.2.7")
        return "192.0.2.7"

    def revert(self, result, **_):
        print(f"  reserve: give {result} back")


class RetryIfBusy(retry.Retry):
    def execute(self, history, *args, **kwargs):
        return len(history) + 1

    def on_failure(self, history, *args, **kwargs):
        failure = list(history)[-1][1]["boot"]
        return retry.RETRY if failure.check("Busy") else retry.REVERT_ALL


class Boot(task.Task):
    def execute(self, address):
        delay = Delay()
        print(f"  boot: attempt {delay.attempt} at {address}")
        return delay

    def revert(self, result, **_):
        print(f"  boot: clean up after {result.exception_str!r}")


def make_flow():
    tried = linear_flow.Flow("try to boot", retry=RetryIfBusy("controller")).add(Boot("boot"))
    return linear_flow.Flow("server").add(Reserve("reserve"), tried)


with tempfile.TemporaryDirectory() as directory:
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    engine = taskflow.engines.load(make_flow(), backend=client.backend, engine="lazy")
    flow_uuid = engine.storage.flow_uuid
    print("first run:", engine.run())

    first_token = client.token(flow_uuid, "boot")
    client.fail(first_token, "no host is free", kind="Busy")
    print("second run:", client.resume(flow_uuid, flow=make_flow()))

    second_token = client.token(flow_uuid, "boot")
    print("a fresh token:", second_token != first_token)
    print("the first one now:", client.complete(first_token, "after all").disposition.name)

    client.fail(second_token, "the image is broken", kind="BadImage")
    print("third run:", client.resume(flow_uuid, flow=make_flow()))
