# SPDX-License-Identifier: Apache-2.0
"""What a deliverer is told."""

from __future__ import annotations

import dataclasses
import enum


class Disposition(enum.Enum):
    """What became of a delivered outcome; every delivery gets exactly one."""

    #: The very same outcome was recorded before. Nothing changed.
    DUPLICATE = "duplicate"
    #: The delay is closed (timed out, cancelled, retried, or the flow is
    #: over). Kept for inspection; changes nothing.
    LATE = "late"
    #: Another outcome was recorded before. Nothing changed.
    CONFLICT = "conflict"
    #: Recorded before the task's ``Delay`` was; it counts as soon as it is.
    EARLY = "early"
    #: Recorded. It will be handed to its task, exactly once.
    ACCEPTED = "accepted"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Receipt:
    """The answer to one delivery; what it says is already durable.

    :ivar disposition: what became of the outcome.
    :ivar flow_uuid: the flow whose delay the token names.
    :ivar task_name: the task that waits (or waited).
    :ivar attempt: which attempt of the task the token names, from 1.
    :ivar woken: whether a wake of the flow is under way: it is running, or a
        doorbell for it is on the job board.
    """

    disposition: Disposition
    flow_uuid: str
    task_name: str
    attempt: int
    woken: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The answer to a heartbeat.

    :ivar cancelled: nobody waits for the work any more; stop it.
    """

    cancelled: bool
