# SPDX-License-Identifier: Apache-2.0
"""Whether the flow's code still fits what is stored of the flow."""

from __future__ import annotations

import logging
from typing import Any

from lazy_engine import errors, incident, shape
from lazy_engine.engine.storage import LazyStorage

LOG = logging.getLogger(__name__)


def ensure(storage: LazyStorage, found: shape.Shape, *, starts_over: bool) -> None:
    """Compare the code with the flow, and let the next commit store the code's shape.

    A change that touches nothing that has begun is logged and noted with the
    flow. Costs nothing to speak of while the code stays as it is.

    :param starts_over: the flow begins anew, so that nothing has begun.
    :raises FlowIncident: the code has changed where it must not have.
    """
    if found.is_stored_in(storage.flow_meta):
        return
    stored = storage.stored_atoms()
    drift = shape.compare(found, stored) if stored and not starts_over else shape.Drift()
    if drift.harmful:
        raise errors.FlowIncident(
            f"flow {storage.flow_uuid} cannot be resumed by this code:"
            f" {shape.sentence(drift.harmful)}; give finished and waiting tasks their places"
            " back, then resume",
            kind=incident.CODE_CHANGED,
            flow_uuid=storage.flow_uuid,
        )
    note: dict[str, Any] = {}
    if drift:
        LOG.warning("the code of flow %s has changed: %s", storage.flow_uuid, drift)
        note[shape.META_DRIFT] = drift.to_meta(storage.ledger.now())
    storage.adopt_shape(found, note)
