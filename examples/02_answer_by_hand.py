# SPDX-License-Identifier: Apache-2.0
"""Answer by hand: three processes that share nothing but one SQLite file.

One parks the flow and exits. Another one finds out what waits, issues the
token again and answers. A third one resumes.
"""

import multiprocessing
import tempfile

import flows

from lazy_engine import Client

FLOW_UUID = "5f0c7a52-3f43-4d2c-9d0e-0c8f3a1f7b11"


def park(persistence):
    client = Client(persistence)
    client.submit(flows.make_order, store={"order": "order 7", "amount": 120}, flow_uuid=FLOW_UUID)
    print("first run:", client.resume(FLOW_UUID))


def answer(persistence):
    client = Client(persistence)
    for delay in client.delays():
        print(f"waiting: {delay.task_name}, {delay.details}")
        token = client.token(delay.flow_uuid, delay.task_name)
        receipt = client.complete(token, {"method": "card"})
        print("answer:", receipt.disposition.name, "woken:", receipt.woken)


def resume(persistence):
    client = Client(persistence)
    print("second run:", client.resume(FLOW_UUID))
    print("results:", client.flow(FLOW_UUID).results)


def in_a_process_of_its_own(step, persistence):
    process = multiprocessing.get_context("spawn").Process(target=step, args=(persistence,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        persistence = {"connection": f"sqlite:///{directory}/flows.db"}
        for step in (park, answer, resume):
            in_a_process_of_its_own(step, persistence)
