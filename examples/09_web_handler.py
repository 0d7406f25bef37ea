# SPDX-License-Identifier: Apache-2.0
"""A web handler: a POST with a token completes the delay and runs the flow on.

There is no conductor, no job board and no watchdog here: the request that
brings the answer also does the work that follows from it. ``application`` is
plain WSGI, so it can be mounted beside an existing application.
"""

import json
import pathlib
import tempfile
import threading
import urllib.error
import urllib.request
import wsgiref.simple_server

import flows

from lazy_engine import Client, Disposition, InvalidToken, LazyEngineError, StoreUnavailable

STATUS = {
    Disposition.ACCEPTED: "200 OK",
    Disposition.EARLY: "200 OK",
    Disposition.DUPLICATE: "200 OK",  # the caller did not hear us the first time
    Disposition.CONFLICT: "409 Conflict",
    Disposition.LATE: "410 Gone",
}


class Answers:
    """``POST {"token": …, "result": …}``"""

    def __init__(self, client):
        self._client = client

    def application(self, environ, start_response):
        try:
            status, document = self._take(environ)
        except InvalidToken:
            status, document = "404 Not Found", {"error": "that is none of our tokens"}
        except StoreUnavailable:
            status, document = "503 Service Unavailable", {"error": "please try again"}
        except (LazyEngineError, ValueError, KeyError, TypeError) as error:
            status, document = "400 Bad Request", {"error": type(error).__name__}
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(document).encode()]

    def _take(self, environ):
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        posted = json.loads(body)
        receipt = self._client.complete(posted["token"], posted.get("result"))
        # The answer is safe now, whatever becomes of the rest. A caller that
        # repeats its request has the flow run on, should we die on the next line.
        try:
            state = self._client.resume(receipt.flow_uuid)
        except LazyEngineError as error:
            state = f"not now ({type(error).__name__})"
        return STATUS[receipt.disposition], {"answer": receipt.disposition.name, "flow": state}


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def post(url, document):
    request = urllib.request.Request(url, data=json.dumps(document).encode())
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as response:
        with response:
            return response.code, json.load(response)


def main(directory):
    client = Client({"connection": f"sqlite:///{pathlib.Path(directory, 'flows.db')}"})
    server = wsgiref.simple_server.make_server(
        "127.0.0.1", 0, Answers(client).application, handler_class=Quiet
    )
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/answers"

        flow_uuid = client.submit(flows.make_order, store={"order": "order 7", "amount": 120})
        print("the shop's own request:", client.resume(flow_uuid))
        token = client.token(flow_uuid, "payment")  # the payment service was given it

        print(*post(url, {"token": token, "result": {"method": "card"}}))
        print(*post(url, {"token": token, "result": {"method": "card"}}))
        print(*post(url, {"token": token, "result": {"method": "cash"}}))
        print(*post(url, {"token": "my own one", "result": {"method": "none"}}))
        print(*post(url, ["what?"]))
        server.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(directory)
