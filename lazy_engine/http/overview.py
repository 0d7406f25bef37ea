# SPDX-License-Identifier: Apache-2.0
"""The endpoints that the page is made of, for operators."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final

import pydantic
from fastapi import APIRouter, Header, Path, Query
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lazy_engine import Client, errors, picture
from lazy_engine import overview as overview_module
from lazy_engine.http import answer, wire
from lazy_engine.http.answer import Refusal, Word
from lazy_engine.http.event import Watch, is_stopping
from lazy_engine.http.limit import Limits
from lazy_engine.http.operation import AUDIT_LOG, guarded_router
from lazy_engine.http.permission import Keys
from lazy_engine.http.pool import Pool
from lazy_engine.http.wire import Answer
from lazy_engine.receipt import Receipt

_Uuid = Annotated[str, Path(description="the flow's uuid")]
_DelayId = Annotated[str, Path(description="``id`` of a delay in a list")]
_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {404: {"model": wire.Problem}}
_RECEIPTS: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": wire.Problem, "description": "it does not wait (any more)"},
    409: {"model": wire.ReceiptAnswer, "description": "another outcome was recorded before"},
    410: {"model": wire.ReceiptAnswer, "description": "the delay is closed"},
}
_STREAM_HEADERS: Final = {
    **wire.DATA_HEADERS,
    # nginx would keep events back until it has some kilobytes of them.
    "X-Accel-Buffering": "no",
}


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class SummaryAnswer(overview_module.Summary):
    """What waits, and what went wrong; ``now`` is the store's time."""

    now: datetime.datetime


def make_router(client: Client, pool: Pool, keys: Keys, limits: Limits) -> APIRouter:
    """Return the endpoints that see a whole store, draw a flow, and answer by hand."""
    router = guarded_router(keys)
    overview = overview_module.Overview(client.backend)
    _add_views(router, overview, pool)
    _add_events(router, Watch(overview, pool, limits))
    _add_answers(router, client, overview, pool)
    return router


def _add_views(router: APIRouter, overview: overview_module.Overview, pool: Pool) -> None:
    def read_summary() -> dict[str, Any]:
        return {**dataclasses.asdict(overview.summary()), "now": overview.now()}

    @router.get("/summary", response_model=SummaryAnswer)
    async def summary() -> Answer:
        """Show what waits and what went wrong in the whole store."""
        return Answer(await pool.run(read_summary))

    @router.get("/flows/{uuid}/picture", response_model=picture.Picture, responses=_UNKNOWN)
    async def draw(uuid: _Uuid) -> Answer:
        """Show one flow as a graph, with its tasks and receipts; long texts are cut."""
        return Answer(wire.document(await pool.run(overview.picture, uuid)))


def _add_events(router: APIRouter, watch: Watch) -> None:
    # Not described: OpenAPI has no words for a stream.
    @router.get("/events", include_in_schema=False)
    async def events(
        request: Request,
        asked: Annotated[wire.FlowWatch, Query()],
        last_event_id: Annotated[str, Header(max_length=100)] = "",
    ) -> StreamingResponse:
        """Tell of changes as they come (server-sent events)."""
        listener = watch.enter(asked.flow_uuid)

        told = watch.events(listener, last_event_id, lambda: is_stopping(request.scope))
        return _Stream(told, lambda: watch.leave(listener))


class _Stream(StreamingResponse):
    """Events; whatever becomes of them, the listener leaves.

    A generator that was never begun would not tell: its client may be gone before.
    """

    def __init__(self, events: AsyncIterator[bytes], leave: Callable[[], object]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_STREAM_HEADERS)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


def _add_answers(
    router: APIRouter, client: Client, overview: overview_module.Overview, pool: Pool
) -> None:
    def token_of(uuid: str, delay_id: str) -> tuple[str, str]:
        try:
            return overview.token_of(uuid, delay_id)
        except errors.UnknownDelay as error:
            raise Refusal(Word.NOT_FOUND, str(error)) from None

    def note(request: Request, uuid: str, receipt: Receipt) -> Answer:
        AUDIT_LOG.info(
            "task %r of flow %r answered by hand from %s: %s",
            receipt.task_name,
            uuid,
            _host(request),
            receipt.disposition.value,
        )
        return answer.give(receipt)

    @router.post(
        "/flows/{uuid}/delays/{delay_id}/complete",
        response_model=wire.ReceiptAnswer,
        responses=_RECEIPTS,
    )
    async def complete(
        request: Request, uuid: _Uuid, delay_id: _DelayId, sent: wire.SentResult
    ) -> Answer:
        """Answer a delay by hand with a result; this is logged."""
        _, token = await pool.run(token_of, uuid, delay_id)
        return note(request, uuid, await pool.run(client.complete, token, sent.result))

    @router.post(
        "/flows/{uuid}/delays/{delay_id}/fail",
        response_model=wire.ReceiptAnswer,
        responses=_RECEIPTS,
    )
    async def fail(
        request: Request, uuid: _Uuid, delay_id: _DelayId, sent: wire.SentFailure
    ) -> Answer:
        """Answer a delay by hand with a failure; this is logged."""
        _, token = await pool.run(token_of, uuid, delay_id)
        call = pool.run(client.fail, token, sent.error, kind=sent.kind, details=sent.details)
        return note(request, uuid, await call)

    @router.post(
        "/flows/{uuid}/delays/{delay_id}/token",
        response_model=wire.IssuedToken,
        responses=_UNKNOWN,
    )
    async def issue_token(request: Request, uuid: _Uuid, delay_id: _DelayId) -> Answer:
        """Issue the token of a delay that waits again; this is logged."""
        name, token = await pool.run(token_of, uuid, delay_id)
        AUDIT_LOG.info("token of task %r of flow %r issued to %s", name, uuid, _host(request))
        document = {"flow_uuid": uuid, "task_name": name, "token": token}
        return Answer(document, is_secret=True)


def _host(request: Request) -> str:
    return request.client.host if request.client else "-"
