# SPDX-License-Identifier: Apache-2.0
"""Tables of an older version are brought up to date, with what is in them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import sqlalchemy as sa
from taskflow.persistence import backends

from lazy_engine import Client, ledger
from lazy_engine.ledger import sql_schema
from tests.integration import wake_flows

#: Columns and indexes of version 1.
COLUMNS = {
    "lazy_flows": [
        "flow_uuid",
        "flow_name",
        "format",
        "epoch",
        "commit_number",
        "owner",
        "lease_expires_at",
        "rung_at",
        "wish",
        "wish_reason",
        "incident",
        "state",
        "key_id",
        "arrival_number",
        "has_factory",
        "job_name",
        "job_priority",
        "book_uuid",
        "book_name",
        "open_delays",
        "created_at",
        "changed_at",
        "ended_at",
    ],
    "lazy_delays": [
        "flow_uuid",
        "atom_uuid",
        "kind",
        "attempt",
        "task_name",
        "opened_at",
        "waiting_at",
        "details",
        "outcome_kind",
        "outcome_body",
        "outcome_digest",
        "arrived_at",
        "arrival_number",
        "delivery_id",
        "absorbed_at",
        "closed_at",
        "close_reason",
        "late_kind",
        "late_body",
        "late_digest",
        "late_at",
    ],
}
#: Those that later versions have, too.
INDEXES = {"lazy_flows_ended"}


def make_older(backend: Any) -> None:
    """Make the tables what version 1 had."""
    with backend.engine.begin() as connection:
        seen = sa.inspect(connection)
        for table, kept in COLUMNS.items():
            for index in seen.get_indexes(table):
                if index["name"] not in INDEXES:
                    connection.exec_driver_sql(f"DROP INDEX {index['name']}")
            for column in seen.get_columns(table):
                if column["name"] not in kept:
                    connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column['name']}")
        connection.exec_driver_sql(
            "CREATE INDEX lazy_delays_waiting"
            " ON lazy_delays (waiting_at, flow_uuid, atom_uuid, kind, attempt)"
        )
        connection.exec_driver_sql(
            "CREATE INDEX lazy_flows_state ON lazy_flows (state, changed_at, flow_uuid)"
        )
        connection.exec_driver_sql(
            "UPDATE lazy_facts SET value = '1' WHERE name = 'schema_version'"
        )


def described(backend: Any) -> dict[str, tuple[set[str], set[str]]]:
    """Return the names of columns and indexes of the ledger's tables."""
    seen = sa.inspect(backend.engine)
    return {
        table: (
            {column["name"] for column in seen.get_columns(table)},
            {str(index["name"]) for index in seen.get_indexes(table)},
        )
        for table in COLUMNS
    }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_version_one_is_upgraded_with_its_flows(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    with contextlib.closing(backends.fetch({"connection": url})) as backend:
        ledger.upgrade(backend)
        fresh = described(backend)
        client = Client(backend)
        flow_uuid = client.submit(wake_flows.one_wait)
        assert client.resume(flow_uuid) == "DELAYED"
        ledger.beside(backend).close()
        make_older(backend)
        assert described(backend) != fresh
    with contextlib.closing(backends.fetch({"connection": url})) as backend:
        client = Client(backend)
        assert described(backend) == fresh
        with backend.engine.connect() as connection:
            version = connection.exec_driver_sql(
                "SELECT value FROM lazy_facts WHERE name = 'schema_version'"
            ).scalar_one()
        assert int(version) == sql_schema.VERSION
        client.complete(client.token(flow_uuid, "ask"), 1)
        assert client.resume(flow_uuid) == "SUCCESS"
        ledger.beside(backend).close()
