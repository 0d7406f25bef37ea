# SPDX-License-Identifier: Apache-2.0
"""Routes whose JSON is read strictly."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from lazy_engine import strict_json


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return strict_json.read(await self.body())
        except ValueError as error:
            # The only error that FastAPI passes on from here as it is.
            raise HTTPException(422, f"the body cannot be read: {error}") from None


class StrictRoute(APIRoute):
    """A route that reads its body by :mod:`lazy_engine.strict_json`.

    FastAPI (0.115) offers no other place for that: by itself it calls
    ``Request.json``, which takes NaN and names that come twice.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly
