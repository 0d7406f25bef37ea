# SPDX-License-Identifier: Apache-2.0
"""Conductor: a process that runs flows whenever somebody rings.

Needs a ZooKeeper. Give its address, if it is not 127.0.0.1:2181:

    python 07_zookeeper_conductor.py HOST:PORT

Three processes share an SQLite file and a job board on that ZooKeeper. This
one submits a flow and looks on. Another one, which knows nothing of the flow,
answers. The conductor does all the running, and nobody tells it when.
"""

import contextlib
import multiprocessing
import signal
import sys
import tempfile
import time

import flows
from kazoo.client import KazooClient
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as boards

from lazy_engine import Client

FLOW_UUID = "0d2f7c31-7a53-4a2e-8f0e-6c1f1b0a9e07"
PATH = "/lazy-engine-example-07"


@contextlib.contextmanager
def connected(persistence, zookeeper):
    """Give a client that rings, and its job board."""
    client = Client(persistence)
    conf = {
        "board": "zookeeper",
        "hosts": zookeeper,
        "path": f"{PATH}/board",
        "check_compatible": False,  # most servers do not tell TaskFlow their version
    }
    board = boards.fetch("shop", conf, persistence=client.backend)
    board.connect()
    with contextlib.closing(board):
        yield Client(client.backend, board), board


def conduct(persistence, zookeeper, diary):
    """Answer doorbells until told to stop. What a flow is about, only its factory knows."""
    sys.stdout.reconfigure(line_buffering=True)
    with connected(persistence, zookeeper) as (client, board):
        conductor = conductors.fetch("lazy", "conductor-1", board, persistence=client.backend)
        for event in ("flow_parked", "flow_ended", "job_consumed"):
            conductor.notifier.register(event, lambda event, details: diary.put(event))
        signal.signal(signal.SIGTERM, lambda *_: conductor.stop())
        conductor.connect()
        conductor.run()
    print("conductor: told to stop, and done")


def answer(persistence, zookeeper, diary):
    """Answer whatever waits, and go."""
    with connected(persistence, zookeeper) as (client, _board):
        (delay,) = client.delays()
        token = client.token(delay.flow_uuid, delay.task_name)
        receipt = client.complete(token, {"method": "card"})
    diary.put(f"{receipt.disposition.name}, woken: {receipt.woken}")


def in_a_process_of_its_own(step, *arguments):
    process = multiprocessing.get_context("spawn").Process(target=step, args=arguments, daemon=True)
    process.start()
    return process


def main(persistence, zookeeper):
    sys.stdout.reconfigure(line_buffering=True)
    diary, receipts = (multiprocessing.get_context("spawn").Queue() for _ in range(2))
    with connected(persistence, zookeeper) as (client, board):
        client.submit(
            flows.make_order, store={"order": "order 7", "amount": 120}, flow_uuid=FLOW_UUID
        )
        print("submitted:", client.flow(FLOW_UUID).state, "jobs:", board.job_count)

        conductor = in_a_process_of_its_own(conduct, persistence, zookeeper, diary)
        print("conductor:", diary.get(timeout=60), diary.get(timeout=60))
        while board.job_count:
            time.sleep(0.01)  # until ZooKeeper has told this process, too
        print("parked:", client.flow(FLOW_UUID).state, "jobs:", board.job_count)

        in_a_process_of_its_own(answer, persistence, zookeeper, receipts)
        print("conductor:", diary.get(timeout=60), diary.get(timeout=60))
        print("the answer was", receipts.get(timeout=60))
        print("ended:", client.wait(FLOW_UUID, timeout_seconds=60))
        print("results:", client.flow(FLOW_UUID).results)
    conductor.terminate()
    conductor.join()


def clean_up(zookeeper):
    client = KazooClient(zookeeper)
    client.start()
    client.delete(PATH, recursive=True)
    client.stop()
    client.close()


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2181"
    with tempfile.TemporaryDirectory() as directory:
        main({"connection": f"sqlite:///{directory}/flows.db"}, address)
    clean_up(address)
