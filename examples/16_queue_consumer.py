# SPDX-License-Identifier: Apache-2.0
"""A queue consumer: messages that may come twice, late, or from nobody knows where.

A message is acknowledged when its answer has been judged and written down, and
only then. So a consumer that dies in between gets it once more, and that is a
duplicate, which does no harm.
"""

import collections
import json
import tempfile

import flows

from lazy_engine import Client, Disposition, Failed, LazyEngineError, Result, StoreUnavailable

BATCH = 10


class Queue:
    """Stands in for a broker that delivers at least once."""

    def __init__(self):
        self.waiting = collections.deque()
        self.in_flight = []
        self.dead_letters = []

    def publish(self, **message):
        self.waiting.append(json.dumps(message))

    def receive(self, limit):
        while self.waiting and len(self.in_flight) < limit:
            self.in_flight.append(self.waiting.popleft())
        return list(self.in_flight)

    def ack(self, message):
        self.in_flight.remove(message)

    def bury(self, message):
        self.ack(message)
        self.dead_letters.append(message)


def read(message):
    """Return a message's token and outcome."""
    document = json.loads(message)
    if "error" in document:
        return document["token"], Failed(document["error"], kind=document.get("kind"))
    return document["token"], Result(document["result"])


def consume(queue, client):
    """Take one batch; the answers for one flow are one transaction, and one doorbell."""
    messages, items = [], []
    for message in queue.receive(BATCH):
        try:
            items.append(read(message))
            messages.append(message)
        except (ValueError, KeyError, TypeError) as error:
            print("no message of ours:", type(error).__name__)
            queue.bury(message)
    for message, answer in zip(messages, client.deliver_many(items), strict=True):
        if isinstance(answer, StoreUnavailable):
            print("not now")  # nothing is known to be recorded: the broker brings it again
        elif isinstance(answer, LazyEngineError):
            print("refused:", type(answer).__name__)  # it would be the next time, too
            queue.bury(message)
        elif answer.disposition is Disposition.CONFLICT:
            print("CONFLICT")  # somebody said something else before: a person should know
            queue.bury(message)
        else:
            print(answer.disposition.name)
            queue.ack(message)


def main(directory):
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    flow_uuids = [
        client.submit(flows.make_order, store={"order": order, "amount": 120})
        for order in ("order 7", "order 8")
    ]
    for flow_uuid in flow_uuids:
        client.resume(flow_uuid)
    tokens = [client.token(flow_uuid, "payment") for flow_uuid in flow_uuids]

    queue = Queue()
    queue.publish(token=tokens[0], result={"method": "card"})
    queue.publish(token=tokens[0], result={"method": "card"})
    queue.publish(token=tokens[0], result={"method": "cash"})
    queue.publish(token=tokens[1], error="the bank says no", kind="NoMoney")
    queue.publish(token="guessed", result={"method": "none"})
    queue.publish(subject="Cheap watches")
    consume(queue, client)
    print("left:", len(queue.waiting), "dead letters:", len(queue.dead_letters))

    # With a job board, the answers have woken the flows. Without one:
    for flow_uuid in flow_uuids:
        print("resumed:", client.resume(flow_uuid))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(directory)
