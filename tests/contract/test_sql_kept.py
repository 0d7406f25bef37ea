# SPDX-License-Identifier: Apache-2.0
"""Connections that are kept for writing, and statements that are sent in a pipeline on them."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from lazy_engine import Client, errors
from lazy_engine.ledger import sql_connection, sql_kept, sql_pipeline, sqlite_file
from lazy_engine.ledger.sql_connection import _MOST_KEPT, Transactor, open_engine
from lazy_engine.ledger.sql_statement import Answer, Statement, open_value

THINGS = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("name", sa.String(20), primary_key=True),
    sa.Column("size", sa.BigInteger),
)


class Anywhere:
    """A statement for whatever database a test has: a :class:`Statement` is for one."""

    def __init__(self, clause: Any) -> None:
        self._clause = clause

    def run(self, connection: sa.Connection, given: Any = None) -> Answer:
        return Statement(self._clause).run(connection, given)


NAMED = THINGS.c.name == open_value("name")
INSERT = Anywhere(sa.insert(THINGS))
SET = Anywhere(sa.update(THINGS).where(NAMED).values(size=open_value("size")))
COUNT = Anywhere(sa.select(sa.func.count().label("count")).select_from(THINGS))


@contextlib.contextmanager
def opened(url: str, **options: Any) -> Iterator[Transactor]:
    is_file = url.startswith("sqlite")
    engine = (
        sqlite_file.open_engine(sa.make_url(url)) if is_file else sa.create_engine(url, **options)
    )
    made = Transactor(engine if is_file else open_engine(engine))
    try:
        with made.engine.begin() as connection:
            THINGS.create(connection)
        yield made
    finally:
        made.close(disposes=True)


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def kept(request: pytest.FixtureRequest) -> Iterator[Transactor]:
    with opened(request.getfixturevalue(f"{request.param}_url")) as made:
        yield made


@pytest.fixture(params=["postgresql", "mysql"])
def remote(request: pytest.FixtureRequest) -> Iterator[Transactor]:
    """One that can lose its connections."""
    with opened(request.getfixturevalue(f"{request.param}_url")) as made:
        yield made


@pytest.fixture
def piped(postgresql_url: str) -> Iterator[Transactor]:
    with opened(postgresql_url) as made:
        yield made


def rows(kept: Transactor) -> list[Any]:
    with kept.engine.connect() as connection:
        query = sa.select(THINGS.c.name, THINGS.c.size).order_by(THINGS.c.name)
        return [tuple(row) for row in connection.execute(query)]


def put(kept: Transactor, name: str, size: int = 0) -> None:
    kept.write(lambda c: INSERT.run(c, {"name": name, "size": size}))


def used(kept: Transactor) -> sa.Connection:
    """Return the connection that the next write will use."""
    return kept._lasting._idle[-1].connection


def test_next_write_finds_the_connection_of_the_last(kept: Transactor) -> None:
    put(kept, "a")
    first = used(kept)
    put(kept, "b")
    assert used(kept) is first
    assert len(kept._lasting._idle) == 1
    assert kept.engine.pool.checkedout() == 0, "it is none of the pool's"
    assert rows(kept) == [("a", 0), ("b", 0)]


def test_connection_that_was_idle_for_minutes_is_replaced(
    kept: Transactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(kept, "a")
    idle = used(kept)
    monkeypatch.setattr(sql_kept, "_IDLE_SECONDS", 0.0)
    for name in "bcdefg":
        put(kept, name)
    monkeypatch.undo()
    assert idle.closed
    assert used(kept) is not idle
    assert kept._lasting._count == len(kept._lasting._idle) == 1
    assert len(rows(kept)) == 7


def test_postgresql_has_a_pipeline_and_waits_twice(piped: Transactor) -> None:
    put(piped, "a")
    pipeline = sql_pipeline.of(used(piped))
    assert pipeline is not None
    coming: list[int] = []

    def work(connection: sa.Connection) -> int:
        first = SET.run(connection, {"name": "a", "size": 1}).count
        for number in range(3):
            INSERT.run(connection, {"name": f"b{number}", "size": number})
        coming.append(len(pipeline._inside.result_queue))
        return first

    assert piped.write(work) == 1
    assert coming[0] >= 1, "nobody waited for the answer of the last"
    assert len(rows(piped)) == 4


def test_reading_leaves_no_transaction_open(piped: Transactor) -> None:
    put(piped, "a")
    unread = Anywhere(sa.select(THINGS.c.name))

    def work(connection: sa.Connection) -> list[Any]:
        by_sqlalchemy = connection.execute(sa.select(THINGS.c.size)).scalars().all()
        first, second = COUNT.run(connection), COUNT.run(connection)
        unread.run(connection)
        return [by_sqlalchemy, second.first(), first.first()]

    assert piped.read(work) == [[0], (1,), (1,)]
    raw: Any = used(piped).connection.dbapi_connection
    assert raw.info.transaction_status.name == "IDLE"
    put(piped, "b")
    assert piped.read(COUNT.run).first() == (2,)


def test_reading_that_fails_leaves_the_next_alone(kept: Transactor) -> None:
    def work(connection: sa.Connection) -> None:
        COUNT.run(connection)
        connection.execute(sa.text("SELECT name FROM nowhere"))

    with pytest.raises(errors.StoreUnavailable, match="nowhere"):
        kept.read(work)
    assert kept.read(lambda c: COUNT.run(c).first()) == (0,)


def test_answers_are_told_in_any_order(kept: Transactor) -> None:
    def work(connection: sa.Connection) -> list[Any]:
        asked = [COUNT.run(connection)]
        for name in "ab":
            INSERT.run(connection, {"name": name, "size": 0})
            asked.append(COUNT.run(connection))
        missed = SET.run(connection, {"name": "c", "size": 0})
        return [*reversed([answer.rows[0][0] for answer in reversed(asked)]), missed.count]

    assert kept.write(work) == [0, 1, 2, 0]


def test_sqlalchemy_may_carry_out_statements_there_too(kept: Transactor) -> None:
    put(kept, "a")

    def work(connection: sa.Connection) -> tuple[Any, ...]:
        INSERT.run(connection, {"name": "b", "size": 2})
        changed = connection.execute(sa.update(THINGS).values(size=7))
        connection.execute(sa.insert(THINGS), [{"name": n, "size": 1} for n in "xyz"])
        found = connection.execute(sa.select(THINGS.c.name).order_by(THINGS.c.name)).scalars()
        return changed.rowcount, "".join(found)

    assert kept.write(work) == (2, "abxyz")
    assert len(rows(kept)) == 5


@pytest.mark.parametrize("is_read", [True, False])
def test_refused_statement_leaves_nothing(
    kept: Transactor, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pipeline it is refused when its answer is read, or with the COMMIT."""
    monkeypatch.setattr(sql_connection, "_TRIES", 1)
    put(kept, "a", 1)

    def work(connection: sa.Connection) -> None:
        INSERT.run(connection, {"name": "b", "size": 2})
        SET.run(connection, {"name": "a", "size": None})
        refused = INSERT.run(connection, {"name": "a", "size": 3})
        INSERT.run(connection, {"name": "c", "size": 4})
        if is_read:
            assert refused.count == 1

    with pytest.raises(errors.StoreUnavailable, match=r"(?i)unique|duplicate"):
        kept.write(work)
    assert rows(kept) == [("a", 1)]
    put(kept, "d")
    assert len(rows(kept)) == 2


