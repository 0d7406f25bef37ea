# SPDX-License-Identifier: Apache-2.0
"""What MySQL does otherwise than the other databases, and must not make a difference."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import taskflow.engines
from sqlalchemy.dialects import mysql
from taskflow import task
from taskflow.persistence import backends, models

from lazy_engine import Client, errors, ledger
from lazy_engine.ledger import record as r
from lazy_engine.ledger.sql_error import may_repeat
from lazy_engine.ledger.sql_upgrade import alone
from lazy_engine.outcome import Result
from lazy_engine.receipt import Disposition
from lazy_engine.token import EXECUTE, DelayKey
from tests.integration.parked import make_flow
from tests.servers import MySQL

BIG = "x" * 100_000


@contextlib.contextmanager
def opened(url: str, **options: Any) -> Iterator[Any]:
    backend = backends.fetch({"connection": url, **options})
    with contextlib.closing(backend):
        ledger.upgrade(backend)
        with contextlib.closing(ledger.beside(backend)):
            yield backend


def submitted(on: Any, name: str = "flow") -> str:
    detail = models.FlowDetail(name, str(uuid.uuid4()))
    detail.meta = {}
    on.submit(
        r.Submission(
            detail=detail,
            book=models.LogBook("book"),
            key_id=on.signing_key().key_id,
            is_rung=False,
        )
    )
    return detail.uuid


def deliver(on: Any, flow_uuid: str, atom_uuid: str = "atom") -> Disposition:
    key = DelayKey(flow_uuid=flow_uuid, atom_uuid=atom_uuid, kind=EXECUTE, attempt=1)
    delivery = r.Delivery(key=key, outcome=on.encode(Result("yes")), delivery_id=str(uuid.uuid4()))
    (item,) = on.deliver(flow_uuid, [delivery], rings=False).items
    disposition: Disposition = item.disposition
    return disposition


def test_columns_of_64_kilobytes_are_widened(mysql_url: str) -> None:
    with opened(mysql_url) as backend:
        existing = sa.inspect(backend.engine)
        for table in ("logbooks", "flowdetails", "atomdetails"):
            narrow = [
                column["name"]
                for column in existing.get_columns(table)
                if isinstance(column["type"], mysql.TEXT)
            ]
            assert narrow == [], table
        book = models.LogBook("book")
        book.meta = {"big": BIG}
        detail = models.FlowDetail("flow", str(uuid.uuid4()))
        task = models.TaskDetail("task", str(uuid.uuid4()))
        task.meta, task.revert_results = {"big": BIG}, [BIG]
        detail.add(task)
        book.add(detail)
        with contextlib.closing(backend.get_connection()) as connection:
            connection.save_logbook(book)
            assert connection.get_logbook(book.uuid, lazy=True).meta == {"big": BIG}
        stored = ledger.beside(backend).detail(detail.uuid).find(task.uuid)
        assert (stored.meta, stored.revert_results) == ({"big": BIG}, [BIG])


def test_index_of_the_foreign_key_serves_to_find_the_atoms_of_a_flow(mysql_url: str) -> None:
    """MySQL makes it by itself; another one would only cost."""
    with opened(mysql_url) as backend:
        found = sa.inspect(backend.engine).get_indexes("atomdetails")
        (one,) = [index["name"] for index in found if index["column_names"] == ["parent_uuid"]]
        assert not one.startswith("lazy_")


def test_clock_counts_microseconds_in_every_time_zone(mysql_url: str) -> None:
    with opened(mysql_url) as backend:
        on = ledger.beside(backend)
        times = {on.now() for _ in range(20)}
        assert len({time % 1_000_000 for time in times}) > 1, "whole seconds"
        before = on.now()
    east = {"connect_args": {"init_command": "SET time_zone = '+05:00'"}}
    with opened(mysql_url, engine_args=east) as backend:
        assert 0 <= ledger.beside(backend).now() - before < 600_000_000


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"])
def test_isolation_that_somebody_chose_for_taskflow_is_not_the_ledgers(
    kind: str, level: str, request: pytest.FixtureRequest
) -> None:
    with opened(request.getfixturevalue(f"{kind}_url"), isolation_level=level) as backend:
        on = ledger.beside(backend)
        flow_uuid = submitted(on)

        def half(connection: sa.Connection) -> None:
            assert connection.get_isolation_level() == "READ COMMITTED"
            connection.execute(sa.text("UPDATE lazy_flows SET wish = 'suspend'"))
            raise KeyError

        with pytest.raises(KeyError):
            on._transactor.write(half)
        assert on.flow(flow_uuid).wish is None


def test_taskflows_own_isolation_costs_nothing_more(mysql_url: str) -> None:
    with opened(mysql_url) as backend:
        assert ledger.beside(backend)._transactor.engine is backend.engine


def test_flow_runs_as_soon_as_its_first_lease_is_taken(mysql_url: str) -> None:
    """An UPDATE here reads what it has just written itself: the epoch, for one."""
    with opened(mysql_url) as backend:
        on = ledger.beside(backend)
        seen = []
        look = task.FunctorTask(lambda: seen.append(on.flow(engine.storage.flow_uuid)), name="look")
        detail = on.detail(submitted(on))
        engine = taskflow.engines.load(look, flow_detail=detail, backend=backend, engine="lazy")
        assert engine.run() == "SUCCESS"
        (record,) = seen
        assert (record.epoch, record.commit_number, record.state) == (1, 0, "RUNNING")


def test_names_are_compared_letter_by_letter(mysql: MySQL) -> None:
    url = mysql.create_database("latin1")
    try:
        with opened(url) as backend:
            on = ledger.beside(backend)
            flow_uuid = submitted(on)
            on.set_wish(flow_uuid, r.WISH_SUSPEND, "holiday \N{PALM TREE}")
            assert on.flow(flow_uuid).wish_reason == "holiday \N{PALM TREE}"
            assert deliver(on, flow_uuid, "atom") is Disposition.EARLY
            assert deliver(on, flow_uuid, "ATOM") is Disposition.EARLY, "another atom"
            with backend.engine.begin() as connection:
                for key_id in ("key", "KEY"):
                    values = {"key_id": key_id, "secret": "c2VjcmV0" * 4, "created_at": 1}
                    connection.execute(sa.insert(on._tables.keys), values)
            assert {on.signing_key(key_id).key_id for key_id in ("key", "KEY")} == {"key", "KEY"}
    finally:
        mysql.drop_database(url)


def test_flow_is_not_taken_for_another_one_with_a_blank_at_the_end(mysql_url: str) -> None:
    with opened(mysql_url) as backend:
        client = Client(backend)
        client.submit(make_flow, flow_uuid="flow")
        with pytest.raises(
            errors.StoreUnavailable, match="'flow ' cannot be told from flow 'flow'"
        ):
            client.submit(make_flow, flow_uuid="flow ")
        assert client.submit(make_flow, flow_uuid="flow") == "flow"


def test_lock_wait_that_takes_too_long_is_tried_again(mysql_url: str, mysql: MySQL) -> None:
    impatient = {"connect_args": {"init_command": "SET innodb_lock_wait_timeout = 1"}}
    timed_out = threading.Event()
    with opened(mysql_url, engine_args=impatient) as backend:
        on = ledger.beside(backend)
        flow_uuid = submitted(on)

        def note(context: Any) -> None:
            if context.original_exception.args[0] == 1205:
                timed_out.set()

        sa.event.listen(backend.engine, "handle_error", note)
        with foreign_transaction(mysql, mysql_url) as execute:
            execute("UPDATE lazy_flows SET wish_reason = 'mine'")
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                answer = pool.submit(deliver, on, flow_uuid)
                try:
                    assert timed_out.wait(timeout=30)
                finally:
                    execute("ROLLBACK")
                assert answer.result(timeout=30) is Disposition.EARLY


def test_transaction_that_a_deadlock_undid_is_tried_again(mysql_url: str, mysql: MySQL) -> None:
    """None of the ledger's own transactions deadlock; somebody else's may take the rows in another order."""
    codes: list[Any] = []
    with opened(mysql_url) as backend:
        on = ledger.beside(backend)
        flow_uuid = submitted(on)
        key = DelayKey(flow_uuid=flow_uuid, atom_uuid="atom", kind=EXECUTE, attempt=1)
        deliver(on, flow_uuid)
        sa.event.listen(
            backend.engine,
            "handle_error",
            lambda context: codes.append(context.original_exception.args[0]),
        )
        with foreign_transaction(mysql, mysql_url) as execute:
            # Whoever has changed more rows survives a deadlock.
            execute("CREATE TEMPORARY TABLE ballast (n INT) ENGINE=InnoDB")
            execute("INSERT INTO ballast SELECT seq FROM seq_1_to_1000")
            execute("UPDATE lazy_delays SET details = 'mine'")
            lease = take(on, flow_uuid)
            closing = r.DelayClosing(
                atom_uuid=key.atom_uuid, kind=EXECUTE, up_to_attempt=1, reason=r.CLOSED_RETRIED
            )
            changes = r.Changes(flow=models.FlowDetail("flow", flow_uuid), closed=[closing])
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                done = pool.submit(on.commit, lease, changes)
                wait_for_a_lock(mysql)
                execute("UPDATE lazy_flows SET wish_reason = 'mine'")
                execute("ROLLBACK")
                done.result(timeout=30)
        assert codes == [1213]
        (delay,) = on.delays_of(flow_uuid)
        assert delay.close_reason == r.CLOSED_RETRIED


def test_connection_that_is_killed_at_the_commit_is_replaced(mysql_url: str, mysql: MySQL) -> None:
    killed: list[int] = []

    def kill(connection: sa.Connection) -> None:
        if not killed:
            raw: Any = connection.connection.dbapi_connection
            killed.append(raw.thread_id())
            mysql.execute(f"KILL {raw.thread_id()}")

    with opened(mysql_url) as backend:
        on = ledger.beside(backend)
        flow_uuid = submitted(on)
        sa.event.listen(backend.engine, "commit", kill)
        assert deliver(on, flow_uuid) is Disposition.EARLY
        assert killed
        assert len(on.delays_of(flow_uuid)) == 1


def test_tables_are_made_once_by_many_at_the_same_time(mysql_url: str) -> None:
    with contextlib.ExitStack() as stack:
        found = [backends.fetch({"connection": mysql_url}) for _ in range(6)]
        for backend in found:
            stack.callback(backend.close)
        with concurrent.futures.ThreadPoolExecutor(len(found)) as pool:
            list(pool.map(ledger.upgrade, found))
        assert len({ledger.beside(backend).signing_key() for backend in found}) == 1


def test_who_waits_too_long_for_its_turn_is_told(
    mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lazy_engine.ledger.sql_upgrade._ALONE_SECONDS", 0)
    backend = backends.fetch({"connection": mysql_url})
    with contextlib.closing(backend), alone(backend.engine):
        with pytest.raises(errors.StoreUnavailable, match="another process"):
            ledger.upgrade(backend)
        assert sa.inspect(backend.engine).get_table_names() == []
    with opened(mysql_url):
        pass


def test_tables_that_were_half_made_when_somebody_died_are_finished(mysql_url: str) -> None:
    with opened(mysql_url) as backend, backend.engine.begin() as connection:
        for statement in (
            "DELETE FROM lazy_facts",
            "DROP TABLE lazy_delays",
            "ALTER TABLE atomdetails MODIFY meta TEXT",
        ):
            connection.execute(sa.text(statement))
    with opened(mysql_url) as backend:
        assert deliver(ledger.beside(backend), submitted(ledger.beside(backend)))
        columns = {
            c["name"]: c["type"] for c in sa.inspect(backend.engine).get_columns("atomdetails")
        }
        assert isinstance(columns["meta"], mysql.LONGTEXT)


@pytest.mark.parametrize("number", [1213, 1205, 1020, 1062, 1053, 1047])
def test_errors_that_pass_are_tried_again(number: int) -> None:
    assert may_repeat(sa.exc.OperationalError("", {}, Exception(number, "…")))


def test_error_that_stays_is_not_tried_again() -> None:
    assert not may_repeat(sa.exc.OperationalError("", {}, Exception(1142, "denied")))


def test_mariadbs_own_dialect_is_refused_with_a_hint() -> None:
    from taskflow.persistence.backends.impl_sqlalchemy import SQLAlchemyBackend

    backend = SQLAlchemyBackend({"connection": "mariadb+pymysql://nobody@127.0.0.1:1/none"})
    with pytest.raises(errors.UnsupportedBackend, match=r"mysql\+pymysql"):
        ledger.beside(backend)
    backend.close()


@contextlib.contextmanager
def foreign_transaction(mysql: MySQL, url: str) -> Iterator[Callable[[str], None]]:
    """A transaction on a connection of somebody who knows nothing of the ledger."""
    connection = mysql.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"USE {url.rpartition('/')[2]}")
            connection.autocommit(False)
            yield cursor.execute
    finally:
        connection.close()


def take(on: Any, flow_uuid: str) -> r.Lease:
    newcomer = r.Newcomer(flow_name="flow", has_factory=True, key_id=on.signing_key().key_id)
    taken = on.take(
        ledger.TakeRequest(
            flow_uuid=flow_uuid,
            owner="me",
            seconds=600.0,
            newcomer=newcomer,
            known=None,
            may_rerun=False,
            resumes=False,
            is_dead=lambda _owner: False,
        )
    )
    assert isinstance(taken, r.Taken)
    return taken.lease


def wait_for_a_lock(mysql: MySQL) -> None:
    from tests.waiting import wait_until

    wait_until(
        lambda: mysql.execute("SELECT 1 FROM information_schema.innodb_lock_waits"),
        what="the ledger to wait for a row",
    )
