# SPDX-License-Identifier: Apache-2.0
"""What a ledger keeps, as frozen values.

Instants are microseconds since 1970 UTC (``int``), read from the store's own
clock where it has one. They are compared with each other in the store and
never with the clock of another host.
"""

from lazy_engine.ledger.record.call import (
    Beat,
    Cancelled,
    Delivered,
    DeliveredToFlow,
    Delivery,
    Submission,
    Tended,
    Woken,
)
from lazy_engine.ledger.record.delay import (
    CLOSED_CANCELLED,
    CLOSED_ENDED,
    CLOSED_NOT_DELAYED,
    CLOSED_RETRIED,
    DelayRecord,
)
from lazy_engine.ledger.record.flow import FORMAT, WISH_CANCEL, WISH_SUSPEND, FlowRecord, Version
from lazy_engine.ledger.record.ownership import (
    ATOM_COLUMNS,
    AtomChange,
    Changes,
    Committed,
    DelayClosing,
    DelayOpening,
    DelayProbing,
    Ending,
    Lease,
    Newcomer,
    Pulse,
    Refused,
    Taken,
)
from lazy_engine.ledger.record.page import (
    BY_AGE,
    BY_DUE,
    Census,
    FlowPage,
    OpenCount,
    Page,
    Tally,
    place_of,
    place_of_flow,
)

__all__ = [
    "ATOM_COLUMNS",
    "BY_AGE",
    "BY_DUE",
    "CLOSED_CANCELLED",
    "CLOSED_ENDED",
    "CLOSED_NOT_DELAYED",
    "CLOSED_RETRIED",
    "FORMAT",
    "WISH_CANCEL",
    "WISH_SUSPEND",
    "AtomChange",
    "Beat",
    "Cancelled",
    "Census",
    "Changes",
    "Committed",
    "DelayClosing",
    "DelayOpening",
    "DelayProbing",
    "DelayRecord",
    "Delivered",
    "DeliveredToFlow",
    "Delivery",
    "Ending",
    "FlowPage",
    "FlowRecord",
    "Lease",
    "Newcomer",
    "OpenCount",
    "Page",
    "Pulse",
    "Refused",
    "Submission",
    "Taken",
    "Tally",
    "Tended",
    "Version",
    "Woken",
    "place_of",
    "place_of_flow",
]
