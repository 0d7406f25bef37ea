# SPDX-License-Identifier: Apache-2.0
"""When a flow that could not be run is tried again."""

from __future__ import annotations

import itertools

import pytest

from lazy_engine import incident

KINDS = [
    incident.FACTORY_FAILED,
    incident.CODE_CHANGED,
    incident.CODE_BROKEN,
    incident.STORE_CORRUPT,
    incident.KEY_GONE,
]


@pytest.mark.parametrize("kind", KINDS)
def test_pauses_double_up_to_a_longest_one_and_then_it_is_left_for_a_person(kind: str) -> None:
    pauses = []
    for count in itertools.count(1):
        at = incident.next_try_at(kind, count, 7)
        if at is None:
            break
        pauses.append((at - 7) / 1e6)
    assert pauses[:4] == [10, 20, 40, 80]
    assert all(b == min(2 * a, 3600) for a, b in itertools.pairwise(pauses))
    assert pauses[-1] == 3600
    assert len(pauses) == incident.MOST_TRIES - 1
    assert 7 < sum(pauses) / 3600 < 9
    assert incident.next_try_at(kind, 10**6, 7) is None


def test_flow_without_a_factory_is_left_for_a_person_at_once() -> None:
    assert incident.next_try_at(incident.NO_FACTORY, 1, 7) is None
