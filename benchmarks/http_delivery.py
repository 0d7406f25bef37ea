# SPDX-License-Identifier: Apache-2.0
"""What HTTP costs: deliveries a second through ``lazy-engine serve``, beside the same client in-process.

    python benchmarks/http_delivery.py [--parked 10000] [--deliveries 2000] [--connections 8]
        [--rounds 3] [sqlite] [postgresql] [URL ...]

A store holds so many parked flows. Answers to as many of them as there are to
be deliveries, each to a flow of its own, are handed in by so many threads of
one process, and by so many connections of another one to a server of its own.
Both take turns, and every outcome is durable before the next one is sent.
Prints one JSON line for each of the two: deliveries a second (``rate``), and
milliseconds from request to answer, the medians of the rounds; with ``http``
comes the ratio of the two rates. A third line, ``count``, tells what Prometheus'
question after all that waits costs the store.

``postgresql`` starts a server of the tests' own kind, with its defaults; a URL
names an empty database, which is left full. Only the ratio means something on
another machine. On one with few cores the load generator, the server and the
database share them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import pathlib
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
import taskflow.engines
from harness import copies
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay, Disposition, ledger
from lazy_engine.ledger import sql_schema
from lazy_engine.metrics import AGES, MOST_TASKS
from lazy_engine.token import DelayKey, sign

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CHUNK = 1000
#: Deliveries that are not measured, first: connections are made, statements compiled.
_WARMING = 200


class Ask(task.Task):
    def execute(self) -> Delay:
        return Delay(timeout_seconds=366 * 86400)


def make_flow() -> Any:
    return linear_flow.Flow("asks").add(Ask("ask"))


class Store:
    """A store with parked flows: one made by an engine, the rest copies of its rows."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = Client({"connection": url})
        self.ledger: Any = ledger.beside(self.client.backend)
        engine = taskflow.engines.load(make_flow(), engine="lazy", backend=self.client.backend)
        assert engine.run() == "DELAYED"
        tables = sql_schema.build(self.client.backend.engine.dialect.name)
        flow_uuid = engine.storage.flow_uuid
        self._model = copies.rows_of(self.client.backend.engine, tables, flow_uuid)
        self._tokens: list[str] = []

    def park(self, count: int) -> None:
        """Park that many more flows."""
        key = self.ledger.signing_key()
        for start in range(0, count, _CHUNK):
            made: dict[sa.Table, list[dict[str, Any]]] = {table: [] for table, _ in self._model}
            for _ in range(min(_CHUNK, count - start)):
                fresh: dict[str, str] = {}
                for table, row in self._model:
                    copy = copies.renamed(row, fresh)
                    made[table].append(copy)
                delay = copy  # the last table is that of the delays
                name = {part: delay[part] for part in ("flow_uuid", "atom_uuid", "kind", "attempt")}
                self._tokens.append(sign(DelayKey(**name), key))
            with self.client.backend.engine.begin() as connection:
                for table, rows in made.items():
                    connection.execute(sa.insert(table), rows)

    def take(self, count: int) -> list[str]:
        """Return tokens of flows that nobody has answered."""
        taken, self._tokens = self._tokens[:count], self._tokens[count:]
        assert len(taken) == count
        return taken

    def close(self) -> None:
        self.ledger.close()
        self.client.backend.close()


# -- delivering ------------------------------------------------------------------

Deliver = Callable[[str], None]


def _crowd(tokens: Sequence[str], makers: Sequence[Callable[[], Deliver]]) -> dict[str, float]:
    """Deliver to all tokens, by one thread for each maker; return the rate and latencies."""
    shares = [tokens[number :: len(makers)] for number in range(len(makers))]
    taken: list[float] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(makers) + 1)

    def work(make: Callable[[], Deliver], share: Sequence[str]) -> None:
        try:
            deliver = make()
            barrier.wait()
            for token in share:
                began = time.perf_counter()
                deliver(token)
                taken.append(time.perf_counter() - began)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(makers, shares, strict=True)
    ]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    cuts = statistics.quantiles(taken, n=100)
    return {
        "rate": len(tokens) / seconds,
        "p50_ms": cuts[49] * 1e3,
        "p99_ms": cuts[98] * 1e3,
        "max_ms": max(taken) * 1e3,
    }


def _in_process(client: Client, tokens: Sequence[str], connections: int) -> dict[str, float]:
    def make() -> Deliver:
        def deliver(token: str) -> None:
            receipt = client.complete(token, {"ok": True})
            assert receipt.disposition is Disposition.ACCEPTED, receipt

        return deliver

    return _crowd(tokens, [make] * connections)


