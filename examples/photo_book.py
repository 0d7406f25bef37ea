# SPDX-License-Identifier: Apache-2.0
"""The flow of ``08_crash_and_resume.py``, and the lightning that strikes it."""

import json
import os
import pathlib
import signal

from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Delay


def maybe_struck(place):
    """Die at once, without a word, if lightning is to strike here."""
    if os.environ.get("LIGHTNING") == place:
        print(f"  {place}: *lightning*")
        os.kill(os.getpid(), signal.SIGKILL)


class PrintShop:
    """The outside: takes orders, and knows a repeated one by its id."""

    def __init__(self, path):
        self._path = pathlib.Path(path)

    def order(self, order_id, pages, callback):
        known = {order["id"] for order in self.orders()}
        if order_id in known:
            return "we know that order"
        with self._path.open("a") as file:
            file.write(json.dumps({"id": order_id, "pages": pages, "callback": callback}) + "\n")
        return "a new order"

    def orders(self):
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text().splitlines()]


class LayOut(task.Task):
    default_provides = "pages"

    def execute(self):
        print("  lay out: 40 pages")
        return 40


class Print(task.Task):
    default_provides = "parcel"

    def execute(self, shop_path, pages):
        delay = Delay(timeout_seconds=86400)
        said = PrintShop(shop_path).order(delay.id, pages, delay.token)
        print(f"  print: the shop says '{said}'")
        maybe_struck("print")  # the order is out, and nobody here has written that down
        return delay


class Send(task.Task):
    def execute(self, parcel):
        print(f"  send: {parcel}")
        maybe_struck("send")
        print("  send: handed over")


def make_book():
    return linear_flow.Flow("photo book").add(LayOut("layout"), Print("print"), Send("send"))
