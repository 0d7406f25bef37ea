# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's own conductor suite, on a real ZooKeeper.

Run with the ``lazy`` conductor; and with TaskFlow's own conductors, to which
flows with ``engine="lazy"`` are given.
"""

from __future__ import annotations

from typing import Any, ClassVar

from taskflow.conductors import backends
from taskflow.tests.unit import test_conductors


class LazyConductorTest(test_conductors.ManyConductorTest):
    scenarios = None
    kind = "lazy"
    conductor_kwargs: ClassVar[Any] = {"wait_timeout": 0.1}


class LazyConductorOneThreadTest(test_conductors.ManyConductorTest):
    scenarios = None
    kind = "lazy"
    conductor_kwargs: ClassVar[Any] = {
        "wait_timeout": 0.1,
        "executor_factory": lambda conductor: test_conductors.single_factory(),
    }


class BlockingConductorTest(test_conductors.ManyConductorTest):
    scenarios = None
    kind = "blocking"
    conductor_kwargs: ClassVar[Any] = {"wait_timeout": 0.1, "engine": "lazy"}


class NonblockingConductorTest(test_conductors.ManyConductorTest):
    scenarios = None
    kind = "nonblocking"
    conductor_kwargs: ClassVar[Any] = {"wait_timeout": 0.1, "engine": "lazy"}


class LazyArgumentsTest(test_conductors.NonBlockingExecutorTest):
    """The same bad arguments, given to the lazy conductor."""

    def setUp(self) -> None:
        super().setUp()
        fetch = backends.fetch
        self.addCleanup(setattr, backends, "fetch", fetch)
        backends.fetch = lambda _kind, *args, **kwargs: fetch("lazy", *args, **kwargs)
