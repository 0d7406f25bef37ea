# SPDX-License-Identifier: Apache-2.0
"""Where a scenario is told."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from kazoo import client as kazoo_client
from taskflow.persistence import backends

from lazy_engine import address
from lazy_engine.testing.journal import Journal
from lazy_engine.testing.watched import WatchedClient


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """What a scenario has at hand in one of its processes.

    :ivar persistence: address of the store.
    :ivar flow_uuid: the flow to submit; the same one in every life.
    :ivar directory: the outside world: what is written there survives crashes.
    :ivar life: 1 in the first process, one more after every crash.
    :ivar settings: what the test passed along.
    """

    persistence: str
    flow_uuid: str
    directory: pathlib.Path
    life: int
    settings: Mapping[str, Any]
    _leftovers: contextlib.ExitStack = dataclasses.field(
        default_factory=contextlib.ExitStack, repr=False
    )

    @property
    def journal(self) -> Journal:
        """What has happened so far, in this life and in those before."""
        return Journal(journal_path(self.directory))

    @functools.cached_property
    def client(self) -> WatchedClient:
        """A client without a job board; whatever it submits and delivers is noted."""
        # The store exists; to look for upgrades in every life takes its time.
        backend = backends.fetch(address.configuration(self.persistence))
        self.at_end(backend.close)
        return WatchedClient(backend, self.journal)

    def client_on(self, jobboard: Any) -> WatchedClient:
        """Return a client of the same store that rings on a job board."""
        return WatchedClient(self.client.backend, self.journal, jobboard)

    def zookeeper(self, hosts: str, **options: Any) -> Any:
        """Return a started ZooKeeper client, stopped when the scenario has been told.

        :param options: as for :class:`kazoo.client.KazooClient`.
        """
        client = kazoo_client.KazooClient(hosts=hosts, **options)
        client.start()
        self.at_end(client.close)
        self.at_end(client.stop)
        return client

    def at_end(self, callback: Callable[[], object]) -> None:
        """Call something when the scenario has been told to its end."""
        self._leftovers.callback(callback)

    def close(self) -> None:
        """Close what was opened here."""
        self._leftovers.close()


def journal_path(directory: pathlib.Path) -> pathlib.Path:
    """Return where the journal of a telling lies."""
    return directory / "journal.jsonl"
