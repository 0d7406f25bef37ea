# SPDX-License-Identifier: Apache-2.0
"""A flow's record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

#: Version of everything in these records as stored.
FORMAT: Final = 1

#: When a flow's record was made, its epoch, its commit number, and when that commit was
#: made: two equal ones mean that nobody has run the flow in between, nor purged it and
#: submitted another by its uuid; nor was the store set back to a backup and somebody came as
#: far again, for that was later.
Version = tuple[int, int, int, int]

#: A wish is what somebody outside asks of whoever owns the flow.
WISH_SUSPEND: Final = "suspend"
#: Stays until the flow has ended, and after that says why it did.
WISH_CANCEL: Final = "cancel"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecord:
    """One row of ``lazy_flows``.

    :ivar epoch: rises by one each time the lease is taken; fences everybody
        who took it before.
    :ivar commit_number: rises by one with each commit of an owner.
    :ivar owner: who holds the lease, or ``None``.
    :ivar lease_expires_at: instant, or ``None`` with no owner.
    :ivar rung_at: when a doorbell was last asked for; cleared by taking the lease.
    :ivar rings: how many doorbells in a row nobody has answered.
    :ivar check_at: when the watchdog is to look at the flow, or ``None`` while
        there is nothing to look for: then the lease runs out, or a doorbell
        counts as lost, or an incident is to be tried again.
    :ivar wish: ``None``, ``"suspend"`` or ``"cancel"``.
    :ivar incident: ``{"kind", "message", "first_at", "last_at", "count", "next_try_at"}``
        or ``None``; without a next try it is left for a person.
    :ivar state: the flow's state as it is lived.
    :ivar key_id: signs this flow's tokens, for good.
    :ivar arrival_number: number of the newest recorded outcome.
    :ivar has_factory: whether anybody but its author can load the flow again.
    :ivar open_delays: how many delays wait.
    :ivar changed_at: when an owner last committed, or an incident or a cancellation was
        noted; part of the version, so nothing that leaves the details alone and comes
        with every wake may touch it: no delivery, ring, timer, nor the taking of the lease.
    """

    flow_uuid: str
    flow_name: str
    epoch: int = 0
    commit_number: int = 0
    owner: str | None = None
    lease_expires_at: int | None = None
    rung_at: int | None = None
    rings: int = 0
    check_at: int | None = None
    wish: str | None = None
    wish_reason: str | None = None
    incident: Mapping[str, Any] | None = None
    state: str = "PENDING"
    key_id: str | None = None
    arrival_number: int = 0
    has_factory: bool = False
    job_name: str | None = None
    job_priority: str | None = None
    book_uuid: str | None = None
    book_name: str | None = None
    open_delays: int = 0
    created_at: int = 0
    changed_at: int = 0
    ended_at: int | None = None

    @property
    def version(self) -> Version:
        """The version of the flow's details."""
        return (self.created_at, self.epoch, self.commit_number, self.changed_at)
