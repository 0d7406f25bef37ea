# SPDX-License-Identifier: Apache-2.0
"""Every interleaving of a small model of the protocol keeps the invariants I1 to I5; every mutation breaks one.

Two owners (a conductor; another one, that is also resumed by hand), two or three deliverers and the submitter, each of
whom may stop between any two transactions; see ``protocol_model``. Without faults, or with those that nobody dies of,
there is no watchdog, and still no outcome may be left lying. ``LAZY_ENGINE_PROPERTY_SCALE=2`` or more combines every
flow with every pair of faults (three million steps).
"""

from __future__ import annotations

import dataclasses
import os
from typing import Final

import pytest

from tests.properties.protocol_model import FAILS, FAULTS, Scenario, Violation, explore

_SCALE = int(os.environ.get("LAZY_ENGINE_PROPERTY_SCALE", "1"))

FLOWS: Final = {
    "one task, two answers": Scenario(
        name="one task, two answers",
        after=(-1,),
        keys=((0, 1),),
        answers=((0, "x"), (0, "y")),
    ),
    "one task, the same answer twice": Scenario(
        name="one task, the same answer twice",
        after=(-1,),
        keys=((0, 1),),
        answers=((0, "x"), (0, "x")),
    ),
    "two tasks in a row": Scenario(
        name="two tasks in a row",
        after=(-1, 0),
        keys=((0, 1), (1, 1)),
        answers=((0, "x"), (1, "x")),
    ),
    "two tasks at once": Scenario(
        name="two tasks at once",
        after=(-1, -1),
        keys=((0, 1), (1, 1)),
        answers=((0, "x"), (1, "x")),
    ),
    "a retried task": Scenario(
        name="a retried task",
        after=(-1,),
        keys=((0, 1), (0, 2)),
        answers=((0, FAILS), (0, "y"), (1, "x")),
    ),
    "a task that may not wait again": Scenario(
        name="a task that may not wait again",
        after=(-1, -1),
        keys=((0, 1), (1, 1)),
        answers=((0, "x"),),
        fickle=(0,),
    ),
}

#: Nobody dies of these, and nothing is lost; so no watchdog is needed.
HARMLESS: Final = (("slow", "unanswered"), ("stop", "suspend"), ("slow", "stop"))
HARMFUL: Final = (
    ("crash", "crash"),
    ("crash", "slow"),
    ("crash", "stale"),
    ("crash", "unposted"),
    ("crash", "unanswered"),
    ("crash", "suspend"),
    ("incident", "suspend"),
    ("failure", "slow"),
    ("unposted", "unanswered"),
)
_COSTLY: Final = ("a retried task", "two tasks at once")


def _combinations() -> list[tuple[str, tuple[str, ...]]]:
    found: list[tuple[str, tuple[str, ...]]] = []
    for place, name in enumerate(FLOWS):
        found.append((name, ()))
        for number, faults in enumerate(HARMLESS + HARMFUL):
            # The large flows have one fault at a time, the others every third pair, unless told otherwise.
            if _SCALE > 1:
                found.append((name, faults))
            elif name in _COSTLY and number % 2:
                found.append((name, faults[:1]))
            elif name not in _COSTLY and (number + place) % 3 == 0:
                found.append((name, faults))
    return list(dict.fromkeys(found))


def prepared(flow: str, faults: tuple[str, ...], mutation: str = "") -> Scenario:
    return dataclasses.replace(
        FLOWS[flow],
        faults=faults,
        has_watchdog=not set(faults) <= {"slow", "unanswered", "stop", "suspend"},
        mutation=mutation,
    )


def test_every_interleaving_keeps_the_invariants(capsys: pytest.CaptureFixture[str]) -> None:
    seen, steps, met = 0, 0, set[str]()
    for flow, faults in _combinations():
        explored = explore(prepared(flow, faults), met.add)
        assert explored.rests, "a model that never comes to rest proves nothing"
        seen += explored.states
        steps += explored.steps
    with capsys.disabled():
        print(f"\nprotocol: {seen:,} states, {steps:,} steps, in {len(_combinations())} models")
    # What the model has, it also does.
    for wanted in (
        "deliverer 0: EARLY",
        "deliverer 0: ACCEPTED",
        "deliverer 0: CONFLICT",
        "deliverer 1: DUPLICATE",
        "deliverer 1: LATE",
        "deliverer 0 dies before posting",
        "deliverer 0 notes that it could not post",
        "owner 0 dies",
        "owner 0 finds its code broken",
        "owner 0 repeats its commit",
        "owner 0 writes marks",
        "owner 0 finds the flow busy",
        "owner 0 finds the flow ended",
        "owner 0 finds the flow suspended",
        "the watchdog rings for stale rings",
        "the watchdog rings for unabsorbed outcomes",
        "the watchdog rings for expired leases",
    ):
        assert wanted in met


def test_every_fault_is_tried() -> None:
    assert {fault for _flow, faults in _combinations() for fault in faults} == set(FAULTS)


@pytest.mark.parametrize(
    ("mutation", "invariant", "flow", "faults"),
    [
        ("park without looking", "I3", "one task, two answers", ()),
        ("deliver reads first", "I3", "two tasks in a row", ()),
        ("deliver reads first", "I2", "one task, two answers", ()),
        ("deliver rings before it records", "I3", "two tasks in a row", ()),
        ("deliver rings each time", "I4", "two tasks at once", ()),
        (
            "deliver trusts its own ring",
            "I3",
            "one task, the same answer twice",
            ("unposted", "unanswered"),
        ),
        ("last outcome wins", "I2", "one task, two answers", ()),
        ("token names no attempt", "I5", "a retried task", ()),
        ("take leaves the epoch", "I1", "one task, two answers", ("slow",)),
        ("take leaves the ring", "I3", "one task, two answers", ("incident",)),
        ("nobody clears the ring", "I3", "two tasks in a row", ()),
        ("take leaves early outcomes", "I2", "one task, two answers", ("crash",)),
        ("take runs an ended flow again", "I4", "one task, two answers", ("slow",)),
        ("commit checks no epoch", "I1", "one task, two answers", ("slow",)),
        ("commit checks the epoch first", "I1", "one task, two answers", ("slow",)),
        ("commit counts no commits", "I4", "one task, two answers", ("unanswered",)),
        ("absorbing is two commits", "I2", "one task, two answers", ("crash",)),
        (
            "park keeps outcomes nobody waits for",
            "I4",
            "a task that may not wait again",
            ("crash",),
        ),
        ("watchdog overlooks stale rings", "I3", "one task, two answers", ("crash",)),
        ("watchdog overlooks unabsorbed outcomes", "I3", "one task, two answers", ("unposted",)),
        ("watchdog overlooks expired leases", "I3", "one task, two answers", ("crash",)),
    ],
)
def test_every_mutation_breaks_an_invariant(
    mutation: str, invariant: str, flow: str, faults: tuple[str, ...]
) -> None:
    explore(prepared(flow, faults))
    with pytest.raises(Violation) as caught:
        explore(prepared(flow, faults, mutation))
    print(caught.value)
    assert caught.value.invariant == invariant


def test_without_a_watchdog_a_crash_may_cost_a_wake_up() -> None:
    """That is what the documentation says of this version."""
    alone = dataclasses.replace(prepared("one task, two answers", ("crash",)), has_watchdog=False)
    with pytest.raises(Violation, match="I3"):
        explore(alone)
