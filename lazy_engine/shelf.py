# SPDX-License-Identifier: Apache-2.0
"""Engines of flows that parked, kept for the next time that somebody rings for them.

What an engine in memory spares is reading the flow's details, making the flow,
compiling and validating it. Whether it may be used the ledger says, in the very
write that takes the lease (:attr:`~lazy_engine.ledger.protocol.TakeRequest.is_insistent`).
"""

from __future__ import annotations

import collections
import threading
from typing import Any, Final

from lazy_engine.fork import Forkable, watch

#: How many engines a conductor keeps, unless said otherwise.
KEEP_ENGINES: Final = 256
#: How many atoms the flows of all kept engines have at most, unless said otherwise.
KEEP_ATOMS: Final = 20_000


class Shelf(Forkable):
    """Keeps the engines that were used last. Safe to use from any thread.

    An engine that is at work is not on the shelf.

    :param most_engines: how many are kept at most; 0 keeps none.
    :param most_atoms: how many atoms their flows have at most, all together.
    """

    def __init__(self, most_engines: int, most_atoms: int) -> None:
        self._most_engines = most_engines
        self._most_atoms = most_atoms
        self.begin_anew()
        watch(self)
        self._kept: collections.OrderedDict[str, tuple[Any, int]] = collections.OrderedDict()
        self._atoms = 0

    def begin_anew(self) -> None:
        """Make the lock, again in a forked child: a thread of its parent's may have had it."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def atoms(self) -> int:
        """How many atoms the flows of the kept engines have."""
        return self._atoms

    def put(self, flow_uuid: str, engine: Any, atoms: int) -> None:
        """Keep a flow's engine, and let go of those that were used longest ago to make room."""
        with self._lock:
            self._drop(flow_uuid)
            if self._most_engines <= 0 or atoms > self._most_atoms:
                return
            self._kept[flow_uuid] = (engine, atoms)
            self._atoms += atoms
            while len(self._kept) > self._most_engines or self._atoms > self._most_atoms:
                self._drop(next(iter(self._kept)))

    def take(self, flow_uuid: str) -> Any | None:
        """Return a flow's engine, which is then the caller's alone; ``None`` if there is none."""
        with self._lock:
            return self._drop(flow_uuid)

    def clear(self) -> None:
        """Let go of all engines."""
        with self._lock:
            self._kept.clear()
            self._atoms = 0

    def _drop(self, flow_uuid: str) -> Any | None:
        engine, atoms = self._kept.pop(flow_uuid, (None, 0))
        # An interrupt may have come in between: what is counted then must not stay for ever.
        self._atoms = self._atoms - atoms if self._kept else 0
        return engine