def test_work_that_fails_leaves_nothing(kept: Transactor) -> None:
    put(kept, "a")

    def work(connection: sa.Connection) -> None:
        INSERT.run(connection, {"name": "b", "size": 2})
        raise LookupError("not now")

    before = used(kept)
    with pytest.raises(LookupError):
        kept.write(work)
    assert rows(kept) == [("a", 0)]
    assert used(kept) is before, "there is nothing wrong with it"
    put(kept, "c")
    assert len(rows(kept)) == 2


def kill(kept: Transactor, victims: list[sa.Connection]) -> None:
    with kept.engine.connect() as other:
        for victim in victims:
            raw: Any = victim.connection.dbapi_connection
            if kept.engine.dialect.name == "postgresql":
                assert other.scalar(sa.select(sa.func.pg_terminate_backend(raw.info.backend_pid)))
            else:
                other.exec_driver_sql(f"KILL {raw.thread_id()}")


def test_lost_connections_are_replaced(remote: Transactor) -> None:
    put(remote, "a")
    lost = used(remote)
    kill(remote, [lost])
    put(remote, "b")
    assert used(remote) is not lost
    assert lost.closed
    assert len(rows(remote)) == 2


def test_lost_look_is_asked_again(remote: Transactor) -> None:
    assert remote.look(COUNT.run).first() == (0,)
    (idle,) = remote._looking._idle
    lost = idle.connection
    kill(remote, [lost])
    for _ in range(2):
        assert remote.look(COUNT.run).first() == (0,)
    (idle,) = remote._looking._idle
    fresh = idle.connection
    assert fresh is not lost
    if remote.engine.dialect.name == "postgresql":
        # It holds no transaction open, which would keep the server from cleaning up.
        raw: Any = fresh.connection.dbapi_connection
        assert raw.info.transaction_status.name == "IDLE"


