# SPDX-License-Identifier: Apache-2.0
"""What a park and a wake cost: flows of one step, one wait and one step.

    python benchmarks/park.py [--flows 300] [--rounds 3] [sqlite] [URL ...]

Passive, in one thread: a flow is submitted and resumed, and parks; it is
answered and resumed, and ends. Prints one JSON line a workload:

``park``
    flows a second submitted and run until they wait.
``finish``
    flows a second answered and run to their end.
``alone``
    milliseconds from the answer to the end of one flow, the median.

With each come the SQL statements and the commits of one flow, counted. A store
is ``sqlite`` (a file, write-ahead, ``synchronous=FULL``) or the address of an
empty database (``postgresql+psycopg://…``), which is left full.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay


class Step(task.Task):
    def execute(self) -> int:
        return 1


class Wait(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=3600)


def make_flow() -> Any:
    return linear_flow.Flow("park").add(Step("before"), Wait("wait", provides="x"), Step("after"))


class Counter:
    """Counts what SQLAlchemy carries out in this process."""

    def __init__(self) -> None:
        self.statements = 0
        self.commits = 0
        sa.event.listen(sa.Engine, "after_cursor_execute", self._on_statement)
        sa.event.listen(sa.Engine, "commit", self._on_commit)

    def _on_statement(self, *_: Any) -> None:
        self.statements += 1

    def _on_commit(self, _connection: Any) -> None:
        self.commits += 1

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        sa.event.remove(sa.Engine, "after_cursor_execute", self._on_statement)
        sa.event.remove(sa.Engine, "commit", self._on_commit)


@contextlib.contextmanager
def _client(store: str) -> Iterator[Client]:
    with tempfile.TemporaryDirectory() as directory:
        connection = store
        if store == "sqlite":
            connection = f"sqlite:///{pathlib.Path(directory, 'flows.db')}"
        client = Client({"connection": connection})
        with contextlib.closing(client.backend):
            yield client


def _park(client: Client) -> str:
    flow_uuid = client.submit(make_flow)
    state = client.resume(flow_uuid)
    assert state == "DELAYED", state
    return flow_uuid


def _finish(client: Client, token: str) -> None:
    client.complete(token, 1)


def _rate(work: Callable[[str], Any], items: list[str]) -> float:
    began = time.perf_counter()
    for item in items:
        work(item)
    return len(items) / (time.perf_counter() - began)


def _run(client: Client, count: int) -> dict[str, float]:
    began = time.perf_counter()
    flows = [_park(client) for _ in range(count)]
    park = count / (time.perf_counter() - began)
    tokens = {flow_uuid: client.token(flow_uuid, "wait") for flow_uuid in flows}

    def finish(flow_uuid: str) -> None:
        client.complete(tokens[flow_uuid], 1)
        state = client.resume(flow_uuid)
        assert state == "SUCCESS", state

    return {"park": park, "finish": _rate(finish, flows), "alone": _alone(client)}


def _alone(client: Client, count: int = 25) -> float:
    taken = []
    for _ in range(count):
        flow_uuid = _park(client)
        token = client.token(flow_uuid, "wait")
        began = time.perf_counter()
        client.complete(token, 1)
        client.resume(flow_uuid)
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def _counted(client: Client) -> dict[str, dict[str, int]]:
    _park(client)
    counts = {}
    with Counter() as parking:
        flow_uuid = _park(client)
    counts["park"] = {"statements": parking.statements, "commits": parking.commits}
    token = client.token(flow_uuid, "wait")
    with Counter() as finishing:
        client.complete(token, 1)
        client.resume(flow_uuid)
    counts["finish"] = {"statements": finishing.statements, "commits": finishing.commits}
    return {**counts, "alone": counts["finish"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stores", nargs="*", default=["sqlite"])
    parser.add_argument("--flows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    for store in arguments.stores:
        with _client(store) as client:
            counts = _counted(client)
            rounds = [_run(client, arguments.flows) for _ in range(arguments.rounds)]
        for workload, counted in counts.items():
            line = {
                "benchmark": "park",
                "store": store.partition(":")[0],
                "workload": workload,
                "unit": "ms" if workload == "alone" else "flows/s",
                "median": round(statistics.median(each[workload] for each in rounds), 2),
                "flows": arguments.flows,
                "rounds": arguments.rounds,
                **counted,
                "python": platform.python_version(),
            }
            print(json.dumps(line))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
