# SPDX-License-Identifier: Apache-2.0
"""What Prometheus asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import Response

from lazy_engine.http.operation import require_right
from lazy_engine.http.permission import Keys
from lazy_engine.http.pool import Pool

if TYPE_CHECKING:
    from lazy_engine.metrics import Metrics

PATH = "/metrics"


def add_metrics(app: FastAPI, pool: Pool, metrics: Metrics, keys: Keys) -> None:
    """Answer at ``/metrics`` to whoever may look.

    :param pool: of its own, so that a store that does not answer keeps no
        operator waiting behind a scraper.
    """

    # No part of the description: it is no JSON, and named by others.
    @app.get(PATH, include_in_schema=False)
    async def tell(request: Request) -> Response:
        require_right(keys, request)
        content_type, body = await pool.run(metrics.render, request.headers.get("accept"))
        headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
        return Response(body, headers=headers)
