# SPDX-License-Identifier: Apache-2.0
"""The ledger beside TaskFlow's directory backend: files and redo log agree, whatever dies when."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from taskflow import states
from taskflow.persistence import backends, models

from lazy_engine import errors, ledger
from lazy_engine.ledger import directory_file
from lazy_engine.ledger import record as r


class Died(BaseException):
    """Nothing that the ledger could catch: what a process notices of its own death."""


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "flows"


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Any]:
    """A ledger and its backend, as a process of its own would have them."""
    backend = backends.fetch({"connection": "dir", "path": str(path)})
    ledger.upgrade(backend)
    on = ledger.beside(backend)
    with contextlib.closing(on):
        yield on, backend


def submission(on: Any, flow_uuid: str | None = None) -> r.Submission:
    detail = models.FlowDetail("flow", flow_uuid or str(uuid.uuid4()))
    detail.meta = {"factory": "a.b"}
    detail.state = states.PENDING
    key_id = on.signing_key().key_id
    return r.Submission(detail=detail, book=models.LogBook("book"), key_id=key_id, is_rung=False)


def take(on: Any, flow_uuid: str, owner: str = "me") -> r.Taken:
    newcomer = r.Newcomer(flow_name="flow", has_factory=True, key_id=on.signing_key().key_id)
    taken = on.take(
        ledger.TakeRequest(
            flow_uuid=flow_uuid,
            owner=owner,
            seconds=600.0,
            newcomer=newcomer,
            known=None,
            may_rerun=False,
            resumes=False,
            is_dead=lambda name: name != owner,
        )
    )
    assert isinstance(taken, r.Taken)
    return taken


def atom(uuid_: str, state: str, results: Any = None) -> models.TaskDetail:
    detail = models.TaskDetail(f"task {uuid_}", uuid_)
    detail.state, detail.intention, detail.version = state, states.EXECUTE, "1.0"
    detail.meta, detail.results = {}, results
    return detail


def changes(flow_uuid: str, state: str, *atoms: models.TaskDetail, is_new: bool) -> r.Changes:
    flow = models.FlowDetail("flow", flow_uuid)
    flow.meta, flow.state = {"factory": "a.b"}, state
    columns = frozenset() if is_new else frozenset(("state", "results"))
    return r.Changes(
        flow=flow,
        flow_is_dirty=True,
        atoms=[r.AtomChange(detail=one, columns=columns, is_new=is_new) for one in atoms],
    )


def content(detail: models.FlowDetail) -> Any:
    atoms = [one.to_dict() for one in detail]
    return detail.to_dict(), sorted(atoms, key=lambda one: str(one["uuid"]))


def in_files(path: pathlib.Path, flow_uuid: str) -> Any:
    """Return what TaskFlow reads, in a process that knows nothing of a ledger."""
    backend = backends.fetch({"connection": "dir", "path": str(path)})
    with contextlib.closing(backend.get_connection()) as connection:
        return content(connection.get_flow_details(flow_uuid))


def story(on: Any, flow_uuid: str) -> Iterator[str]:
    """Do everything that writes files, and yield after each step."""
    on.submit(submission(on, flow_uuid))
    yield "submitted"
    lease = take(on, flow_uuid).lease
    first, second = atom("first", states.PENDING), atom("second", states.PENDING)
    on.commit(lease, changes(flow_uuid, states.RUNNING, first, second, is_new=True))
    yield "begun"
    done = [atom("first", states.SUCCESS, {"ip": "::1"}), atom("second", states.SUCCESS, [1, None])]
    on.commit(lease, changes(flow_uuid, states.RUNNING, *done, is_new=False))
    yield "done"
    final = r.Ending(state=states.SUCCESS, is_final=True, absorbs=True)
    on.commit(lease, changes(flow_uuid, states.SUCCESS, is_new=False), final)
    yield "ended"
    on.purge(on.now() + 1_000_000)
    yield "purged"


def test_taskflow_reads_what_was_committed(path: pathlib.Path) -> None:
    flow_uuid = str(uuid.uuid4())
    with opened(path) as (on, backend), contextlib.closing(backend.get_connection()) as connection:
        for step in story(on, flow_uuid):
            if step != "purged":
                expected = content(on.detail(flow_uuid))
                assert in_files(path, flow_uuid) == expected, step
                assert content(connection.get_flow_details(flow_uuid)) == expected, step
                (book,) = connection.get_logbooks()
                assert [flow.uuid for flow in book] == [flow_uuid]
    for name in ("books", "flow_details", "atom_details"):
        assert list((path / name).iterdir()) == [], "purged"


def test_flow_of_taskflows_own_is_taken_with_its_atoms_and_book(path: pathlib.Path) -> None:
    book, flow = models.LogBook("its book"), models.FlowDetail("flow", "flow-1")
    flow.add(atom("first", states.SUCCESS, 7))
    book.add(flow)
    with opened(path) as (on, backend):
        with contextlib.closing(backend.get_connection()) as connection:
            connection.save_logbook(book)
        take(on, "flow-1")
        record = on.flow("flow-1")
        assert (record.book_uuid, record.book_name) == (book.uuid, "its book")
        assert content(on.detail("flow-1")) == content(flow)


def test_purge_leaves_a_book_in_which_others_are(path: pathlib.Path) -> None:
    book = models.LogBook("its book")
    for name in ("flow-1", "flow-2"):
        flow = models.FlowDetail(name, name)
        flow.add(atom(f"atom of {name}".replace(" ", "-"), states.SUCCESS))
        book.add(flow)
    final = r.Ending(state=states.SUCCESS, is_final=True, absorbs=True)
    with opened(path) as (on, backend):
        connection = backend.get_connection()
        connection.save_logbook(book)
        for name, left in (("flow-1", ["flow-2"]), ("flow-2", [])):
            on.commit(take(on, name).lease, changes(name, states.SUCCESS, is_new=False), final)
            assert on.purge(on.now() + 1_000_000) == 1
            books = list(connection.get_logbooks())
            assert [flow.uuid for one in books for flow in one] == left
            assert len(books) == len(left)
            assert os.listdir(path / "atom_details") == [f"atom-of-{name}" for name in left]


def test_reader_with_a_cache_sees_two_writes_within_one_tick_of_the_clock(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TaskFlow reads a file again only if its time of change has grown."""
    stopped = 1_700_000_000_000_000_000
    monkeypatch.setattr(directory_file.time, "time_ns", lambda: stopped)
    with opened(path) as (on, _):
        reader = backends.fetch({"connection": "dir", "path": str(path)}).get_connection()
        on.submit(submission(on, "flow-1"))
        lease = take(on, "flow-1").lease
        for number in range(5):
            state = f"STATE {number}"
            on.commit(
                lease, changes("flow-1", state, atom("first", state, number), is_new=not number)
            )
            found = reader.get_flow_details("flow-1")
            assert (found.state, [one.results for one in found]) == (state, [number])


