# SPDX-License-Identifier: Apache-2.0
"""For tests of one's own flows: kill a process beside each of its durable writes.

A *scenario* is a function that does what a caller of the engine does, from
submitting a flow to its end. :class:`CrashTest` has it told by a process that
is killed just before, or just after, one of its writes; has another process
tell it again, from the beginning; and says what went wrong. It does so for
every write.
"""

from lazy_engine.testing.crash import CrashPoint, CrashReport, CrashTest, Crew, Scenario
from lazy_engine.testing.site import Site
from lazy_engine.testing.watched import WatchedClient

__all__ = [
    "CrashPoint",
    "CrashReport",
    "CrashTest",
    "Crew",
    "Scenario",
    "Site",
    "WatchedClient",
]
