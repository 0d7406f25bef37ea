# SPDX-License-Identifier: Apache-2.0
"""Ways of looking at stored flows without running or writing anything."""

from __future__ import annotations

from typing import Any

from lazy_engine import errors, factory, host, shape, view
from lazy_engine.compiler import compile_flow
from lazy_engine.ledger.protocol import Ledger


def drift(ledger: Ledger, flow_uuid: str, flow: Any) -> shape.Drift:
    """Compare a flow's code with what is stored; see ``Client.drift``.

    :param flow: the flow itself, or ``None`` to have its factory make it.
    """
    detail = ledger.detail(flow_uuid)
    if detail is None:
        raise view.unknown_flow(flow_uuid)
    try:
        code = factory.make(detail) if flow is None else flow
        compilation = compile_flow(code)
    except Exception as error:
        # Anybody's code; what it raises says why there is nothing to compare.
        raise errors.FlowIncident(
            f"the code of flow {flow_uuid} cannot be loaded: {type(error).__name__}: {error}",
            error,
            flow_uuid=flow_uuid,
        ) from error
    found = shape.read(compilation.execution_graph)
    stored = [
        shape.stored_atom(atom) for atom in detail if atom.name != host.HostStorage.injector_name
    ]
    if not stored or found.is_stored_in(detail.meta):
        return shape.Drift()
    return shape.compare(found, stored)
