# SPDX-License-Identifier: Apache-2.0
"""What conductors do through a real ZooKeeper: how soon, how many, at what price.

    LAZY_ENGINE_BENCH_SCALE=0.02 python benchmarks/conductor.py [alone requests jobs large memory]

Flows are in an SQLite file, conductors in processes of their own. Prints one
JSON line a workload and subject:

``alone``
    milliseconds from the call of ``complete`` to the moment at which the next task runs, one
    flow after the other: ``median`` and ``p99``; ``cold`` without engines in memory.
``requests``
    ZooKeeper requests a wake of all clients together, with one, two and three conductors.
``jobs``
    jobs a second of flows of two tasks, which are all on the board from the beginning: the
    ``lazy`` conductor and TaskFlow's ``blocking`` one in turn, and their ``ratio``.
``large``
    milliseconds from ``complete`` to the next task in a flow of 10,000, with its engine still in
    the conductor's memory (``warm``) and without (``cold``), and the processor time of the
    conductor for the whole wake (``cpu``); and what of the latter is the
    making of the flow by its factory (``factory``), which is TaskFlow's and the user's.
``memory``
    kilobytes by which a conductor's memory grows with each thousand flows that park and end,
    over the second half of them: ``slope``; 100,000 flows at scale 1.

Only ratios and medians mean something on another machine.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from harness import line
from taskflow import engines, task
from taskflow.conductors import backends as conductors
from taskflow.jobs import backends as jobboards
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.persistence import models

from lazy_engine import Client, Delay

SCALE = float(os.environ.get("LAZY_ENGINE_BENCH_SCALE") or 1)
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Ask(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=3600)


class Step(task.Task):
    def execute(self) -> int:
        return 1


class Note(task.Task):
    def execute(self) -> float:
        return time.monotonic()


def two_tasks() -> Any:
    return linear_flow.Flow("two").add(Step("first"), Step("second"))


def asks(count: int, beside: int = 0) -> Any:
    """Return a flow that asks so often, one after the other, and notes when it is answered."""
    flow = linear_flow.Flow("asks")
    if beside:
        steps = [Step(f"step {number}") for number in range(beside)]
        flow.add(unordered_flow.Flow("beside").add(*steps))
    for number in range(count):
        flow.add(Ask(f"ask {number}"), Note(f"note {number}"))
    return flow


# -- a conductor in a process of its own ---------------------------------------


def count_requests(board: Any) -> collections.Counter[str]:
    """Count what a board's client asks ZooKeeper for."""
    counts: collections.Counter[str] = collections.Counter()
    call = board._client._call

    def note(request: Any, result: Any) -> Any:
        counts[type(request).__name__] += 1
        return call(request, result)

    board._client._call = note
    return counts


def open_board(hosts: str, path: str, backend: Any) -> Any:
    conf = {"board": "zookeeper", "hosts": hosts, "path": path, "check_compatible": False}
    board = jobboards.fetch("benchmark", conf, persistence=backend)
    board.connect()
    return board


def be_conductor(given: dict[str, Any]) -> None:
    """Conduct until standard input ends; answer each line of it with what was counted."""
    backend = Client({"connection": given["url"]}).backend
    board = open_board(given["hosts"], given["path"], backend)
    counts = count_requests(board)
    conductor = conductors.fetch(
        given["kind"], given["name"], board, persistence=backend, **given["options"]
    )
    consumed = 0

    def count(_event: str, details: Any) -> None:
        nonlocal consumed
        consumed += 1

    conductor.notifier.register("job_consumed", count)
    thread = threading.Thread(target=conductor.run)
    thread.start()
    for _line in sys.stdin:
        status = pathlib.Path("/proc/self/statm").read_text().split()
        told = {
            "requests": counts.total(),
            "consumed": consumed,
            "cpu_ms": int(1e3 * time.process_time()),
            "rss_kb": int(status[1]) * os.sysconf("SC_PAGE_SIZE") // 1024,
        }
        print(json.dumps(told), flush=True)
    conductor.stop()
    thread.join()
    board.close()
    backend.close()


