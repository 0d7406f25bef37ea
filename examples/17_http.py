# SPDX-License-Identifier: Apache-2.0
"""A third party that knows nothing of TaskFlow answers over HTTP.

Without a job board the server runs the flow on itself. ``lazy-engine serve
--resume`` is the same as a command.
"""

import json
import tempfile
import urllib.error
import urllib.request

import flows

from lazy_engine import Client
from lazy_engine.http import make_app
from lazy_engine.http.server import Server
from lazy_engine.resumer import Resumer
from lazy_engine.watchdog import Watchdog

API_KEY = "an-operators-key-0123456789"


def ask(method, url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


with tempfile.TemporaryDirectory() as directory:
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    flow_uuid = client.submit(flows.make_order, store={"order": "A-17", "amount": 40})
    print("The flow is", client.resume(flow_uuid))
    # The task gave its token to the payment service, which now answers.
    token = client.token(flow_uuid, "payment")

    with (
        Resumer(client.backend) as resumer,
        Watchdog(resumer.client),
        Server(make_app(resumer.client, api_keys=[API_KEY])) as server,
    ):
        url = f"{server.url}/v1/tokens/{token}"
        status, receipt = ask("POST", f"{url}/heartbeat", {"progress": 0.5})
        print(status, receipt)
        status, receipt = ask("POST", f"{url}/complete", {"result": {"method": "card"}})
        print(status, receipt["disposition"], "woken" if receipt["woken"] else "")
        print("The flow is", client.wait(flow_uuid, timeout_seconds=60))

        status, receipt = ask("POST", f"{url}/complete", {"result": {"method": "card"}})
        print(status, receipt["disposition"])
        status, receipt = ask("POST", f"{url}/fail", {"error": "on second thoughts"})
        print(status, receipt["disposition"])
        status, problem = ask("POST", f"{server.url}/v1/tokens/guess/complete", {"result": 1})
        print(status, problem["error"])

        status, problem = ask("GET", f"{server.url}/v1/flows")
        print(status, problem["error"])
        key = {"Authorization": f"Bearer {API_KEY}"}
        status, page = ask("GET", f"{server.url}/v1/flows", **key)
        print(status, [(flow["name"], flow["state"]) for flow in page["flows"]])
