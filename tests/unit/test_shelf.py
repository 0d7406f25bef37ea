# SPDX-License-Identifier: Apache-2.0
"""How many engines of parked flows a conductor keeps, and which it lets go."""

from __future__ import annotations

import collections
import gc
import weakref
from typing import Any

import pytest

from lazy_engine.shelf import Shelf


class Engine:
    pass


def test_engine_is_taken_once() -> None:
    shelf, engine = Shelf(2, 100), Engine()
    shelf.put("a", engine, 3)
    assert (len(shelf), shelf.atoms) == (1, 3)
    assert shelf.take("a") is engine
    assert shelf.take("a") is None
    assert (len(shelf), shelf.atoms) == (0, 0)


def test_those_used_longest_ago_make_room() -> None:
    shelf = Shelf(2, 100)
    for name in "ab":
        shelf.put(name, Engine(), 1)
    shelf.put("a", shelf.take("a"), 1)
    shelf.put("c", Engine(), 1)
    assert shelf.take("b") is None
    assert shelf.take("a") is not None
    assert shelf.take("c") is not None


def test_atoms_are_counted_and_not_only_engines() -> None:
    shelf = Shelf(100, 10)
    for name in "abc":
        shelf.put(name, Engine(), 4)
    assert (len(shelf), shelf.atoms) == (2, 8)
    shelf.put("large", Engine(), 11)
    assert shelf.take("large") is None
    assert len(shelf) == 2, "what is never kept makes nobody leave"
    shelf.put("b", Engine(), 10)
    assert (len(shelf), shelf.atoms) == (1, 10), "its own old engine counts no more"


def test_nothing_is_kept_if_none_is_to_be() -> None:
    shelf = Shelf(0, 100)
    shelf.put("a", Engine(), 1)
    assert len(shelf) == 0


def test_engines_that_are_let_go_are_freed() -> None:
    shelf = Shelf(5, 100)
    engines = []
    for number in range(50):
        engine = Engine()
        engines.append(weakref.ref(engine))
        shelf.put(str(number), engine, 1)
    del engine
    gc.collect()
    assert sum(engine() is not None for engine in engines) == 5
    shelf.clear()
    gc.collect()
    assert not any(engine() for engine in engines)


def test_engine_lost_to_an_interrupt_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(collections.OrderedDict[str, Any]):
        def pop(self, *args: Any) -> Any:
            super().pop(*args)
            raise KeyboardInterrupt

    shelf = Shelf(2, 5)
    shelf.put("a", Engine(), 4)
    with monkeypatch.context() as patched:
        patched.setattr(shelf, "_kept", Interrupting(shelf._kept))
        with pytest.raises(KeyboardInterrupt):
            shelf.take("a")
    shelf._kept.clear()
    shelf.put("b", Engine(), 4)
    assert shelf.take("b") is not None
