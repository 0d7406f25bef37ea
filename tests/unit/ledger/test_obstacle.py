# SPDX-License-Identifier: Apache-2.0
"""What is said of a file or a directory that cannot be opened as a store."""

from __future__ import annotations

import os
import pathlib
import shutil
import stat
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from lazy_engine.ledger import obstacle


def of_file(path: pathlib.Path) -> str:
    return obstacle.of_database(sa.make_url(f"sqlite:///{path}"))


@pytest.fixture
def modest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be subject to permissions, which an administrator is not."""

    def access(path: pathlib.Path, mode: int) -> bool:
        bits = {os.R_OK: stat.S_IRUSR, os.W_OK: stat.S_IWUSR, os.X_OK: stat.S_IXUSR}
        wanted = sum(bit for asked, bit in bits.items() if mode & asked)
        return path.stat().st_mode & wanted == wanted

    monkeypatch.setattr(os, "access", access)


def test_server_is_asked_after_where_there_is_one() -> None:
    url = sa.make_url("postgresql+psycopg://app@db/flows")
    assert obstacle.of_database(url) == obstacle.SERVER


@pytest.mark.usefixtures("modest")
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o200])
def test_file_that_may_not_be_written_or_read_is_named(tmp_path: pathlib.Path, mode: int) -> None:
    path = tmp_path / "flows.db"
    path.touch(mode)
    assert of_file(path) == f"this account may not read and write {path}"


@pytest.mark.usefixtures("modest")
@pytest.mark.parametrize("say", [of_file, obstacle.of_directory])
def test_directory_that_may_not_be_written_is_named(
    tmp_path: pathlib.Path, say: Callable[[pathlib.Path], str]
) -> None:
    tmp_path.chmod(0o555)
    try:
        assert say(tmp_path / "flows") == f"this account may not write in {tmp_path}"
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("say", [of_file, obstacle.of_directory])
def test_full_disk_is_named(
    tmp_path: pathlib.Path,
    say: Callable[[pathlib.Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=12)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)
    assert say(tmp_path / "flows") == f"{tmp_path} is on a full disk (12 bytes are free)"
