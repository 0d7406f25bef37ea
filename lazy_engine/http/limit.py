# SPDX-License-Identifier: Apache-2.0
"""How much a stranger may ask for at once."""

from __future__ import annotations

import dataclasses
from typing import Final

#: Most outcomes in one batch.
MAX_BATCH: Final = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what requests may take.

    :ivar body_bytes: longest body; the store's own limit on an outcome comes after.
    :ivar body_seconds: in which the whole body has to arrive.
    :ivar delivery_threads: how many deliveries are in the store at the same time.
    :ivar operator_threads: the same for the operators' endpoints, apart, so that a
        long list holds up no delivery.
    :ivar waiting: how many requests wait for one of these threads, of each sort;
        those after them are told to come again (503).
    :ivar waiting_seconds: how long one waits for a thread before it is told so.
    :ivar listeners: how many listen to events at the same time.
    :ivar listening_seconds: after how long a listener has to come again.
    :ivar look_seconds: how often the store is looked at for all of them together, while there
        are any; more seldom where it takes long.
    """

    body_bytes: int = 2 * 1024 * 1024
    body_seconds: float = 10.0
    delivery_threads: int = 8
    operator_threads: int = 2
    waiting: int = 512
    waiting_seconds: float = 10.0
    listeners: int = 32
    listening_seconds: float = 600.0
    look_seconds: float = 2.0