def _ask_over(address: tuple[str, int]) -> Deliver:
    """Return what delivers over a connection of its own, and does little else."""
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = b'{"result": {"ok": true}}'

    def deliver(token: str) -> None:
        connection.sendall(
            b"POST /v1/tokens/%b/complete HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (token.encode(), len(body), body)
        )
        answer = connection.recv(65536)
        while b"}" not in answer:
            part = connection.recv(65536)
            if not part:
                raise ConnectionError(answer)
            answer += part
        if b"200 OK" not in answer or b'"accepted"' not in answer:
            raise AssertionError(answer)

    return deliver


def load(host: str, port: str, connections: str) -> None:
    """Be the process that asks: tokens come on standard input, figures go to standard output."""
    tokens = sys.stdin.read().split()
    makers = [lambda: _ask_over((host, int(port)))] * int(connections)
    print(json.dumps(_crowd(tokens, makers)))


def _over_http(url: str, tokens: Sequence[str], connections: int) -> dict[str, float]:
    parts = urllib.parse.urlsplit(url)
    words = [str(parts.hostname), str(parts.port), str(connections)]
    answer = subprocess.run(
        [sys.executable, __file__, "--load", *words],
        input="\n".join(tokens),
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    )
    found: dict[str, float] = json.loads(answer.stdout)
    return found


@contextlib.contextmanager
def _served(url: str) -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "lazy_engine.cli", "--json", "serve", "--port", "0"],
        env={**os.environ, "LAZY_ENGINE_PERSISTENCE": url},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.communicate()


# -- measuring -------------------------------------------------------------------


def _compare(url: str, arguments: argparse.Namespace) -> None:
    count, connections = arguments.deliveries, arguments.connections
    with contextlib.closing(Store(url)) as store, _served(url) as served:
        taken: dict[str, list[dict[str, float]]] = {"in-process": [], "http": []}
        ways: dict[str, Callable[[list[str]], dict[str, float]]] = {
            "in-process": lambda tokens: _in_process(store.client, tokens, connections),
            "http": lambda tokens: _over_http(served, tokens, connections),
        }
        warming = min(_WARMING, count)
        store.park(arguments.parked + 2 * (warming + arguments.rounds * count))
        for deliver in ways.values():
            deliver(store.take(warming))
        for _ in range(arguments.rounds):
            for name, deliver in ways.items():
                taken[name].append(deliver(store.take(count)))
        counting = []
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            store.ledger.census(list(AGES.values()), MOST_TASKS)
            counting.append((time.perf_counter() - began) * 1e3)
    medians = {
        name: {what: statistics.median(each[what] for each in rounds) for what in rounds[0]}
        for name, rounds in taken.items()
    }
    shared = {
        "benchmark": "http",
        "store": url.partition(":")[0].partition("+")[0],
        "parked": arguments.parked,
        "rounds": arguments.rounds,
        "python": platform.python_version(),
    }
    for name, figures in medians.items():
        line = {
            **shared,
            "subject": name,
            "unit": "deliveries/s",
            **{what: round(figure, 2) for what, figure in figures.items()},
            "deliveries": count,
            "connections": connections,
        }
        if name == "http":
            line["ratio"] = round(figures["rate"] / medians["in-process"]["rate"], 2)
        print(json.dumps(line), flush=True)
    median = round(statistics.median(counting), 2)
    print(json.dumps({**shared, "subject": "count", "unit": "ms", "median": median}), flush=True)


@contextlib.contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        yield f"sqlite:///{pathlib.Path(directory, 'flows.db')}"


@contextlib.contextmanager
def _postgresql() -> Iterator[str]:
    # At the end, so that the installed package is measured where there is one.
    sys.path.append(str(_ROOT))
    from tests.servers import PostgreSQL

    server = PostgreSQL()
    server.start()
    try:
        yield server.create_database()
    finally:
        server.close()


_STORES = {"sqlite": _sqlite, "postgresql": _postgresql}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stores", nargs="*", default=list(_STORES))
    parser.add_argument("--parked", type=int, default=10_000)
    parser.add_argument("--deliveries", type=int, default=2_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    for name in arguments.stores:
        with _STORES[name]() if name in _STORES else contextlib.nullcontext(name) as url:
            _compare(url, arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        load(*sys.argv[2:])
    else:
        main()
