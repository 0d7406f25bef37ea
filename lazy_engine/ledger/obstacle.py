# SPDX-License-Identifier: Apache-2.0
"""What keeps a store from being opened, in words that say where to look."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # imported where there is such a store, and not for others
    import sqlalchemy as sa

#: For stores that a server keeps.
SERVER: Final = "is the server up, and are address, database and account right?"

#: With less room than that even an empty SQLite file and its log do not fit.
_LEAST_BYTES: Final = 1 << 20


def of_database(url: sa.URL) -> str:
    """Return what may be wrong with a database, for the end of an error's message."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return SERVER
    path = pathlib.Path(url.database)
    if path.is_dir():
        return f"{path} is a directory; the address names the file: sqlite:///{path}/flows.db"
    return _of_place(path.parent) or _of_file(path)


def of_directory(path: pathlib.Path) -> str:
    """Return what may be wrong with a directory, for the end of an error's message."""
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        return f"{above} is a file"
    return _of_place(above) or f"is {path} a place where this account may make directories?"


def _of_place(directory: pathlib.Path) -> str | None:
    if not directory.is_dir():
        return f"there is no directory {directory.absolute()}"
    if not os.access(directory, os.W_OK | os.X_OK):
        # SQLite writes its log beside the file, even for who only reads.
        return f"this account may not write in {directory.absolute()}"
    usage = shutil.disk_usage(directory)
    if usage.free < _LEAST_BYTES and usage.total:  # a total of 0 is that of /proc, for example
        return f"{directory.absolute()} is on a full disk ({usage.free} bytes are free)"
    return None


def _of_file(path: pathlib.Path) -> str:
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return f"this account may not read and write {path.absolute()}"
    return f"is {path.absolute()} an SQLite file?"
