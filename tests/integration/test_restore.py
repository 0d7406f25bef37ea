# SPDX-License-Identifier: Apache-2.0
"""A store that is restored from a backup goes on from there, as ``doc/howto/restore`` says."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from typing import Any

import pytest
from taskflow import states, task
from taskflow.patterns import linear_flow

from lazy_engine import DELAYED, Client, Delay, Disposition, doctor, errors, ledger
from tests.integration.parked import opened


class Asks(task.Task):
    """Waits, and notes under which id it asked the outside."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, provides=name, **options)

    def execute(self, path: str, **_: Any) -> Delay:
        delay = Delay()
        with pathlib.Path(path).open("a", encoding="utf-8") as asked:
            asked.write(f"{self.name} {delay.id}\n")
        return delay


def make_flow() -> Any:
    return linear_flow.Flow("flow").add(Asks("first"), Asks("second", requires=["first"]))


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source)) as one,
        contextlib.closing(sqlite3.connect(target)) as other,
    ):
        one.backup(other)


@pytest.mark.parametrize("is_early", [True, False], ids=["known", "asked"])
def test_what_was_done_since_the_backup_is_done_again_and_alike(
    tmp_path: pathlib.Path, is_early: bool
) -> None:
    live, backup, asked = tmp_path / "live.db", tmp_path / "backup.db", tmp_path / "asked"
    with opened(f"sqlite:///{live}") as store:
        client = Client(store)
        flow_uuid = client.submit(make_flow, store={"path": str(asked)})
        assert client.resume(flow_uuid) == DELAYED
        copy(live, backup)
        first = client.token(flow_uuid, "first")
        assert client.complete(first, "lost").disposition is Disposition.ACCEPTED
        assert client.resume(flow_uuid) == DELAYED
        second = client.token(flow_uuid, "second")
        later = client.submit(make_flow, store={"path": str(asked)})
        assert client.resume(later) == DELAYED
        unknown = client.token(later, "first")
    lost = asked.read_text("utf-8").splitlines()[:2]
    asked.unlink()
    copy(backup, live)
    with opened(f"sqlite:///{live}") as store:
        assert doctor.examine(ledger.beside(store)).findings == []
        client = Client(store)
        with pytest.raises(errors.UnknownDelay):
            client.complete(unknown, "lost")
        if is_early:
            assert client.complete(second, "kept").disposition is Disposition.EARLY
        assert client.complete(first, "given again").disposition is Disposition.ACCEPTED
        if not is_early:
            assert client.resume(flow_uuid) == DELAYED
            assert client.complete(second, "kept").disposition is Disposition.ACCEPTED
        assert client.resume(flow_uuid) == states.SUCCESS
        assert client.flow(flow_uuid).results == {"first": "given again", "second": "kept"}
        # Only what came after the backup is asked for again, under the same id, and only
        # if it is not known yet.
        found = asked.read_text("utf-8").splitlines() if asked.exists() else []
        assert found == ([] if is_early else lost[1:])
