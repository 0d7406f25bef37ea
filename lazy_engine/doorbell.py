# SPDX-License-Identifier: Apache-2.0
"""Doorbells: small jobs that tell conductors which flow to wake.

A doorbell carries uuids and never results. It keeps name, priority and
logbook of the job that first brought the flow, so that whoever filters jobs
by them sees the flow's later ones too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from taskflow import exceptions as taskflow_exceptions
from taskflow.jobs import base as jobs_base
from taskflow.persistence import models

from lazy_engine import errors
from lazy_engine.ledger import record as r

if TYPE_CHECKING:
    from lazy_engine.board import Board
    from lazy_engine.ledger import Ledger

LOG = logging.getLogger(__name__)


class PostedBook(models.LogBook):  # type: ignore[misc]  # TaskFlow has no types
    """A logbook as a job in the poster's own process carries it.

    Boards hand the very object that was posted to conductors of the same
    process, which look for the flow in it; it is read when they do.
    """

    def __init__(self, flow: r.FlowRecord, ledger: Ledger) -> None:
        super().__init__(flow.book_name or "", uuid=flow.book_uuid)
        self._flow_uuid = flow.flow_uuid
        self._ledger = ledger

    def find(self, flow_uuid: str) -> models.FlowDetail | None:
        """Return the doorbell's flow as it is stored now."""
        return self._ledger.detail(flow_uuid) if flow_uuid == self._flow_uuid else None

    def __iter__(self) -> Iterator[models.FlowDetail]:
        found = self.find(self._flow_uuid)
        return iter(() if found is None else (found,))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def connect(board: Board) -> None:
    """Connect a job board.

    :raises taskflow.exceptions.JobFailure: its server does not answer, or
        refuses to tell its version.
    """
    try:
        board.connect()
    except taskflow_exceptions.JobFailure as error:
        what = str(error).partition("\n")[0]  # the others are its causes
        if "4lw.commands.whitelist" in what:
            raise
        raise taskflow_exceptions.JobFailure(
            f"{what} (job board '{board.name}'): is its server up, and is the address right?",
            error,
        ) from error


def ring(board: Board, flow: r.FlowRecord, ledger: Ledger) -> None:
    """Post a doorbell for a flow.

    :raises taskflow.exceptions.JobFailure: the board did not take it (or its
        answer was lost; a second doorbell does no harm), or is not connected. Nothing
        else: what it is rung for is durable by now, and must not look undone.
    """
    book = None
    if flow.book_uuid is not None:
        book = PostedBook(flow, ledger)
    try:
        board.post(
            flow.job_name or flow.flow_name,
            book=book,
            details={"flow_uuid": flow.flow_uuid},
            priority=flow.job_priority or jobs_base.JobPriority.NORMAL,
        )
    except taskflow_exceptions.TaskFlowException:
        raise
    except Exception as error:
        # A board of a kind that is not known here raises what it likes.
        raise taskflow_exceptions.JobFailure(
            f"job board '{board.name}' failed: {type(error).__name__}: {error}", error
        ) from error


def unring(flow_uuid: str, ledger: Ledger) -> None:
    """Note that a flow's doorbell was not posted; what was recorded before holds in any case."""
    try:
        ledger.unring(flow_uuid)
    except errors.StoreUnavailable as error:
        # The caller is to be told what was recorded. The watchdog rings when
        # nobody has answered the doorbell for a while.
        LOG.warning("flow %s counts as rung for, and is not: %s", flow_uuid, error)
