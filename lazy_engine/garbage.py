# SPDX-License-Identifier: Apache-2.0
"""Puts Python's search for garbage off while much is made that stays.

That is: a large flow, what a turn of it leaves behind, many outcomes at once.
With every quarter that all of it grows by, the collector looks through the whole
anew: a third of the time in a flow of 10,000 tasks. No task is begun meanwhile.
"""

from __future__ import annotations

import gc
from typing import Final

#: Flows with fewer atoms, and fewer outcomes, are not worth it.
LARGE: Final = 1000


class put_off:
    """Collects no garbage, in the whole process, while something of that many atoms is made.

    Of several threads that do so at once the first one that is done ends it for
    all, which costs the others nothing but time.

    A class and no generator, since each turn of an engine passes through it.
    """

    __slots__ = ("_is_off",)

    def __init__(self, atoms: int) -> None:
        self._is_off = atoms >= LARGE and gc.isenabled()

    def __enter__(self) -> None:
        if self._is_off:
            gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._is_off:
            gc.enable()
