# SPDX-License-Identifier: Apache-2.0
"""What counts as a problem of an interrupted scenario."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from lazy_engine.testing.crash import CrashTest
from lazy_engine.testing.journal import Journal
from lazy_engine.testing.rule import Telling, problems
from lazy_engine.testing.site import Site
from lazy_engine.testing.snapshot import Snapshot

ATTEMPT = ("ask", "execute", 1)


def stored(
    state: str = "SUCCESS",
    *,
    outcome: str | None = "digest",
    absorbed_at: int | None = 5,
    results: Any = 42,
    attempts: int = 1,
) -> Snapshot:
    """Return a flow with one task that asked and was answered."""
    return Snapshot(
        flow={"state": state},
        atoms={"ask": {"state": state, "attempts": {"execute": attempts}, "results": results}},
        delays={ATTEMPT: {"outcome": outcome, "was absorbed": absorbed_at is not None}},
        absorbed_at={} if absorbed_at is None else {ATTEMPT: absorbed_at},
    )


def begun(life: int = 1, attempt: int = 1) -> dict[str, Any]:
    about = {"task": "ask", "kind": "execute", "attempt": attempt}
    return {"what": "begun", "life": life, **about}


def delayed(life: int = 1, attempt: int = 1, delay_id: str = "id", token: str = "t") -> Any:
    names = {"delay_id": delay_id, "token_digest": token}
    return {**begun(life, attempt), "what": "delay", **names}


def receipt(disposition: str, life: int = 1, digest: str = "digest") -> dict[str, Any]:
    answer = {"disposition": disposition, "digest": digest}
    return {**begun(life), "what": "receipt", **answer}


UNINTERRUPTED = [begun(), delayed(), receipt("ACCEPTED")]
WAITING = stored("DELAYED", outcome=None, absorbed_at=None, results=None)
AT_WORK = stored("RUNNING", outcome=None, absorbed_at=None, results=None)


def told(entries: list[Any], *crashes: Snapshot | None, end: Snapshot | None = None) -> list[str]:
    """Return the problems of a telling, compared with one that was not interrupted."""
    reference = Telling(entries=UNINTERRUPTED, crashes=[], end=stored())
    return problems(reference, Telling(entries=entries, crashes=crashes, end=end or stored()))


@pytest.mark.parametrize(
    ("crash", "second_life"),
    [
        (None, [begun(2), delayed(2), receipt("DUPLICATE", 2)]),
        (AT_WORK, [begun(2), delayed(2), receipt("DUPLICATE", 2)]),
        (WAITING, [receipt("DUPLICATE", 2)]),
        (stored(absorbed_at=5), [receipt("DUPLICATE", 2)]),
    ],
)
def test_going_on_where_it_stopped_is_no_problem(
    crash: Snapshot | None, second_life: list[Any]
) -> None:
    assert told([*UNINTERRUPTED, *second_life], crash) == []


@pytest.mark.parametrize(
    ("entries", "crash", "end", "problem"),
    [
        (UNINTERRUPTED, WAITING, stored("REVERTED"), "ended differently: flow: state is"),
        (UNINTERRUPTED, WAITING, stored(results=41), "ended differently: atom ask: results is 41"),
        (UNINTERRUPTED, WAITING, stored(outcome="other"), "lost: .* receipt ACCEPTED"),
        (UNINTERRUPTED, stored(outcome="first"), stored(), "lost: .* had been stored"),
        ([*UNINTERRUPTED, receipt("ACCEPTED", 2)], WAITING, stored(), "taken twice"),
        ([*UNINTERRUPTED, receipt("EARLY", 2)], WAITING, stored(), "taken twice"),
        (UNINTERRUPTED, stored(absorbed_at=4), stored(absorbed_at=5), "applied twice"),
        ([*UNINTERRUPTED, begun(2)], stored(), stored(), "executed again"),
        ([*UNINTERRUPTED, begun(2)], WAITING, stored(), "executed again"),
        (
            [*UNINTERRUPTED, begun(2)],
            stored("RUNNING", absorbed_at=None),
            stored(),
            "executed again",
        ),
        ([*UNINTERRUPTED, delayed(2, delay_id="x")], AT_WORK, stored(), "another id or token"),
        ([*UNINTERRUPTED, delayed(2, token="x")], AT_WORK, stored(), "another id or token"),
        ([*UNINTERRUPTED, delayed(2, attempt=2)], AT_WORK, stored(), "for two attempts"),
        ([*UNINTERRUPTED, begun(2, attempt=2)], AT_WORK, stored(), "would not have happened"),
        ([receipt("ACCEPTED")], WAITING, stored(), "never executed"),
    ],
)
def test_a_problem_is_named(
    entries: list[Any], crash: Snapshot, end: Snapshot, problem: str
) -> None:
    found = "\n".join(told(entries, crash, end=end))
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(found)


def test_each_crash_counts_for_the_lives_after_it() -> None:
    entries = [*UNINTERRUPTED, begun(2), begun(3)]
    assert told(entries, AT_WORK, AT_WORK) == []
    assert told(entries, AT_WORK, WAITING) == [f"executed again: {ATTEMPT}, which had finished"]


def test_a_flow_that_was_never_stored_is_a_problem() -> None:
    nothing = Telling(entries=[], crashes=[], end=None)
    assert problems(nothing, nothing) == ["the flow is not stored in the end"]


def test_a_journal_knows_the_life_of_every_entry(tmp_path: pathlib.Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert journal.entries() == []
    for life in (1, 2):
        journal.note("life", number=life)
        journal.note("begun", task=f"in life {life}")
    found = [(entry["life"], entry["task"]) for entry in journal.entries() if "task" in entry]
    assert found == [(1, "in life 1"), (2, "in life 2")]


def test_a_scenario_must_be_importable(tmp_path: pathlib.Path) -> None:
    def scenario(site: Site) -> None: ...

    with pytest.raises(ValueError, match="must be able to import it"):
        CrashTest(scenario, persistence="sqlite:///x", directory=tmp_path)
