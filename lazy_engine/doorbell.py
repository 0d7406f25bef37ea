# SPDX-License-Identifier: Apache-2.0
"""Doorbells: small jobs that tell conductors which flow to wake.

A doorbell carries uuids and never results. It keeps name, priority and
logbook of the job that first brought the flow, so that whoever filters jobs
by them sees the flow's later ones too.
"""

from __future__ import annotations

from typing import Any

from taskflow.jobs import base as jobs_base
from taskflow.persistence import models

from lazy_engine.ledger import record as r


def ring(board: Any, flow: r.FlowRecord) -> None:
    """Post a doorbell for a flow.

    :raises taskflow.exceptions.JobFailure: the board did not take it (or its
        answer was lost; a second doorbell does no harm).
    """
    book = None
    if flow.book_uuid is not None:
        # Only name and uuid of a logbook are posted; none is loaded for it.
        book = models.LogBook(flow.book_name or "", uuid=flow.book_uuid)
    board.post(
        flow.job_name or flow.flow_name,
        book=book,
        details={"flow_uuid": flow.flow_uuid},
        priority=flow.job_priority or jobs_base.JobPriority.NORMAL,
    )