def count_deaths(monkeypatch: pytest.MonkeyPatch, last: int) -> list[str]:
    """Let the process die before its call number *last* that changes a directory."""
    calls: list[str] = []

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == last:
                raise Died
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(directory_file.os, "replace", dying("replace", os.replace))
    monkeypatch.setattr(
        directory_file.shutil, "rmtree", dying("rmtree", directory_file.shutil.rmtree)
    )
    for name in ("symlink_to", "mkdir", "unlink"):
        real = getattr(pathlib.Path, name)
        monkeypatch.setattr(pathlib.Path, name, dying(name, real))
    return calls


def test_death_anywhere_while_files_are_written_loses_nothing(
    tmp_path: pathlib.Path,
) -> None:
    points, died = 0, 0
    for last in range(1, 200):
        path = tmp_path / str(last)
        flow_uuid = f"flow-{last}"
        reached = "nothing"
        with opened(path) as (on, _), pytest.MonkeyPatch.context() as patch:
            calls = count_deaths(patch, last)
            try:
                for step in story(on, flow_uuid):
                    reached = step
            except Died:
                died += 1
        points = len(calls)
        with opened(path) as (on, _):
            detail = on.detail(flow_uuid)
            if reached in ("ended", "purged"):
                assert detail is None
                assert os.listdir(path / "flow_details") == os.listdir(path / "books") == []
                assert os.listdir(path / "atom_details") == []
            else:
                # The step in whose middle it died had been committed.
                expected = {"nothing": 0, "submitted": 1, "begun": 2, "done": 3}[reached]
                assert on.flow(flow_uuid).commit_number == expected
                assert in_files(path, flow_uuid) == content(detail)
                if expected >= 2:
                    assert [one.state for one in detail] == [states.SUCCESS] * 2
        if reached == "purged":
            break
    assert died == points == last - 1 > 15


