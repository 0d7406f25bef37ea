# SPDX-License-Identifier: Apache-2.0
"""Runs woken flows in this process, where there is no job board."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Mapping
from typing import Any, Final

from lazy_engine import doorbell, errors, ledger
from lazy_engine.client import Client

LOG = logging.getLogger(__name__)

WORKERS: Final = 4


class Resumer:
    """A job board of one process and its conductor in one: it is rung, and runs the flow.

    To a client it is a job board, so when it is rung is decided where it is
    for conductors: in the transaction that records an outcome. While an owner
    lives nobody rings, since that owner looks for outcomes in the transaction
    that would park; after that, the next outcome rings. What is rung for while
    the run before is still coming to its end is run once more. What a process
    that dies leaves in its queue, a watchdog rings for again.

    :param persistence: as :class:`~lazy_engine.Client` takes it.
    :param workers: how many flows run at the same time, at least 1.
    :ivar client: rings here; give it to whatever delivers.
    """

    name = "resumer"

    def __init__(self, persistence: Any, *, workers: int = WORKERS) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.client = Client(persistence, self)
        self._condition = threading.Condition()
        self._waiting: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._is_open = False
        self._workers = workers
        self._threads: list[threading.Thread] = []

    # -- what a client uses of a job board --------------------------------

    @property
    def connected(self) -> bool:
        """Whether doorbells are answered."""
        return self._is_open

    def post(
        self, name: str, book: Any = None, details: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Have a flow run soon, once however often it is rung for until then.

        :param details: ``{"flow_uuid": str}``, as a doorbell carries it.
        """
        flow_uuid = str((details or {})["flow_uuid"])
        with self._condition:
            if flow_uuid in self._running:
                self._again.add(flow_uuid)
            else:
                self._waiting[flow_uuid] = None
                self._condition.notify()

    # -- running ----------------------------------------------------------

    def start(self) -> None:
        """Begin to answer."""
        self._is_open = True
        self._threads = [
            threading.Thread(target=self._work, name=f"lazy-engine-resumer-{number}", daemon=True)
            for number in range(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what runs, until it parks or ends; leave the rest to whoever comes next."""
        with self._condition:
            self._is_open = False
            left = [*self._waiting, *self._again]
            self._waiting.clear()
            self._again.clear()
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []
        book = ledger.beside(self.client.backend)
        for flow_uuid in left:
            doorbell.unring(flow_uuid, book)

    def __enter__(self) -> Resumer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _work(self) -> None:
        while (flow_uuid := self._next()) is not None:
            try:
                self._run(flow_uuid)
            finally:
                self._done(flow_uuid)

    def _next(self) -> str | None:
        with self._condition:
            while self._is_open and not self._waiting:
                self._condition.wait()
            if not self._is_open:
                return None
            flow_uuid, _ = self._waiting.popitem(last=False)
            self._running.add(flow_uuid)
            return flow_uuid

    def _done(self, flow_uuid: str) -> None:
        with self._condition:
            self._running.discard(flow_uuid)
            if flow_uuid in self._again:
                self._again.discard(flow_uuid)
                self._waiting[flow_uuid] = None
                self._condition.notify()

    def _run(self, flow_uuid: str) -> None:
        try:
            state = self.client.run_on(flow_uuid)
        except errors.FlowIncident as error:
            # It is written on the flow, with the time of the next try.
            LOG.warning("flow %s could not be run: %s", flow_uuid, error)
        except Exception:
            # The thread must live: other flows are woken too. The flow is
            # still due, and the watchdog rings again.
            LOG.exception("flow %s was woken and could not be run", flow_uuid)
        else:
            LOG.info("flow %s was woken and is %s", flow_uuid, state)
