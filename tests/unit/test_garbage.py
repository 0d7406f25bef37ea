# SPDX-License-Identifier: Apache-2.0
"""Python's search for garbage is put off for large flows, and never for good."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from lazy_engine import garbage


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


def test_it_is_put_off_for_large_flows_only() -> None:
    with garbage.put_off(garbage.LARGE):
        assert not gc.isenabled()
    assert gc.isenabled()
    with garbage.put_off(garbage.LARGE - 1):
        assert gc.isenabled()


def test_it_goes_on_whatever_happens_meanwhile() -> None:
    with pytest.raises(OSError, match="it failed"), garbage.put_off(garbage.LARGE):
        raise OSError("it failed")
    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off() -> None:
    gc.disable()
    with garbage.put_off(garbage.LARGE):
        pass
    assert not gc.isenabled()
