# SPDX-License-Identifier: Apache-2.0
"""Puts Python's search for garbage off while much is made that stays.

That is: a large flow, what a turn of it leaves behind, many outcomes at once.
With every quarter that all of it grows by, the collector looks through the whole
anew: a third of the time in a flow of 10,000 tasks. No task is begun meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

#: Flows with fewer atoms, and fewer outcomes, are not worth it.
LARGE: Final = 1000


@contextlib.contextmanager
def put_off(atoms: int) -> Iterator[None]:
    """Collect no garbage, in the whole process, while something of that many atoms is made.

    Of several threads that do so at once the first one that is done ends it for
    all, which costs the others nothing but time.
    """
    if atoms < LARGE or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
