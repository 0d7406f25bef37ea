# SPDX-License-Identifier: Apache-2.0
"""Scenarios over an engine, a ledger or a caller that is broken on purpose: crashes must find each of them out.

Each runs in processes of its own, so nothing is put back.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import sqlalchemy as sa

from lazy_engine import token
from lazy_engine.engine.action import LazyTaskAction
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.ledger.sql_ownership import SqlOwnership
from lazy_engine.ledger.zookeeper_connection import Connection
from lazy_engine.testing import Site
from tests.faults import scenarios


def stored_twice(site: Site) -> None:
    """Store a flow; then use one connection for two writes, one of them rolled back, and a look."""
    scenarios._submit(site, scenarios.make_ask_use)
    with sa.create_engine(site.persistence).connect() as connection:
        connection.execute(sa.text("SELECT * FROM lazy_flows"))
        connection.commit()
        connection.execute(sa.text("UPDATE lazy_flows SET epoch = 7"))
        connection.rollback()
        connection.execute(sa.text("DELETE FROM lazy_delays"))
        connection.commit()


def znodes_written(site: Site) -> None:
    """Store a flow; then write to ZooKeeper in each of the ways there are, and note outside what was made."""
    scenarios._submit(site, scenarios.make_ask_use)
    client = site.zookeeper(site.settings["hosts"])
    top = f"{site.settings['path']}/top-{site.flow_uuid}-{site.life}"
    client.ensure_path_async(top).get(10)
    client.create(f"{top}/made", b"once")
    # Callbacks come late, so that whoever is told without one has the time to note it.
    client.get_async(top).rawlink(lambda _result: threading.Event().wait(0.2))
    client.set_async(f"{top}/made", b"twice").get(10)
    (site.directory / f"told-{site.life}").touch()
    transaction = client.transaction()
    transaction.check(f"{top}/made", 1)
    transaction.set_data(f"{top}/made", b"thrice")
    transaction.commit()
    assert client.get(f"{top}/made")[0] == b"thrice"
    client.delete(top, recursive=True)


def new_attempt_after_a_crash(site: Site) -> None:
    """An attempt that a crash interrupted is counted again."""

    def begin_attempt(self: LazyStorage, task_name: str, kind: str) -> token.DelayKey:
        self.atom_detail(task_name).state = "PENDING"
        return right(self, task_name, kind)

    right = LazyStorage.begin_attempt
    LazyStorage.begin_attempt = begin_attempt  # type: ignore[method-assign]
    scenarios.early_answer_in_threads(site)


def random_ids(site: Site) -> None:
    """A repeated execution gets an id of its own."""
    token.DelayKey.delay_id = f"random {site.life}"  # type: ignore[assignment,method-assign]
    scenarios.submit_park_answer(site)


def early_outcomes_overlooked(site: Site) -> None:
    """What is answered already is executed again after a crash."""

    def schedule_execution(self: LazyTaskAction, atom: Any) -> Any:
        self.early = {}
        return right(self, atom)

    right = LazyTaskAction.schedule_execution
    LazyTaskAction.schedule_execution = schedule_execution  # type: ignore[method-assign]
    scenarios.early_answer(site)


def absorbed_in_a_second_transaction(site: Site) -> None:
    """The outcome is in its task, and marked as absorbed only in the next transaction."""

    def commit(self: SqlOwnership, lease: Any, changes: Any, ending: Any = None) -> Any:
        if changes.absorbed:
            right(self, lease, dataclasses.replace(changes, absorbed=()))
            changes = dataclasses.replace(changes, atoms=())
        return right(self, lease, changes, ending)

    right = SqlOwnership.commit
    SqlOwnership.commit = commit  # type: ignore[method-assign]
    scenarios.failed_and_retried(site)


def guarded_in_a_first_transaction(site: Site) -> None:
    """What guards a ZooKeeper transaction is written by itself, and what it guards after it."""

    def write(self: Connection, guards: Any, operations: Any) -> Any:
        answers = right(self, guards, [])
        if operations:
            right(self, [], operations)
        return answers

    right = Connection.write
    Connection.write = write  # type: ignore[method-assign]
    scenarios.submit_park_answer(site)


def believed_delivered(site: Site) -> None:
    """A caller that notes the delivery before it makes it."""
    scenarios._submit(site, scenarios.make_ask_use)
    site.client.resume(site.flow_uuid)
    note = site.directory / "delivered"
    if not note.exists():
        note.touch()
        site.client.complete(scenarios.Outside(site.directory).token("ask"), 42)
    assert site.client.resume(site.flow_uuid) == "SUCCESS"


def fails_anyway(_site: Site) -> None:
    raise ZeroDivisionError
