# SPDX-License-Identifier: Apache-2.0
"""All that is stored of a flow, in a form in which two flows can be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from taskflow import states
from taskflow.persistence import models
from taskflow.types import failure as taskflow_failure

from lazy_engine import host
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import Ledger
from lazy_engine.ledger.desk import META_ATTEMPTS, stored_attempt
from lazy_engine.token import EXECUTE, REVERT

#: One attempt: task name, ``"execute"`` or ``"revert"``, number from 1.
Attempt = tuple[str, str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A flow as it is stored at one moment.

    :ivar flow: lived and stored state, wish, incident, open delays, owned or not.
    :ivar atoms: by name: state, intention, results, failures, attempts, all but
        uuids and times.
    :ivar delays: by attempt: the outcome, why the delay was closed, the late outcome.
    :ivar absorbed_at: by attempt: when its outcome was absorbed.
    """

    flow: Mapping[str, Any]
    atoms: Mapping[str, Mapping[str, Any]]
    delays: Mapping[Attempt, Mapping[str, Any]]
    absorbed_at: Mapping[Attempt, int]

    def outcome(self, attempt: Attempt) -> str | None:
        """Return the digest of an attempt's outcome, if there is one."""
        digest: str | None = self.delays.get(attempt, {}).get("outcome")
        return digest

    def finished(self) -> set[Attempt]:
        """Return the attempts that need not and must not be executed again.

        They ended durably, or wait, or have got their outcome already.
        """
        found = {attempt for attempt in self.delays if self.outcome(attempt) is not None}
        for name, atom in self.atoms.items():
            for kind, at_work in ((EXECUTE, states.RUNNING), (REVERT, states.REVERTING)):
                newest = stored_attempt({META_ATTEMPTS: atom["attempts"]}, kind)
                ended = newest - 1 if atom["state"] == at_work else newest
                found.update((name, kind, number) for number in range(1, ended + 1))
        return found

    def differences(self, other: Snapshot) -> list[str]:
        """Return in what another flow differs from this one."""
        pairs = [("flow", self.flow, other.flow)]
        for what, mine, theirs in (
            ("atom", self.atoms, other.atoms),
            ("delay", self.delays, other.delays),
        ):
            for key in sorted({*mine, *theirs}):
                pairs.append((f"{what} {key}", mine.get(key, {}), theirs.get(key, {})))
        return [
            f"{what}: {name} is {theirs.get(name)!r} and not {mine.get(name)!r}"
            for what, mine, theirs in pairs
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        ]


def take(ledger: Ledger, flow_uuid: str) -> Snapshot | None:
    """Return what is stored of a flow; ``None`` if it is not stored.

    Reads several times: nobody may be running the flow meanwhile.
    """
    record, detail = ledger.flow(flow_uuid), ledger.detail(flow_uuid)
    if record is None or detail is None:
        return None
    delays = {}
    absorbed_at = {}
    for delay in ledger.delays_of(flow_uuid):
        attempt = (delay.task_name, delay.key.kind, delay.key.attempt)
        delays[attempt] = {
            "was opened": delay.opened_at is not None,
            "outcome": delay.outcome and delay.outcome.digest,
            "was absorbed": delay.absorbed_at is not None,
            "closed": delay.close_reason,
            "late": delay.late and delay.late.digest,
        }
        if delay.absorbed_at is not None:
            absorbed_at[attempt] = delay.absorbed_at
    flow = {
        "state": record.state,
        "stored state": detail.state,
        "has owner": record.owner is not None,
        "wish": record.wish,
        "incident": record.incident,
        "open delays": record.open_delays,
        "waits": sum(atom.state == DELAYED for atom in detail),
    }
    atoms = {
        atom.name: _atom(atom) for atom in detail if atom.name != host.HostStorage.injector_name
    }
    return Snapshot(flow=flow, atoms=atoms, delays=delays, absorbed_at=absorbed_at)


def _atom(atom: models.AtomDetail) -> dict[str, Any]:
    is_retry = isinstance(atom, models.RetryDetail)
    return {
        "state": atom.state,
        "intention": atom.intention,
        "attempts": (atom.meta or {}).get(META_ATTEMPTS),
        "results": _history(atom) if is_retry else atom.results,
        "failure": _failure(atom.failure),
        "revert results": atom.revert_results,
        "revert failure": _failure(atom.revert_failure),
    }


def _history(atom: models.RetryDetail) -> list[Any]:
    return [
        (result, {name: _failure(failure) for name, failure in failures.items()})
        for result, failures in atom.results or ()
    ]


def _failure(failure: taskflow_failure.Failure | None) -> Any:
    if failure is None:
        return None
    # Tracebacks name lines of whichever process it was.
    return (next(iter(failure), None), failure.exception_str)
