# SPDX-License-Identifier: Apache-2.0
"""Routes whose JSON is read strictly."""

from __future__ import annotations

import typing
from collections.abc import Callable, Coroutine
from typing import Any

import pydantic
from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
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


def direct_route(guard: Callable[[Request], Coroutine[Any, Any, None]]) -> type[StrictRoute]:
    """Return routes that are described like any other, and asked without FastAPI's detour.

    Solving dependencies takes FastAPI (0.165) as long as all else that an answer to a
    delay takes here. For endpoints ``(request, token, sent)``, whose ``sent`` is a model of
    :mod:`lazy_engine.http.wire`; checks, their order and refusals are FastAPI's.

    :param guard: is awaited when the body has been read, and before it is checked.
    """

    class DirectRoute(StrictRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            endpoint: Any = self.endpoint
            model: type[pydantic.BaseModel] = typing.get_type_hints(endpoint)["sent"]

            async def handle(given: Request) -> Response:
                request = _StrictRequest(given.scope, given.receive)
                value = await request.json() if await request.body() else None
                await guard(request)
                answer: Response = await endpoint(
                    request, request.path_params["token"], _checked(model, value)
                )
                return answer

            return handle

    return DirectRoute


def _checked(model: type[pydantic.BaseModel], value: object) -> pydantic.BaseModel:
    if value is None:
        raise RequestValidationError([{"loc": ("body",), "msg": "Field required"}])
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        mistakes = [
            {"loc": ("body", *each["loc"]), "msg": each["msg"]}
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise RequestValidationError(mistakes) from None