def test_connection_lost_within_a_transaction_repeats_all_of_it(remote: Transactor) -> None:
    put(remote, "a")
    tries = []

    def work(connection: sa.Connection) -> None:
        tries.append(1)
        assert SET.run(connection, {"name": "a", "size": 1}).count == 1
        if len(tries) == 1:
            kill(remote, [connection])
        INSERT.run(connection, {"name": "b", "size": 2})

    remote.write(work)
    assert len(tries) == 2
    assert rows(remote) == [("a", 1), ("b", 2)]


def test_lost_answer_of_a_commit_is_a_try_that_may_have_counted(
    piped: Transactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(piped, "a")
    commit = sql_pipeline.Pipeline.commit
    lost = []

    def lose(self: sql_pipeline.Pipeline) -> None:
        commit(self)
        if not lost:
            lost.append(True)
            kill(piped, [busy[-1]])
            self._raw.execute("SELECT 1")

    busy: list[sa.Connection] = []

    def work(connection: sa.Connection) -> int:
        busy.append(connection)
        return SET.run(connection, {"name": "a", "size": len(busy)}).count

    monkeypatch.setattr(sql_pipeline.Pipeline, "commit", lose)
    assert piped.write(work) == 1
    assert len(busy) == 2, "it was carried out, and again"
    assert rows(piped) == [("a", 2)]


def test_interrupted_transaction_is_rolled_back(kept: Transactor) -> None:
    put(kept, "a")

    def work(connection: sa.Connection) -> None:
        SET.run(connection, {"name": "a", "size": 1})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.write(work)
    assert rows(kept) == [("a", 0)]
    put(kept, "b")


def test_interrupt_is_told_wherever_it_comes(
    kept: Transactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(kept, "a")
    raw = used(kept).connection.dbapi_connection
    monkeypatch.setattr(sql_pipeline, "of", raises_interrupt)
    with pytest.raises(KeyboardInterrupt):
        put(kept, "b")
    monkeypatch.undo()
    assert raw is not None
    with pytest.raises(kept.engine.dialect.loaded_dbapi.Error):  # it is closed
        raw.cursor().execute("SELECT 1")
    put(kept, "c")
    assert [name for name, _size in rows(kept)] == ["a", "c"]


def test_interrupt_leaves_nobody_a_connection_that_does_not_wait_for_the_disk(
    sqlite_url: str,
) -> None:
    def work(connection: sa.Connection) -> None:
        INSERT.run(connection, {"name": "a", "size": 0})
        connection.invalidate()  # as an interrupted statement does
        raise KeyboardInterrupt

    with opened(sqlite_url) as made:
        sa.event.listen(made.engine, "commit", lambda _c: None)  # so none is kept
        with pytest.raises(KeyboardInterrupt):
            made.write(work, is_lasting=False)
        with made.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert rows(made) == []


@pytest.mark.parametrize("is_kept", [True, False])
def test_interrupted_statement_locks_no_file_as_long_as_its_traceback_lives(
    sqlite_url: str, is_kept: bool
) -> None:
    returning = Statement(sa.update(THINGS).values(size=1).returning(THINGS.c.name))
    with opened(sqlite_url) as made:
        put(made, "a")
        if not is_kept:
            sa.event.listen(made.engine, "commit", lambda _c: None)
        assert made.write(lambda c: returning.run(c).count)
        (plan,) = returning._plans.values()
        assert plan is not None
        plan._fetch = raises_interrupt  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt) as held:
            made.write(returning.run)
        path = made.engine.url.database
        with contextlib.closing(sqlite3.connect(path or "", timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
        assert held.traceback


def test_interrupt_at_the_end_of_a_transaction_is_no_other_error(
    kept: Transactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine would end its flow with any other."""
    with monkeypatch.context() as patched:
        ends = sa.engine.base.RootTransaction
        patched.setattr(ends, "_deactivate_from_connection", raises_interrupt)
        with pytest.raises(KeyboardInterrupt):
            put(kept, "a")
        with pytest.raises(KeyboardInterrupt):
            kept.read(lambda c: COUNT.run(c).first())
    put(kept, "b")


def raises_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_crowd_shares_what_is_kept_and_the_pool(remote: Transactor) -> None:
    count = _MOST_KEPT + 3
    together = threading.Barrier(count)

    def write(number: int) -> None:
        def work(connection: sa.Connection) -> None:
            INSERT.run(connection, {"name": str(number), "size": number})
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(10)

        remote.write(work)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not together.broken, "all were within a transaction at once"
    assert len(rows(remote)) == count
    assert len(remote._lasting._idle) == _MOST_KEPT


def test_forked_child_leaves_its_parents_connections_alone(kept: Transactor) -> None:
    put(kept, "a")
    mine = used(kept)
    is_file = kept.engine.dialect.name == "sqlite"  # of which none is open when a process forks
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(30)
            put(kept, "b")
            kept.close(disposes=True)
            code = 0
        finally:
            os._exit(code)
    _pid, status = os.waitpid(pid, 0)
    assert status == 0
    put(kept, "c")
    assert (used(kept) is mine) is not is_file
    assert [name for name, _size in rows(kept)] == ["a", "b", "c"]


def test_closed_connections_are_closed(kept: Transactor) -> None:
    def work(connection: sa.Connection) -> None:
        kept.close(disposes=False)  # while it is in use
        INSERT.run(connection, {"name": "a", "size": 0})
        busy.append(connection)

    busy: list[sa.Connection] = []
    kept.write(work)
    assert busy[0].closed
    put(kept, "b")
    idle = used(kept)
    kept.close(disposes=False)
    assert idle.closed
    assert not kept._lasting._idle


@pytest.mark.parametrize("store", ["sqlite", "postgresql", "mysql"])
def test_backend_that_is_closed_leaves_no_connection(
    store: str, request: pytest.FixtureRequest
) -> None:
    client = Client({"connection": request.getfixturevalue(f"{store}_url")})
    kept = client._ledger._transactor
    for _ in range(2):  # it may be used again, as TaskFlow's may
        client._ledger.unring("no flow")
        client._ledger.next_due_in(1)
        connections = [each._idle[0][1] for each in (kept._lasting, kept._looking)]
        client.backend.close()
        assert [connection.closed for connection in connections] == [True, True]
        assert kept.engine.pool.checkedin() == 0


def test_whoever_listens_to_transactions_hears_of_them(kept: Transactor) -> None:
    put(kept, "a")
    heard: list[str] = []
    for event in ("begin", "commit", "rollback"):
        sa.event.listen(kept.engine, event, lambda _c, event=event: heard.append(event))
    put(kept, "b")
    with pytest.raises(LookupError):
        kept.write(lambda _c: {}["b"])
    assert heard == ["begin", "commit", "begin", "rollback"]


def test_cursors_of_the_users_own_are_not_sent_in_a_pipeline(postgresql_url: str) -> None:
    import psycopg

    with opened(postgresql_url, connect_args={"cursor_factory": psycopg.ClientCursor}) as made:
        put(made, "a")
        assert sql_pipeline.of(used(made)) is None
        assert rows(made) == [("a", 0)]


def test_stricter_isolation_of_the_users_own_is_not_that_of_the_pipeline(
    postgresql_url: str,
) -> None:

    def work(connection: sa.Connection) -> str:
        return str(connection.execute(sa.text("SHOW transaction_isolation")).scalar_one())

    with opened(postgresql_url, isolation_level="SERIALIZABLE") as made:
        assert made.write(work) == "read committed"
        assert sql_pipeline.of(used(made)) is not None


def test_disconnected_error_is_sqlalchemys(piped: Transactor) -> None:
    put(piped, "a")

    def work(connection: sa.Connection) -> None:
        kill(piped, [connection])
        COUNT.run(connection).first()

    def carry_out() -> None:
        with piped._lasting.borrowed() as connection:
            assert connection is not None
            piped._carry_out(connection, work)

    with pytest.raises(sa_exc.DBAPIError) as raised:
        carry_out()
    assert raised.value.connection_invalidated
    assert not piped._lasting._idle
