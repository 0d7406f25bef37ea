# SPDX-License-Identifier: Apache-2.0
"""Which of several conductors answers a job first."""

from __future__ import annotations

import collections

from lazy_engine.board.share import first_of

JOBS = [f"job{number:010}" for number in range(3000)]


def test_all_agree_in_whatever_order_they_know_each_other() -> None:
    for job in JOBS[:50]:
        assert first_of(["a", "b", "c"], job) == first_of(["c", "a", "b"], job)
    assert first_of([], "job1") is None


def test_shares_are_about_equal() -> None:
    counts = collections.Counter(first_of("abc", job) for job in JOBS)
    assert set(counts) == set("abc")
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_only_the_share_of_who_comes_or_goes_changes_hands() -> None:
    for job in JOBS:
        before, after = first_of("abc", job), first_of("ab", job)
        assert before in ("c", after)