class Conductor:
    """A conductor in a child process."""

    def __init__(self, **given: Any) -> None:
        self._child = subprocess.Popen(
            [sys.executable, __file__, "--conduct", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> dict[str, int]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write("?\n")
        self._child.stdin.flush()
        found: dict[str, int] = json.loads(self._child.stdout.readline())
        return found

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


class Site:
    """A store, a board, a client and some conductors."""

    def __init__(self, stack: contextlib.ExitStack, hosts: str, count: int, **options: Any) -> None:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        url = f"sqlite:///{directory}/flows.db"
        path = f"/benchmark/{pathlib.Path(directory).name}/jobs"
        self.backend = Client({"connection": url}).backend
        stack.callback(self.backend.close)
        self.board = open_board(hosts, path, self.backend)
        stack.callback(self.board.close)
        self.requests = count_requests(self.board)
        self.client = Client(self.backend, self.board)
        self._given = {"url": url, "hosts": hosts, "path": path, "options": options}
        self.conductors = [self.conduct(stack, "lazy", f"c{n}") for n in range(count)]

    def conduct(self, stack: contextlib.ExitStack, kind: str, name: str) -> Conductor:
        made = Conductor(kind=kind, name=name, **self._given)
        stack.callback(made.close)
        return made

    def wait(self, flow_uuid: str, states: tuple[str, ...] = ("DELAYED",)) -> None:
        while self.client.flow(flow_uuid).state not in states:
            time.sleep(0.005)

    def consumed(self) -> int:
        return sum(conductor.ask()["consumed"] for conductor in self.conductors)

    def wait_consumed(self, count: int) -> None:
        while self.consumed() < count:
            time.sleep(0.01)

    def asked(self) -> int:
        return self.requests.total() + sum(c.ask()["requests"] for c in self.conductors)

    def wake_all(self, flow_uuid: str, count: int, first: int = 0) -> list[float]:
        """Answer one wait after the other; return milliseconds from answer to resumed task."""
        answered_at = {}
        done = self.consumed()
        for number in range(first, first + count):
            token = self.client.token(flow_uuid, f"ask {number}")
            answered_at[number] = time.monotonic()
            self.client.complete(token, 1)
            done += 1
            self.wait_consumed(done)
        results = self.client.flow(flow_uuid).results
        return [1e3 * (results[f"note {n}"] - at) for n, at in answered_at.items()]


def say(workload: str, subject: str, unit: str, **figures: Any) -> None:
    line.emit("conductor", store="sqlite", workload=workload, subject=subject, unit=unit, **figures)


def _p99(took: list[float]) -> float:
    return sorted(took)[min(len(took) - 1, int(len(took) * 0.99))]


# -- workloads -------------------------------------------------------------------


def measure_alone(hosts: str) -> None:
    count = max(5, int(500 * SCALE))
    for subject, kept in (("warm", 256), ("cold", 0)):
        with contextlib.ExitStack() as stack:
            site = Site(stack, hosts, 1, watchdog=False, keep_engines=kept)
            flow_uuid = site.client.submit(asks, [count + 5])
            site.wait(flow_uuid)
            site.wait_consumed(1)
            took = site.wake_all(flow_uuid, count)[5:] or [0.0]
            figures = {"median": round(statistics.median(took), 2), "p99": round(_p99(took), 2)}
            say("alone", subject, "ms", tasks=2 * (count + 5), wakes=count, **figures)


def measure_requests(hosts: str) -> None:
    count = max(5, int(300 * SCALE))
    for conducting in (1, 2, 3):
        with contextlib.ExitStack() as stack:
            site = Site(stack, hosts, conducting, watchdog=False)
            for conductor in site.conductors:
                conductor.ask()  # they are there
            flow_uuid = site.client.submit(asks, [count])
            site.wait(flow_uuid)
            site.wait_consumed(1)
            time.sleep(2)  # looks that were put off
            before = site.asked()
            site.wake_all(flow_uuid, count)
            figure = round((site.asked() - before) / count, 2)
            say("requests", f"{conducting} conductors", "a wake", wakes=count, median=figure)


def _post_two_tasks(site: Site, count: int) -> None:
    for number in range(count):
        book, detail = models.LogBook(f"b{number}"), models.FlowDetail("two", _uuid())
        book.add(detail)
        engines.save_factory_details(detail, f"{__name__}.two_tasks", (), {})
        with contextlib.closing(site.backend.get_connection()) as connection:
            connection.save_logbook(book)
        site.board.post(f"job {number}", book=book, details={"flow_uuid": detail.uuid})


def _uuid() -> str:
    return models.uuidutils.generate_uuid()  # type: ignore[no-any-return]  # TaskFlow has no types


def measure_jobs(hosts: str) -> None:
    count, rounds = max(5, int(300 * SCALE)), 3
    rates: dict[str, list[float]] = {"lazy": [], "blocking": []}
    for _ in range(rounds):
        for kind, found in rates.items():
            with contextlib.ExitStack() as stack:
                site = Site(stack, hosts, 0)
                _post_two_tasks(site, count)
                conductor = site.conduct(stack, kind, kind)
                site.conductors = [conductor]
                site.wait_consumed(1)
                began, done = time.monotonic(), site.consumed()
                site.wait_consumed(count)
                found.append((count - done) / (time.monotonic() - began))
    medians = {kind: statistics.median(found) for kind, found in rates.items()}
    for kind, median in medians.items():
        say("jobs", kind, "jobs/s", jobs=count, median=round(median, 1))
    say("jobs", "lazy / blocking", "times", median=round(medians["lazy"] / medians["blocking"], 1))


def measure_large(hosts: str) -> None:
    size, wakes = max(20, int(10_000 * SCALE)), 6
    for subject, kept in (("warm", 256), ("cold", 0)):
        with contextlib.ExitStack() as stack:
            site = Site(stack, hosts, 1, watchdog=False, keep_engines=kept)
            flow_uuid = site.client.submit(asks, [wakes + 2, size])
            site.wait(flow_uuid)
            site.wait_consumed(1)
            site.wake_all(flow_uuid, 1)  # a kept engine then prepares what all later wakes use
            before = site.conductors[0].ask()["cpu_ms"]
            took = site.wake_all(flow_uuid, wakes, first=1)
            cpu = round((site.conductors[0].ask()["cpu_ms"] - before) / wakes, 2)
            median = round(statistics.median(took), 2)
            say("large", subject, "ms", tasks=size, median=median, cpu=cpu)
    began = time.process_time()
    asks(wakes + 1, size)
    say("large", "factory", "ms", tasks=size, median=round(1e3 * (time.process_time() - began), 2))


def measure_memory(hosts: str) -> None:
    count = max(20, int(100_000 * SCALE))
    with contextlib.ExitStack() as stack:
        site = Site(stack, hosts, 1, watchdog=False)
        (conductor,) = site.conductors
        sizes: list[tuple[int, int]] = []
        batch = max(1, count // 20)
        for passed in range(0, count, batch):
            uuids = [site.client.submit(asks, [1]) for _ in range(batch)]
            site.wait_consumed(2 * passed + batch)
            for flow_uuid in uuids:
                site.client.complete(site.client.token(flow_uuid, "ask 0"), 1)
            site.wait_consumed(2 * (passed + batch))
            sizes.append((passed + batch, conductor.ask()["rss_kb"]))
        later = sizes[len(sizes) // 2 :]
        (slope, _) = statistics.linear_regression(*zip(*later, strict=True))
        slopes = {"slope": round(1e3 * slope, 1), "first_kb": sizes[0][1], "last_kb": sizes[-1][1]}
        say("memory", "lazy", "kB per 1,000 flows", flows=count, **slopes)


WORKLOADS = {
    "alone": measure_alone,
    "requests": measure_requests,
    "jobs": measure_jobs,
    "large": measure_large,
    "memory": measure_memory,
}


@contextlib.contextmanager
def zookeeper() -> Iterator[str]:
    # At the end, so that the installed package is measured where there is one.
    sys.path.append(str(ROOT))
    from tests.servers import ZooKeeper

    with ZooKeeper() as server:
        yield server.hosts


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    if sys.argv[1:2] == ["--conduct"]:
        be_conductor(json.loads(sys.argv[2]))
    else:
        with zookeeper() as found_hosts:
            for name in sys.argv[1:] or WORKLOADS:
                WORKLOADS[name](found_hosts)
