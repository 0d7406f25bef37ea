# SPDX-License-Identifier: Apache-2.0
"""The endpoints for whoever has a token."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import APIRouter, Depends, Path, Request

from lazy_engine import Client, Failed, Receipt, Result
from lazy_engine.http import answer, wire
from lazy_engine.http.answer import Refusal, Word
from lazy_engine.http.body import StrictRoute, direct_route
from lazy_engine.http.gathering import Gathering
from lazy_engine.http.permission import Signature
from lazy_engine.http.pool import Pool
from lazy_engine.http.wire import Answer

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Token = Annotated[
    str, Path(description="what the task handed out; a secret, and the permission to answer")
]


def make_router(
    client: Client, pool: Pool, gathering: Gathering, signature: Signature | None
) -> APIRouter:
    """Return the endpoints that deliver.

    :param signature: what callers sign with beside their token, or ``None``.
    """

    async def check_signature(request: Request) -> None:
        if signature is None:
            return
        named = request.path_params.get("token", "")
        if not signature.allows(request.headers, named, await request.body()):
            raise Refusal(Word.UNAUTHORIZED, "the signature is missing, wrong or too old")

    router = APIRouter(
        prefix="/v1",
        route_class=StrictRoute,
        dependencies=[Depends(check_signature)],
        responses=_problems(401 if signature else 408, 408, 413, 415, 422, 503),
        tags=["delivery"],
    )
    _add_single(router, client, pool, gathering, direct_route(check_signature))
    _add_batch(router, client, pool)
    return router


def _add_single(
    router: APIRouter,
    client: Client,
    pool: Pool,
    gathering: Gathering,
    direct: type[StrictRoute],
) -> None:
    async def deliver(
        request: Request, token: str, outcome: Result | Failed, alone: Callable[[], Receipt]
    ) -> Receipt:
        joined = _joined(request, client, alone)
        if joined is not alone:
            # It takes part in a trace of its own, which those beside it do not.
            return await pool.run(joined)
        return await gathering.deliver(token, outcome, alone)

    receipts: dict[int | str, dict[str, Any]] = {
        409: {"model": wire.ReceiptAnswer, "description": "another outcome was recorded before"},
        410: {"model": wire.ReceiptAnswer, "description": "the delay is closed"},
        **_problems(404),
    }

    async def complete(request: Request, token: _Token, sent: wire.SentResult) -> Answer:
        """Deliver a result; durable before the answer comes."""
        alone = functools.partial(client.complete, token, sent.result)
        return answer.give(await deliver(request, token, Result(sent.result), alone))

    async def fail(request: Request, token: _Token, sent: wire.SentFailure) -> Answer:
        """Deliver a failure; durable before the answer comes."""
        told = {"kind": sent.kind, "details": sent.details}
        alone = functools.partial(client.fail, token, sent.error, **told)
        return answer.give(await deliver(request, token, Failed(sent.error, **told), alone))

    for verb, endpoint in (("complete", complete), ("fail", fail)):
        router.add_api_route(
            f"/tokens/{{token}}/{verb}",
            endpoint,
            methods=["POST"],
            response_model=wire.ReceiptAnswer,
            responses=receipts,
            route_class_override=direct,
        )

    @router.post(
        "/tokens/{token}/heartbeat",
        response_model=wire.HeartbeatAnswer,
        responses=_problems(404),
    )
    async def heartbeat(token: _Token, sent: wire.SentHeartbeat | None = None) -> Answer:
        """Say that the work goes on; hear whether it still should."""
        beat = sent or wire.SentHeartbeat()
        call = pool.run(client.heartbeat, token, progress=beat.progress, details=beat.details)
        return Answer({"cancelled": (await call).cancelled})


def _add_batch(router: APIRouter, client: Client, pool: Pool) -> None:
    @router.post("/deliveries", response_model=wire.BatchAnswer)
    async def deliver_many(request: Request, sent: wire.SentBatch) -> Answer:
        """Deliver many outcomes; a bad one does not touch the others."""
        items = [(item.token, _outcome(item)) for item in sent.deliveries]
        results = await pool.run(_joined(request, client, client.deliver_many), items)
        return Answer({"receipts": [answer.give_item(result) for result in results]})


def _joined(request: Request, client: Client, call: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return a call that takes part in the trace that its caller names, if anybody traces."""
    return client.observer.joined(request.headers.get("traceparent"), call)


def _outcome(item: wire.TokenAndResult | wire.TokenAndFailure) -> Result | Failed:
    if isinstance(item, wire.TokenAndResult):
        return Result(item.result)
    return Failed(item.error, kind=item.kind, details=item.details)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": wire.Problem} for status in statuses}