DIES_WITH_THE_FILES_HALF_WRITTEN = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from taskflow.persistence import backends, models
from lazy_engine import ledger
from lazy_engine.ledger import directory_file, record as r
backend = backends.fetch({"connection": "dir", "path": sys.argv[1]})
ledger.upgrade(backend)
on = ledger.beside(backend)
detail = models.FlowDetail("flow", "flow-1")
detail.meta = {}
real = os.replace
def replace(*args):
    if "flow_details" in str(args[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(*args)
directory_file.os.replace = replace
on.submit(r.Submission(detail=detail, book=models.LogBook("b"), key_id=on.signing_key().key_id, is_rung=False))
"""


def test_killed_process_leaves_its_work_to_the_next_one(path: pathlib.Path) -> None:
    package = pathlib.Path(ledger.__file__).parents[2]
    victim = subprocess.run(
        [sys.executable, "-c", DIES_WITH_THE_FILES_HALF_WRITTEN, str(path), str(package)],
        check=False,
        timeout=60,
    )
    assert victim.returncode == -signal.SIGKILL
    assert len(os.listdir(path / "books")) == 1
    assert not (path / "flow_details" / "flow-1" / "metadata").exists()
    with opened(path):
        assert in_files(path, "flow-1")[0]["name"] == "flow"


def test_owner_that_slept_after_its_commit_overwrites_nothing(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as (sleeper, _), opened(path) as (other, _):
        sleeper.submit(submission(sleeper, "flow-1"))
        old = take(sleeper, "flow-1", "old").lease
        with monkeypatch.context() as patch:
            patch.setattr(type(sleeper._transactor), "catch_up", lambda _self: None)
            first = atom("first", states.RUNNING)
            sleeper.commit(old, changes("flow-1", "OLD", first, is_new=True))
        assert in_files(path, "flow-1")[0]["state"] == states.PENDING, "the log alone has it"
        assert content(other.detail("flow-1"))[0]["state"] == "OLD"
        new = take(other, "flow-1", "new").lease
        assert in_files(path, "flow-1")[0]["state"] == "OLD", "replayed by who took the lease"
        done = atom("first", states.SUCCESS, 7)
        other.commit(new, changes("flow-1", "NEW", done, is_new=False))
        sleeper._transactor.catch_up()
        assert in_files(path, "flow-1") == content(other.detail("flow-1"))
        assert in_files(path, "flow-1")[0]["state"] == "NEW"
        with pytest.raises(errors.Fenced):
            sleeper.commit(old, changes("flow-1", "OLD", is_new=False))
        assert in_files(path, "flow-1")[0]["state"] == "NEW"


def test_flow_that_was_begun_before_any_file_was_written_is_in_its_book(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as (on, _):
        with monkeypatch.context() as patch:
            patch.setattr(type(on._transactor), "catch_up", lambda _self: None)
            on.submit(submission(on, "flow-1"))
            lease = take(on, "flow-1").lease
            assert on.flow("flow-1").book_name == "book"
            on.commit(lease, changes("flow-1", "NEW", atom("a", "DONE"), is_new=True))
            on.commit(lease, changes("flow-1", "NEWER", atom("b", "DONE"), is_new=True))
        on.renew(lease)
        backend = backends.fetch({"connection": "dir", "path": str(path)})
        (book,) = backend.get_connection().get_logbooks()
        assert [(flow.uuid, flow.state) for flow in book] == [("flow-1", "NEWER")]
        assert sorted(one.uuid for flow in book for one in flow) == ["a", "b"]


def test_files_that_cannot_be_written_are_written_later(
    path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as (on, _):
        on.submit(submission(on, "flow-1"))
        lease = take(on, "flow-1").lease
        obstacle = path / "atom_details" / "first"
        obstacle.write_text("not a directory")
        first = atom("first", states.SUCCESS, 7)
        on.commit(lease, changes("flow-1", "HIDDEN", first, is_new=True))
        assert "behind" in caplog.text
        assert [one.results for one in on.detail("flow-1")] == [7]
        obstacle.unlink()
        on.renew(lease)
        assert in_files(path, "flow-1") == content(on.detail("flow-1"))


@pytest.mark.parametrize(
    "name", ["../escape", "..", ".", "", "a/b", "/etc", "metadata", "lock", "a\0b", "x" * 300]
)
def test_uuid_that_would_lead_elsewhere_is_refused(path: pathlib.Path, name: str) -> None:
    with opened(path) as (on, _):
        wanted = submission(on, "flow-1")
        # TaskFlow takes any uuid, and leaves out an empty one.
        wanted.detail._uuid = name
        before = sorted(str(found) for found in path.parent.rglob("*"))
        with pytest.raises(errors.StoreUnavailable, match="cannot be the uuid"):
            on.submit(wanted)
        assert on.detail(name) is None
        with pytest.raises(errors.UnknownFlow):
            take(on, name)
        assert on.flow(name) is None
        assert sorted(str(found) for found in path.parent.rglob("*")) == before


def test_reading_what_is_not_there_makes_nothing(path: pathlib.Path) -> None:
    """TaskFlow makes the directory of every uuid that it is asked for."""
    with opened(path) as (on, _):
        assert on.detail("nobody") is None
        with pytest.raises(errors.UnknownFlow):
            take(on, "nobody")
    assert list((path / "flow_details").iterdir()) == []


def test_purge_follows_no_links_that_somebody_else_put(path: pathlib.Path) -> None:
    treasure = path.parent / "treasure"
    treasure.mkdir()
    (treasure / "gold").write_text("all of it")
    with opened(path) as (on, _):
        steps = story(on, "flow-1")
        while next(steps) != "ended":
            pass
        place = path / "atom_details" / "first"
        (place / "metadata").rename(treasure / "metadata")
        directory_file.shutil.rmtree(place)
        place.symlink_to(treasure)
        assert next(steps) == "purged"
        assert on.detail("flow-1") is None
        assert not place.is_symlink()
    assert (treasure / "gold").read_text() == "all of it"


def test_damaged_file_is_an_incident_that_names_it(path: pathlib.Path) -> None:
    with opened(path) as (on, _):
        on.submit(submission(on, "flow-1"))
        file = path / "flow_details" / "flow-1" / "metadata"
        file.write_text(file.read_text()[:-5])
        with pytest.raises(errors.FlowIncident, match=str(file)):
            on.detail("flow-1")
        with pytest.raises(errors.FlowIncident, match=str(file)):
            take(on, "flow-1")
        assert on.flow("flow-1").owner is None, "nobody owns what cannot be run"


def test_missing_directories_are_named(path: pathlib.Path) -> None:
    backend = backends.fetch({"connection": "dir", "path": str(path)})
    with pytest.raises(errors.StoreUnavailable, match="init"):
        ledger.beside(backend)
    assert not path.exists()
