# SPDX-License-Identifier: Apache-2.0
"""A store that is restored from a backup goes on from there, as ``doc/howto/restore`` says."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import threading
from typing import Any

import pytest
from taskflow import states, task
from taskflow.patterns import linear_flow

from lazy_engine import DELAYED, Client, Delay, Disposition, doctor, errors, ledger
from tests.integration.parked import opened
from tests.waiting import wait_until


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


# -- under living processes ---------------------------------------------------


class Works(task.Task):
    """Does what its run is told to, with the answer that it has."""

    def execute(self, first: str) -> str:
        HOOKS.pop(0)()
        return f"made of {first}"


class Sums(task.Task):
    def execute(self, first: str, second: str) -> str:
        return f"{first}, {second}"


HOOKS: list[Any] = []


def make_working_flow() -> Any:
    return linear_flow.Flow("flow").add(Asks("first"), Works("works", provides="made"))


def make_summing_flow() -> Any:
    return linear_flow.Flow("flow").add(
        Asks("first"), Asks("second", requires=["first"]), Sums("sums", provides="sum")
    )


def test_engine_at_work_in_a_store_that_is_restored_writes_nothing_more(
    tmp_path: pathlib.Path,
) -> None:
    live, backup = tmp_path / "live.db", tmp_path / "backup.db"
    is_at_work, may_end = threading.Event(), threading.Event()
    states_of: dict[str, str] = {}

    def work_in_the_restored_store() -> None:
        is_at_work.set()
        assert may_end.wait(30)

    def restore() -> None:
        copy(backup, live)
        other.complete(other.token(flow_uuid, "first"), "given again")
        HOOKS.append(work_in_the_restored_store)
        thread.start()
        wait_until(is_at_work.is_set)

    with opened(f"sqlite:///{live}") as store, opened(f"sqlite:///{live}") as another:
        client, other = Client(store), Client(another)
        thread = threading.Thread(
            target=lambda: states_of.update(other=other.resume(flow_uuid)), daemon=True
        )
        flow_uuid = client.submit(make_working_flow, store={"path": str(tmp_path / "asked")})
        assert client.resume(flow_uuid) == DELAYED
        copy(live, backup)
        client.complete(client.token(flow_uuid, "first"), "lost")
        HOOKS.append(restore)
        try:
            with pytest.raises(errors.Fenced):
                client.resume(flow_uuid)
        finally:
            may_end.set()
            thread.join(30)
        assert states_of == {"other": states.SUCCESS}
        results = client.flow(flow_uuid).results
        assert results == {"first": "given again", "works": "made of given again"}
        assert doctor.examine(ledger.beside(store)).findings == []


def test_engine_that_was_kept_before_a_store_was_restored_is_not_used_again(
    tmp_path: pathlib.Path,
) -> None:
    live, backup = tmp_path / "live.db", tmp_path / "backup.db"
    with opened(f"sqlite:///{live}") as store, opened(f"sqlite:///{live}") as another:
        keeping, other = Client(store, keep_engines=8), Client(another)
        flow_uuid = keeping.submit(make_summing_flow, store={"path": str(tmp_path / "asked")})
        assert keeping.resume(flow_uuid) == DELAYED
        copy(live, backup)
        keeping.complete(keeping.token(flow_uuid, "first"), "lost")
        assert keeping.resume(flow_uuid) == DELAYED
        known = ledger.beside(store).flow(flow_uuid)
        copy(backup, live)
        other.complete(other.token(flow_uuid, "first"), "given again")
        assert other.resume(flow_uuid) == DELAYED
        found = ledger.beside(store).flow(flow_uuid)
        assert known is not None and found is not None
        assert (found.epoch, found.commit_number) == (known.epoch, known.commit_number)
        keeping.complete(keeping.token(flow_uuid, "second"), "known")
        assert keeping.resume(flow_uuid) == states.SUCCESS
        assert keeping.flow(flow_uuid).results["sums"] == "given again, known"
        assert doctor.examine(ledger.beside(store)).findings == []
