# SPDX-License-Identifier: Apache-2.0
"""The loop of a subject's process: it is asked in lines of JSON, and answers each with one.

Nothing is imported here but what every Python has. A question names a method
of the subject and its arguments: ``{"do": "park", "count": 100}``. An answer is what it
returned, and the seconds of processor time that its process took:
``{"answer": 0.25, "processor": 0.2}``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any


def serve(
    name: str, make: Callable[[str], Any], packages: list[str], durability: Callable[[Any], str]
) -> None:
    """Make the subject, tell what it is, and do what is asked until nobody asks any more.

    :param packages: whose versions are told.
    :param durability: tells in words how lasting a commit of the made subject is.
    """
    # Standard output is for answers, whatever anybody prints.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    subject = make(sys.argv[1])
    versions = {each: metadata.version(each) for each in packages}
    facts = {"subject": name, "versions": versions, "durability": durability(subject)}
    print(json.dumps({"answer": facts}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        method = _OWN.get(asked["do"]) or getattr(subject, asked["do"])
        del asked["do"]
        began = time.process_time()
        answer = method(**asked)
        told = {"answer": answer, "processor": time.process_time() - began}
        print(json.dumps(told), file=answers, flush=True)
    subject.close()


def held() -> dict[str, int]:
    """Return the bytes and the threads that this process holds."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {"bytes": pages * os.sysconf("SC_PAGE_SIZE"), "threads": threading.active_count()}


def idle(seconds: float) -> float:
    """Return the seconds of processor time that this process takes while nobody asks for anything."""
    began = time.process_time()
    time.sleep(seconds)
    return time.process_time() - began


_OWN: dict[str, Callable[..., Any]] = {"held": held, "idle": idle}


def sqlite_durability(pragma: Callable[[str], Any]) -> str:
    """Return how a connection to SQLite commits, in words.

    :param pragma: answers a pragma of the connection.
    """
    levels = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
    level = levels[int(pragma("synchronous"))]
    return f"journal_mode={str(pragma('journal_mode')).upper()}, synchronous={level}"
