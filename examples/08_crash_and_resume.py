# SPDX-License-Identifier: Apache-2.0
"""Crash and resume: processes are killed at the worst moments, others carry on.

Each life is a process of its own that resumes the flow with what the store
knows. Two of them are struck by SIGKILL: the first right after it has sent an
order out, before anybody wrote that down; the other in the middle of a task.

The shop outside prints the book once all the same, for it is given
``delay.id``, which is the same in every repetition.
"""

import os
import subprocess
import sys
import tempfile

import photo_book

from lazy_engine import Client

FLOW_UUID = "3b1f5a8e-95d7-4c06-8a3b-0c54e2a7d908"


def live(directory):
    """Carry the flow on as far as it goes. Whoever dies in it simply did not finish."""
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    client.submit(
        photo_book.make_book,
        store={"shop_path": f"{directory}/shop"},
        flow_uuid=FLOW_UUID,  # the same uuid is the same flow: safe to repeat
    )
    print("  this life ends:", client.resume(FLOW_UUID))


def give_birth(title, directory, lightning=""):
    print(title, flush=True)
    done = subprocess.run(
        [sys.executable, "-u", __file__, directory], env={**os.environ, "LIGHTNING": lightning}
    )
    if done.returncode:
        print("  killed by signal", -done.returncode)


def main(directory):
    give_birth("life 1", directory, lightning="print")
    give_birth("life 2", directory)

    (order,) = photo_book.PrintShop(f"{directory}/shop").orders()
    client = Client({"connection": f"sqlite:///{directory}/flows.db"})
    receipt = client.complete(order["callback"], "a book of 40 pages")
    print("the shop answers with the token that life 1 gave it:", receipt.disposition.name)

    give_birth("life 3", directory, lightning="send")
    give_birth("life 4", directory)
    print("ended:", client.flow(FLOW_UUID).state)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        live(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(directory)
