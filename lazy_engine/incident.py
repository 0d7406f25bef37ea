# SPDX-License-Identifier: Apache-2.0
"""Incidents: resumes that failed for a reason that is not the flow's own.

An incident is written on the flow itself, before anybody gives the flow's job
away, so that the flow can always be found again. It is tried again ever less
often, and after a while no more by itself: then a person has to look.
"""

from __future__ import annotations

from typing import Final

#: The flow was stored without a factory, and nobody brought the flow itself.
NO_FACTORY: Final = "no factory"
#: The factory cannot be imported, or raises.
FACTORY_FAILED: Final = "factory failed"
#: The code has changed where the flow had begun; see :mod:`lazy_engine.shape`.
CODE_CHANGED: Final = "code changed"
#: The code cannot be compiled, or its tasks lack values that nothing provides.
CODE_BROKEN: Final = "code broken"
#: What is stored of the flow cannot be read.
STORE_CORRUPT: Final = "store corrupt"
#: The key that signs the flow's tokens is not there any more.
KEY_GONE: Final = "key gone"

#: Trying again cannot mend these: somebody has to bring something.
_HOPELESS: Final = frozenset((NO_FACTORY,))

#: Pause after the first failure; it doubles with each further one.
FIRST_PAUSE_SECONDS: Final = 10.0
LONGEST_PAUSE_SECONDS: Final = 3600.0
#: After so many failures in a row the flow is left for a person: with these
#: pauses, some eight hours after the first one.
MOST_TRIES: Final = 16


def next_try_at(kind: str, count: int, now: int) -> int | None:
    """Return when a flow is to be tried again, or ``None`` if it is left for a person.

    :param count: how often in a row it has failed.
    """
    if kind in _HOPELESS or count >= MOST_TRIES:
        return None
    seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (count - 1))
    return now + int(seconds * 1e6)


def words(flow_uuid: str, what: str, error: BaseException) -> str:
    """Return the message of an incident that some error is the cause of."""
    return (
        f"flow {flow_uuid} {what}: {type(error).__name__}: {error}; the flow is kept as it is:"
        f" mend that, then Client.resume() or 'lazy-engine resume {flow_uuid}'"
    )
