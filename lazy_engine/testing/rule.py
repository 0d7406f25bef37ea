# SPDX-License-Identifier: Apache-2.0
"""What must be true of a scenario that was interrupted, whatever the place."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from lazy_engine.receipt import Disposition
from lazy_engine.testing import journal as j
from lazy_engine.testing.snapshot import Attempt, Snapshot

_TAKEN = (Disposition.ACCEPTED.name, Disposition.EARLY.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Telling:
    """A scenario as it was told once, with or without crashes.

    :ivar entries: the journal.
    :ivar crashes: what was stored after each crash; ``None`` where no flow was.
    :ivar end: what was stored in the end.
    """

    entries: Sequence[j.Entry]
    crashes: Sequence[Snapshot | None]
    end: Snapshot | None


def problems(reference: Telling, told: Telling) -> list[str]:
    """Return what went wrong in a telling, compared with one without crashes."""
    if reference.end is None or told.end is None:
        return ["the flow is not stored in the end"]
    return [
        *_ended_differently(reference, told),
        *_lost(told),
        *_applied_twice(told),
        *_executed_again(told),
        *_named_differently(told),
        *_other_attempts(reference, told),
    ]


def _ended_differently(reference: Telling, told: Telling) -> Iterable[str]:
    assert reference.end is not None and told.end is not None
    return (f"ended differently: {line}" for line in reference.end.differences(told.end))


def _lost(told: Telling) -> Iterable[str]:
    """An outcome whose receipt said that it counts, or that was stored, is the one in the end."""
    assert told.end is not None
    for entry in _entries(told, j.RECEIPT):
        attempt = _attempt(entry)
        is_kept = entry["disposition"] in (*_TAKEN, Disposition.DUPLICATE.name)
        if is_kept and told.end.outcome(attempt) != entry["digest"]:
            yield f"lost: the outcome of {attempt}, receipt {entry['disposition']}"
    for crash in told.crashes:
        for attempt in crash.delays if crash is not None else ():
            assert crash is not None
            before = crash.outcome(attempt)
            if before is not None and told.end.outcome(attempt) != before:
                yield f"lost: the outcome of {attempt}, which had been stored"


def _applied_twice(told: Telling) -> Iterable[str]:
    assert told.end is not None
    taken = [
        _attempt(entry) for entry in _entries(told, j.RECEIPT) if entry["disposition"] in _TAKEN
    ]
    for name in sorted({attempt for attempt in taken if taken.count(attempt) > 1}):
        yield f"taken twice: outcomes of {name}"
    for crash in told.crashes:
        for attempt, at in crash.absorbed_at.items() if crash is not None else ():
            if told.end.absorbed_at.get(attempt) != at:
                yield f"applied twice: the outcome of {attempt}"


def _executed_again(told: Telling) -> Iterable[str]:
    for life, crash in enumerate(told.crashes, start=1):
        finished = crash.finished() if crash is not None else set()
        for entry in _entries(told, j.BEGUN):
            if entry["life"] > life and _attempt(entry) in finished:
                yield f"executed again: {_attempt(entry)}, which had finished"


def _named_differently(told: Telling) -> Iterable[str]:
    names: dict[Attempt, set[tuple[str, str]]] = defaultdict(set)
    for entry in _entries(told, j.DELAY):
        names[_attempt(entry)].add((entry["delay_id"], entry["token_digest"]))
    owners: dict[str, Attempt] = {}
    for attempt, found in names.items():
        if len(found) > 1:
            yield f"another id or token after re-execution: {attempt}"
        for part in {part for pair in found for part in pair}:
            if owners.setdefault(part, attempt) != attempt:
                yield f"one id or token for two attempts: {attempt} and {owners[part]}"


def _other_attempts(reference: Telling, told: Telling) -> Iterable[str]:
    wanted = {_attempt(entry) for entry in _entries(reference, j.BEGUN)}
    found = {_attempt(entry) for entry in _entries(told, j.BEGUN)}
    for attempt in sorted(wanted - found):
        yield f"never executed: {attempt}"
    for attempt in sorted(found - wanted):
        yield f"executed, as would not have happened without the crash: {attempt}"


def _entries(told: Telling, what: str) -> list[j.Entry]:
    return [entry for entry in told.entries if entry["what"] == what]


def _attempt(entry: Any) -> Attempt:
    return (entry["task"], entry["kind"], entry["attempt"])
