# SPDX-License-Identifier: Apache-2.0
"""Poll and callback on one wait, against a small cloud that speaks HTTP.

The task hands its token to the cloud, to be called back with, and also looks
for itself now and then: callbacks get lost. Whichever is first wins, and the
other one changes nothing.
"""

import http.server
import json
import tempfile
import threading
import time
import urllib.request
from typing import ClassVar

import taskflow.engines
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay, StillWaiting, pattern


class Cloud(http.server.BaseHTTPRequestHandler):
    """``POST /servers`` boots one; ``GET /servers/NAME`` tells its status."""

    servers: ClassVar = {}

    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.servers[wanted["name"]] = {**wanted, "looks": 0}
        self._answer({"accepted": True})

    def do_GET(self):
        server = self.servers[self.path.rpartition("/")[2]]
        server["looks"] += 1
        if server["name"] == "broken":
            self._answer({"status": "ERROR"})
        else:
            status = "ACTIVE" if server["looks"] == 3 else "BUILD"
            self._answer({"status": status, "ip": "192.0.2.7"})

    def _answer(self, document):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_):
        pass


def ask_cloud(url, document=None):
    data = None if document is None else json.dumps(document).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data)) as answer:
        return json.load(answer)


class Boot(task.Task):
    default_provides = "ip"

    def execute(self, cloud_url, name):
        delay = Delay(timeout_seconds=3600, probe_every_seconds=0.1)
        print(f"  boot {name}, attempt {delay.attempt}")
        # delay.id is the idempotency key: the same if the request is sent again.
        wanted = {"name": name, "request_id": delay.id, "callback": delay.token}
        ask_cloud(f"{cloud_url}/servers", wanted)
        return delay

    def probe(self, cloud_url, name, probe_state):
        found = ask_cloud(f"{cloud_url}/servers/{name}")
        looks = (probe_state or 0) + 1
        print(f"  look {looks} at {name}: {found['status']}")
        if found["status"] == "ERROR":
            raise RuntimeError(f"{name} does not boot")
        return found["ip"] if found["status"] == "ACTIVE" else StillWaiting(looks)


def make_flow():
    return linear_flow.Flow("server").add(pattern.retried(Boot("boot"), 2))


def start(client, cloud_url, name):
    store = {"cloud_url": cloud_url, "name": name}
    engine = taskflow.engines.load(make_flow(), backend=client.backend, engine="lazy", store=store)
    print(f"{name}:", engine.run())
    return engine.storage.flow_uuid


def sweep_until_over(client, flow_uuid):
    state = "DELAYED"
    while state == "DELAYED":
        if client.sweep():
            state = client.resume(flow_uuid, flow=make_flow())
        time.sleep(0.02)
    return state


with (
    http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cloud) as cloud,
    tempfile.TemporaryDirectory() as directory,
):
    threading.Thread(target=cloud.serve_forever, daemon=True).start()
    cloud_url = f"http://127.0.0.1:{cloud.server_port}"
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})

    polled = start(client, cloud_url, "debian")
    print("ended:", sweep_until_over(client, polled))
    print("server:", client.flow(polled).results["boot"])

    called = start(client, cloud_url, "fedora")
    callback = Cloud.servers["fedora"]["callback"]
    print("callback:", client.complete(callback, "192.0.2.8").disposition.name)
    print("ended:", client.resume(called, flow=make_flow()))
    print("looks that were needed:", Cloud.servers["fedora"]["looks"])

    broken = start(client, cloud_url, "broken")
    print("ended:", sweep_until_over(client, broken))
    cloud.shutdown()
