# SPDX-License-Identifier: Apache-2.0
"""Deadlines: a vote that counts as "no" if it is late, and a payment that fails.

A deadline is absolute and stored with the delay. Whoever looks first when it
has passed judges it: the watchdog of a conductor, ``lazy-engine watchdog``, or,
as here, ``Client.sweep`` in one's own program.
"""

import tempfile
import time

import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay


class AskTheBoard(task.Task):
    default_provides = "vote"

    def execute(self):
        return Delay(timeout_seconds=0.2, on_timeout="default", default="no")


class Collect(task.Task):
    def execute(self, vote):
        print(f"  the board said {vote!r}; collect a deposit")
        return Delay(timeout_seconds=0.2)  # on_timeout="fail"

    def revert(self, result, **_):
        print(f"  collect: give up, {result.exception_str}")


def make_flow():
    return linear_flow.Flow("deposit").add(AskTheBoard("board"), Collect("collect"))


def sweep_until_due(client):
    while not (due := client.sweep()):
        time.sleep(0.02)
    return due


with tempfile.TemporaryDirectory() as directory:
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    engine = taskflow.engines.load(make_flow(), backend=client.backend, engine="lazy")
    flow_uuid = engine.storage.flow_uuid
    print("first run:", engine.run())
    vote_token = client.token(flow_uuid, "board")

    print("due:", sweep_until_due(client) == [flow_uuid])
    print("the vote now:", client.complete(vote_token, "yes").disposition.name)
    print("second run:", client.resume(flow_uuid, flow=make_flow()))

    sweep_until_due(client)
    print("third run:", client.resume(flow_uuid, flow=make_flow()))
    print("results:", client.flow(flow_uuid).results)
