# SPDX-License-Identifier: Apache-2.0
"""For tests of one's own flows: kill a process at each of its durable writes.

See the guide "Test that your flow survives crashes".
"""

from lazy_engine.testing.crash import CrashPoint, CrashReport, CrashTest, Crew
from lazy_engine.testing.site import Site
from lazy_engine.testing.watched import WatchedClient
from lazy_engine.testing.write import WatchedKazooClient, WriteTap

__all__ = [
    "CrashPoint",
    "CrashReport",
    "CrashTest",
    "Crew",
    "Site",
    "WatchedClient",
    "WatchedKazooClient",
    "WriteTap",
]
