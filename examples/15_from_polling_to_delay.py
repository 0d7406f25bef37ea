# SPDX-License-Identifier: Apache-2.0
"""Before and after: a task that sleeps and polls becomes one that parks.

``Before`` waits as many OpenStack services do: look; if it is not there yet,
sleep and fail, so that a retry controller has it look again. It holds a thread
all the while, and the wait ends with the process.

``After`` has the same name in the flow, the same arguments and the same result.
The number of looks became a deadline, the pause between them the probe's
period, the look itself the method ``probe``; what is new is the callback.
"""

import tempfile
import threading
import time

import taskflow.engines
from taskflow import retry, task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay

SERVERS = ["ada", "bob", "cleo", "dora", "emil"]
LOOKS = 1200
PAUSE_SECONDS = 0.05  # real ones look 30 times, 10 seconds apart


class Cloud:
    """Boots servers, calls back, and sometimes forgets to."""

    forgets = ("bob", "emil")

    def __init__(self):
        self.addresses = {}
        self.looked = set()
        self.callbacks = {}

    def address(self, server):
        self.looked.add(server)
        return self.addresses.get(server)

    def call_back(self, server, token):
        self.callbacks[server] = token

    def boot_all(self):
        for number, server in enumerate(SERVERS, start=1):
            self.addresses[server] = f"192.0.2.{number}"


cloud = Cloud()


class Before(task.Task):
    default_provides = "address"

    def execute(self, server):
        address = cloud.address(server)
        if address is None:
            time.sleep(PAUSE_SECONDS)
            raise TimeoutError(f"{server} is not there yet")
        return address


class After(task.Task):
    default_provides = "address"

    def execute(self, server):
        delay = Delay(timeout_seconds=LOOKS * PAUSE_SECONDS, probe_every_seconds=PAUSE_SECONDS)
        cloud.call_back(server, delay.token)
        return delay

    def probe(self, server):  # the look, should the callback get lost; None waits on
        return cloud.address(server)


class Announce(task.Task):
    default_provides = "sign"

    def execute(self, server, address):
        return f"{server} is at {address}"


def flow_before():
    wait = linear_flow.Flow("wait", retry=retry.Times(LOOKS)).add(Before("compute wait"))
    return linear_flow.Flow("server").add(wait, Announce("announce"))


def flow_after():
    return linear_flow.Flow("server").add(After("compute wait"), Announce("announce"))


def count_threads():
    return threading.active_count() - 1


def await_threads():
    """Give threads that are about to end the time to do so."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(timeout=20)


def before():
    signs = []

    def hold_a_thread(server):
        engine = taskflow.engines.load(flow_before(), store={"server": server})
        engine.run()
        signs.append(engine.storage.fetch("sign"))

    for server in SERVERS:
        threading.Thread(target=hold_a_thread, args=[server]).start()
    while cloud.looked != set(SERVERS):
        time.sleep(0.01)
    print("before: threads held:", count_threads())
    cloud.boot_all()
    await_threads()
    print("before:", *sorted(signs), sep="\n  ")


def after(client):
    parked = {}
    for server in SERVERS:
        parked[server] = client.submit(flow_after, store={"server": server})
        client.resume(parked[server])
    await_threads()
    print("after: threads held:", count_threads(), "flows parked:", len(client.delays()))
    cloud.boot_all()
    for server in sorted(set(SERVERS) - set(cloud.forgets)):
        receipt = client.complete(cloud.callbacks[server], cloud.addresses[server])
        client.resume(receipt.flow_uuid)  # a conductor would be woken instead
    print("after: called back, still parked:", len(client.delays()))
    while client.delays():
        for flow_uuid in client.sweep():  # a watchdog's work: whose time is it to look?
            client.resume(flow_uuid)
        time.sleep(0.01)
    signs = [client.flow(flow_uuid).results["announce"] for flow_uuid in parked.values()]
    print("after:", *sorted(signs), sep="\n  ")


if __name__ == "__main__":
    before()
    cloud = Cloud()
    with tempfile.TemporaryDirectory() as directory:
        after(Client({"connection": f"sqlite:///{directory}/flows.db"}))
