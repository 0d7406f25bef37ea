# SPDX-License-Identifier: Apache-2.0
"""The ledger beside TaskFlow's directory backend: a SQLite file among its files."""

from __future__ import annotations

import os
from typing import Any, Final

import sqlalchemy as sa
from taskflow.persistence import models

from lazy_engine.ledger import sqlite_file
from lazy_engine.ledger.directory_detail import (
    FileDetails,
    RedoLog,
    RedoTransactor,
    redo_table,
)
from lazy_engine.ledger.directory_file import DetailFiles
from lazy_engine.ledger.sql import SqlLedger
from lazy_engine.ledger.sql_schema import build
from lazy_engine.ledger.sql_upgrade import require_current

#: Name of the ledger's file in the backend's directory.
FILE_NAME: Final = "lazy_engine.sqlite"


def open_ledger(backend: Any) -> DirectoryLedger:
    """Return the ledger of a directory; make its file if there is none.

    What somebody committed who died before it was in TaskFlow's files is
    written there.

    :raises StoreUnavailable: TaskFlow's directories are missing.
    """
    files = DetailFiles(backend.path, backend.encoding)
    files.require_directories()
    tables = build("sqlite")
    log = RedoLog(redo_table(tables.own), files)
    url = sa.URL.create("sqlite", database=os.path.join(backend.path, FILE_NAME))
    transactor = RedoTransactor(sqlite_file.open_engine(url), log)
    require_current(transactor, tables, lambda _connection: None)
    transactor.catch_up()
    details = FileDetails(tables, log, files)
    return DirectoryLedger(transactor, tables, details, store="dir", owns_engine=True)


class DirectoryLedger(SqlLedger):
    """A ledger in SQLite, whose flows have their details in files."""

    def detail(self, flow_uuid: str) -> models.FlowDetail | None:
        # With the lock that writers hold: a reader's snapshot of the log does not
        # cover the files, which somebody could be writing.
        return self._transactor.write(lambda c: self._details.read(c, flow_uuid))
