# SPDX-License-Identifier: Apache-2.0
"""What every request passes first: bounds on its body, and the log."""

from __future__ import annotations

import asyncio
import email.message
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lazy_engine.http.answer import Refusal, Word, refusal_of, refuse
from lazy_engine.http.limit import Limits
from lazy_engine.token import mask

LOG = logging.getLogger(__name__)
#: One line for each request, at INFO; paths as the routes have them, so without tokens.
ACCESS_LOG = logging.getLogger("lazy_engine.http.access")

_WITH_BODY: Final = ("POST", "PUT", "PATCH", "DELETE")


class _Gone(Exception):
    """The client left before it had sent its request."""


class Gate:
    """Reads a request's whole body before anybody works on it.

    So a slow client holds a connection and nothing else, and a long body is
    refused as soon as it is too long. What goes wrong further in is logged
    here without tokens, and not by the server, which prints what it is given.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._let_in(scope, receive, note)
        except _Gone:
            pass
        except Exception as error:
            # Whoever asked is to have an answer, and uvicorn's log would have tokens in it.
            if not isinstance(error, Refusal):
                LOG.error("a request failed: %s", mask(traceback.format_exc()))
            if not status:
                await refuse(refusal_of(error))(scope, receive, note)
        finally:
            _log(scope, status, time.perf_counter() - begun)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._require_short(headers)
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await self._read(receive)
        except TimeoutError:
            raise Refusal(
                Word.TIMEOUT, f"the body did not come within {self._limits.body_seconds:g} seconds"
            ) from None
        if body and scope["method"] in _WITH_BODY:
            _require_json(headers)
        await self._app(scope, _replay(body, receive), send)

    def _require_short(self, headers: Headers) -> None:
        announced = headers.get("content-length", "0")
        if announced.isdigit() and int(announced[:20]) > self._limits.body_bytes:
            raise self._too_long()

    async def _read(self, receive: Receive) -> bytes:
        parts = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _Gone
            # Whatever was announced, what comes is counted.
            parts += message.get("body", b"")
            if len(parts) > self._limits.body_bytes:
                raise self._too_long()
            if not message.get("more_body", False):
                return bytes(parts)

    def _too_long(self) -> Refusal:
        return Refusal(
            Word.TOO_LARGE, f"a body may have {self._limits.body_bytes} bytes; nothing was recorded"
        )


def _require_json(headers: Headers) -> None:
    message = email.message.Message()
    message["content-type"] = headers.get("content-type", "")
    kind = message.get_content_type() if headers.get("content-type") else ""
    charset = str(message.get_param("charset", "utf-8"))
    encoding = headers.get("content-encoding", "identity")
    is_json = kind == "application/json" or (kind[:12] == "application/" and kind[-5:] == "+json")
    if not is_json or charset.lower() != "utf-8" or encoding.lower() != "identity":
        raise Refusal(
            Word.NOT_JSON, "the body must be plain JSON: Content-Type: application/json, in UTF-8"
        )


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    """Return a ``receive`` that gives a body that was read before, and then what comes."""
    left = [body]

    async def replay() -> MutableMapping[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replay


def _log(scope: Scope, status: int, seconds: float) -> None:
    # A path has a token in it; a route says where one stood. What no route
    # fits may have one as well.
    path = getattr(scope.get("route"), "path", "-")
    host = (scope.get("client") or ("-",))[0]
    what = str(status) if status else "gone"
    ACCESS_LOG.info("%s %s %s %s %.1f ms", host, scope["method"], path, what, seconds * 1000)
