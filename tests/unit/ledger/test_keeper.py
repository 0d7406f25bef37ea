# SPDX-License-Identifier: Apache-2.0
"""The keeper's own life; what it does for leases is tried with every ledger."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lazy_engine.ledger import record as r
from lazy_engine.ledger.keeper import Hold, Keeper
from tests.waiting import wait_until

PULSE = r.Pulse(wish=None, arrival_number=0)


class SlowLedger:
    """Answers a renewal when it is told to."""

    def __init__(self) -> None:
        self.was_asked = threading.Event()
        self.may_answer = threading.Event()
        self.renewals = 0

    def renew(self, _lease: r.Lease) -> r.Pulse:
        self.was_asked.set()
        assert self.may_answer.wait(30)
        self.renewals += 1
        return PULSE


def make_hold() -> Hold:
    lease = r.Lease(
        flow_uuid="flow",
        owner="me",
        epoch=1,
        commit_number=0,
        created_at=0,
        changed_at=0,
        seconds=0.05,
        key_id="key",
        pulse=PULSE,
    )
    return Hold(
        lease=lease,
        is_active=lambda: True,
        on_pulse=lambda _pulse: None,
        on_lost=lambda: None,
        flush=lambda: None,
    )


def test_closing_waits_for_the_renewal_under_way_and_is_the_last() -> None:
    ledger: Any = SlowLedger()
    keeper = Keeper(ledger)
    keeper.hold(make_hold())
    assert ledger.was_asked.wait(30)
    closing = threading.Thread(target=keeper.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive(), "the store would be closed under the renewal"
    ledger.may_answer.set()
    closing.join(30)
    assert not closing.is_alive()
    assert ledger.renewals == 1
    wait_until(lambda: all(t.name != "lazy-engine-keeper" for t in threading.enumerate()))


def test_closing_what_keeps_nothing_is_harmless() -> None:
    Keeper(SlowLedger()).close()  # type: ignore[arg-type]


def test_lease_is_kept_though_an_earlier_thread_was_interrupted_before_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger: Any = SlowLedger()
    ledger.may_answer.set()
    keeper = Keeper(ledger)

    def interrupt(_thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            keeper.hold(make_hold())
    keeper.close()
    keeper.hold(make_hold())
    wait_until(lambda: ledger.renewals)
    keeper.close()
