# SPDX-License-Identifier: Apache-2.0
"""Processes that fork while they have an SQLite file open, or are just using it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from lazy_engine.ledger import sqlite_file
from lazy_engine.ledger.sql_connection import Transactor
from lazy_engine.ledger.sql_fork import ForkGate
from tests.forking import fork, wait_for

PUT = sa.text("INSERT INTO things VALUES (:name)")


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "things.db"


@pytest.fixture
def kept(path: pathlib.Path) -> Iterator[Transactor]:
    made = Transactor(sqlite_file.open_engine(sa.make_url(f"sqlite:///{path}")))
    try:
        made.write(lambda c: c.execute(sa.text("CREATE TABLE things (name TEXT)")))
        yield made
    finally:
        made.close(disposes=True)


def put(kept: Transactor, name: str) -> None:
    kept.write(lambda c: c.execute(PUT, {"name": name}))


def look(kept: Transactor) -> int:
    query = sa.text("SELECT count(*) FROM things")
    return kept.look(lambda c: int(c.execute(query).scalar_one()))


def names(path: pathlib.Path) -> list[str]:
    """Return what is stored, as somebody else sees it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM things ORDER BY name")]


def test_child_keeps_the_file_when_its_parent_lets_it_go(
    kept: Transactor, path: pathlib.Path
) -> None:
    put(kept, "a")
    look(kept)
    told, tell = os.pipe()
    has_begun, begin = os.pipe()

    def work() -> None:
        put(kept, "b")
        os.write(begin, b".")
        os.read(told, 1)
        put(kept, "c")
        os.kill(os.getpid(), signal.SIGKILL)  # what is committed is there without its help

    pid = fork(work)
    os.read(has_begun, 1)
    kept.close(disposes=True)
    os.write(tell, b".")
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    for end in (told, tell, has_begun, begin):
        os.close(end)
    assert names(path) == ["a", "b", "c"]


def test_fork_waits_for_what_other_threads_do(kept: Transactor, path: pathlib.Path) -> None:
    inside = threading.Event()
    has_forked = threading.Event()
    seen: list[bool] = []

    def work(connection: sa.Connection) -> None:
        connection.execute(PUT, {"name": "a"})
        inside.set()
        seen.append(has_forked.wait(0.2))

    thread = threading.Thread(target=kept.write, args=(work,))
    thread.start()
    assert inside.wait(10)
    pid = fork(lambda: put(kept, "b"))
    has_forked.set()
    thread.join(30)
    wait_for(pid)
    assert seen == [False], "the process forked within a transaction"
    put(kept, "c")
    assert names(path) == ["a", "b", "c"]


def test_parent_and_children_write_at_once(kept: Transactor, path: pathlib.Path) -> None:
    has_ended = threading.Event()
    count = [0]

    def write() -> None:
        while not has_ended.is_set():
            count[0] += 1
            put(kept, f"parent {count[0]:05}")
            look(kept)

    def work() -> None:
        for number in range(5):
            put(kept, f"child {os.getpid()} {number}")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        pids = [fork(work) for _ in range(6)]
    finally:
        has_ended.set()
        thread.join(30)
    kept.close(disposes=True)
    for pid in pids:
        wait_for(pid)
    stored = names(path)
    assert stored == sorted(
        [f"child {pid} {number}" for pid in pids for number in range(5)]
        + [f"parent {number:05}" for number in range(1, count[0] + 1)]
    )


def test_process_that_forks_goes_on_with_connections_of_its_own(kept: Transactor) -> None:
    put(kept, "a")
    before = kept._lasting._idle[-1][1]
    wait_for(fork(lambda: None))
    assert before.closed, "the child would have had it, too"
    put(kept, "b")
    after = kept._lasting._idle[-1][1]
    put(kept, "c")
    assert kept._lasting._idle[-1][1] is after


@pytest.mark.parametrize("interrupts", [1, 2])
def test_interrupted_fork_keeps_nobody_out(
    kept: Transactor, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, interrupts: int
) -> None:
    """Python goes on to fork, or after it, without the rest of what was to be done."""
    put(kept, "a")
    left = [KeyboardInterrupt()] * interrupts
    opens = ForkGate.open

    def interrupt(gate: ForkGate) -> None:
        if left:
            raise left.pop()
        opens(gate)

    monkeypatch.setattr(ForkGate, "open", interrupt)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    wait_for(fork(lambda: put(kept, "b")))
    assert not left
    if interrupts > 1:
        look(kept)  # by whoever forked
    threads = [threading.Thread(target=put, args=(kept, name), daemon=True) for name in "cd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert names(path) == ["a", "b", "c", "d"]


def test_child_waits_for_no_thread_that_came_to_the_gate_as_the_process_forked() -> None:
    """Each of its threads looks whether it may go in, and holds a lock for that moment."""
    is_forked = threading.Event()
    threads: list[threading.Thread] = []

    class File:
        def close(self) -> None:
            stands_there = threading.Event()

            def look() -> None:
                with gate._door:
                    stands_there.set()
                    is_forked.wait(20)

            threads.append(threading.Thread(target=look))
            threads[0].start()
            stands_there.wait(20)

    def enter() -> None:
        # Not the thread that forked, for which the gate is open.
        thread = threading.Thread(target=gate.__enter__, daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()

    file = File()
    gate = ForkGate(file.close)
    pid = fork(enter)
    is_forked.set()
    threads[0].join(20)
    wait_for(pid)
    with gate:
        pass
