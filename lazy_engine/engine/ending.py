# SPDX-License-Identifier: Apache-2.0
"""What the caller of a run is raised, or told, at its end."""

from __future__ import annotations

import itertools
import logging
from typing import NoReturn

from lazy_engine import errors, host
from lazy_engine.engine.storage import LazyStorage
from lazy_engine.ledger import record as r

LOG = logging.getLogger(__name__)


def raise_cancelled(record: r.FlowRecord | None, flow_uuid: str) -> NoReturn:
    """Raise that a flow was called off, and why.

    :raises FlowCancelled: always.
    """
    reason = record.wish_reason if record is not None else None
    raise errors.FlowCancelled(
        f"flow {flow_uuid} was cancelled and has been reverted" + (f": {reason}" if reason else ""),
        flow_uuid=flow_uuid,
    )


def raise_failures(storage: LazyStorage) -> None:
    """Raise what tasks have failed with, as TaskFlow's engines do; nothing if none has."""
    found = itertools.chain(
        storage.get_execute_failures().values(),
        storage.get_revert_failures().values(),
    )
    host.Failure.reraise_if_any(found)


def warn_of_unwakeable(storage: LazyStorage) -> None:
    """Warn of a flow that waits, and that nobody but its caller can run on."""
    if storage.ledger.guarantees.is_shared and "factory" not in (storage.flow_meta or {}):
        LOG.warning(
            "flow %s waits and has no factory: nobody can wake it, resume it with"
            " Client.resume(uuid, flow=...)",
            storage.flow_uuid,
        )
