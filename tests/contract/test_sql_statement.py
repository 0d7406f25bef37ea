# SPDX-License-Identifier: Apache-2.0
"""Statements that go to the driver by themselves: as if SQLAlchemy had carried them out."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from lazy_engine.ledger import sqlite_file
from lazy_engine.ledger.sql_connection import Transactor
from lazy_engine.ledger.sql_statement import Answer, Statement, open_value, open_values

AT = datetime.datetime(2026, 1, 2, 3, 4, 5)
THINGS = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("name", sa.String(20), primary_key=True),
    sa.Column("size", sa.BigInteger),
    sa.Column("weight", sa.Float(53)),
    sa.Column("is_new", sa.Boolean),
    sa.Column("made_at", sa.DateTime),
    sa.Column("note", sa.Text, server_default="none"),
)
ROW = {"name": "a", "size": 2**40, "weight": 0.1, "is_new": True, "made_at": AT, "note": "100 % :x"}


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    url = sa.make_url(request.getfixturevalue(f"{request.param}_url"))
    made = sqlite_file.open_engine(url) if request.param == "sqlite" else sa.create_engine(url)
    with made.begin() as connection:
        THINGS.create(connection)
    yield made
    made.dispose()


@contextlib.contextmanager
def heard(engine: sa.Engine) -> Iterator[list[str]]:
    texts: list[str] = []

    def note(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        texts.append(text)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield texts
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def carry_out(engine: sa.Engine) -> list[Any]:
    """Carry out a statement of each kind; return all answers."""
    c = THINGS.c
    named = c.name == open_value("name")
    insert, select = Statement(sa.insert(THINGS)), Statement(sa.select(THINGS).where(named))
    update = Statement(sa.update(THINGS).where(named).values(open_values(["size", "is_new"])))
    some = Statement(
        sa.select(c.name).where(c.name.in_(open_value("names", expanding=True))).order_by(c.name)
    )
    computed = Statement(
        sa.select(
            (c.size + open_value("more", type_=sa.BigInteger)).label("sum"), c.is_new.label("new")
        )
        .where(c.is_new.is_not(None), c.size > 1)
        .order_by(c.name)
        .limit(open_value("limit", type_=sa.Integer))
    )
    drop = Statement(sa.delete(THINGS).where(c.size.is_(None)))

    def work(connection: sa.Connection) -> list[Any]:
        answers: list[Answer] = [
            insert.run(connection, ROW),
            insert.run(connection, {"name": "b"}),
            select.run(connection, {"name": "a"}),
            select.run(connection, {"name": "b"}),
            select.run(connection, {"name": "c"}),
            update.run(connection, {"name": "a", "size": 7, "is_new": False}),
            update.run(connection, {"name": "c", "size": 7, "is_new": None}),
        ]
        insert.run_many(connection, [{"name": name, "size": None} for name in "xyz"])
        update.run_many(
            connection, [{"name": name, "size": 9, "is_new": name == "x"} for name in "xy"]
        )
        answers += [
            some.run(connection, {"names": ["x", "a", "q"]}),
            computed.run(connection, {"more": 1, "limit": 2}),
            drop.run(connection),
        ]
        return [(answer.count, answer.first(), list(answer.mappings())) for answer in answers]

    done = Transactor(engine).write(work)
    with engine.begin() as connection:
        connection.execute(sa.delete(THINGS))
    return done


def test_answers_are_those_of_sqlalchemy(engine: sa.Engine) -> None:
    by_driver = carry_out(engine)
    with heard(engine) as texts:
        through = carry_out(engine)
    assert len(texts) >= 13
    assert [answer[1:] for answer in by_driver] == [answer[1:] for answer in through]
    # How many rows a SELECT found or an INSERT made nobody asks.
    writes = (5, 6, 9)
    assert [by_driver[n][0] for n in writes] == [through[n][0] for n in writes]
    assert by_driver[2][1] == tuple(ROW.values())
    assert by_driver[3][2][0]["note"] == "none", "the server's default"


def test_whoever_logs_sql_sees_all_of_it(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    carry_out(engine)
    assert "things" not in caplog.text
    with caplog.at_level(logging.INFO, "sqlalchemy.engine.Engine"):
        carry_out(engine)
    assert "UPDATE things" in caplog.text


def test_refused_statement_raises_what_sqlalchemy_does(engine: sa.Engine) -> None:
    insert = Statement(sa.insert(THINGS))
    with engine.begin() as connection:
        insert.run(connection, {"name": "a"})
    with pytest.raises(sa.exc.IntegrityError) as raised, engine.begin() as connection:
        insert.run(connection, {"name": "a"})
    assert raised.value.orig is not None
    assert not raised.value.connection_invalidated
    assert "parameters" not in str(raised.value), "values do not belong into messages"
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(THINGS)).scalar() == 1


def test_lost_connection_is_let_go(engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("a file is not connected to")
    look = Statement(sa.select(THINGS.c.name))
    # In the pool: both, and the second one is lost as well.
    with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            look.run(connection)
    apart = sa.create_engine(engine.url, poolclass=sa.NullPool)
    with engine.connect() as connection, apart.connect() as other:
        kill(other, connection)
        with pytest.raises(sa.exc.DBAPIError) as raised:
            look.run(connection)
        assert raised.value.connection_invalidated
    with engine.connect() as connection:
        assert look.run(connection).first() is None


def kill(other: sa.Connection, victim: sa.Connection) -> None:
    if other.dialect.name == "postgresql":
        pid = victim.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
        other.execute(sa.select(sa.func.pg_terminate_backend(pid)))
    else:
        number = victim.execute(sa.select(sa.func.connection_id())).scalar_one()
        other.exec_driver_sql(f"KILL {number}")


def test_interrupted_statement_leaves_no_connection_behind(engine: sa.Engine) -> None:
    """Of an answer that was read in part, the next one to use the connection would get the rest."""
    select = Statement(sa.select(THINGS.c.name))
    with engine.connect() as connection:
        select.run(connection)
        (plan,) = select._plans.values()
        assert plan is not None

        def interrupt(*_: Any) -> Any:
            raise KeyboardInterrupt

        plan._fetch = interrupt  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            select.run(connection)
        assert connection.invalidated
