# SPDX-License-Identifier: Apache-2.0
"""The endpoints for operators, who have a key."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from lazy_engine import Client, errors, view
from lazy_engine.http import wire
from lazy_engine.http.answer import Refusal, Word
from lazy_engine.http.body import StrictRoute
from lazy_engine.http.permission import Keys, Right
from lazy_engine.http.pool import Pool
from lazy_engine.http.wire import Answer
from lazy_engine.ledger import record as r
from lazy_engine.overview import Overview, Search
from lazy_engine.view import FlowView

#: Says who had a token issued, at INFO.
AUDIT_LOG = logging.getLogger("lazy_engine.http.audit")

_Listed = TypeVar("_Listed")
_Found: TypeAlias = tuple[Sequence[view.FlowSummary], str | None]
_Uuid = Annotated[str, Path(description="the flow's uuid")]
_bearer = HTTPBearer(auto_error=False, description="an operator's API key")


def make_router(client: Client, pool: Pool, keys: Keys) -> APIRouter:
    """Return the operators' endpoints."""
    router = guarded_router(keys)
    _add_key(router, keys)
    _add_lists(router, client, pool)
    _add_wishes(router, client, pool)
    return router


def guarded_router(keys: Keys) -> APIRouter:
    """Return a router without endpoints yet; those that it gets need a key."""

    async def check_key(
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    ) -> None:
        require_right(keys, request)
        if len(request.query_params.multi_items()) != len(request.query_params):
            raise Refusal(Word.INVALID, "a name comes twice in the query")

    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": wire.Problem} for status in (401, 403, 408, 413, 415, 422, 503)
    }
    return APIRouter(
        prefix="/v1",
        route_class=StrictRoute,
        dependencies=[Depends(check_key)],
        responses=problems,
        tags=["operation"],
    )


def require_right(keys: Keys, request: Request) -> None:
    """Refuse whoever may not do what is asked for.

    The method says what that is: what is got is looked at, and all else acts.
    """
    right = keys.right_of(request.headers.get("authorization"))
    if right is Right.NONE:
        raise Refusal(Word.UNAUTHORIZED, "this needs an API key: Authorization: Bearer KEY")
    if right < (Right.LOOK if request.method == "GET" else Right.ACT):
        raise Refusal(Word.FORBIDDEN, "this key is for looking only; nothing was done")


def _add_key(router: APIRouter, keys: Keys) -> None:
    @router.get("/key", response_model=wire.KeyAnswer)
    async def key(request: Request) -> Answer:
        """Tell what the key that was sent allows, so that nobody is offered more."""
        right = keys.right_of(request.headers.get("authorization"))
        return Answer({"may_act": right >= Right.ACT})


def _add_lists(router: APIRouter, client: Client, pool: Pool) -> None:
    overview = Overview(client.backend)

    @router.get("/flows", response_model=wire.FlowPage)
    async def flows(asked: Annotated[wire.FlowQuery, Query()]) -> Answer:
        """List flows: those that could not be run first, then the newest."""
        found, after = await _listed(pool.run(_find_flows, overview, asked))
        return Answer({"flows": _documents(found), "next": after})

    @router.get("/delays", response_model=wire.DelayPage)
    async def delays(asked: Annotated[wire.DelayQuery, Query()]) -> Answer:
        """List what waits for an answer, oldest first, or what is due soonest first."""
        found, after, names = await _listed(pool.run(_find_delays, overview, asked))
        return Answer({"delays": _documents(found), "next": after, "flow_names": names})

    @router.get("/flows/{uuid}", response_model=FlowView, responses=_UNKNOWN)
    async def flow(uuid: _Uuid) -> Answer:
        """Show one flow."""
        return Answer(wire.document(await pool.run(client.flow, uuid)))


def _add_wishes(router: APIRouter, client: Client, pool: Pool) -> None:
    @router.post("/flows/{uuid}/suspend", response_model=wire.Suspended, responses=_UNKNOWN)
    async def suspend(uuid: _Uuid, sent: wire.SentReason | None = None) -> Answer:
        """Have a flow rest until it is resumed; outcomes are kept."""
        is_asked = await pool.run(client.suspend, uuid, sent.reason if sent else None)
        return Answer({"flow_uuid": uuid, "suspended": is_asked})

    @router.post("/flows/{uuid}/resume", response_model=wire.Woken, responses=_UNKNOWN)
    async def resume(uuid: _Uuid) -> Answer:
        """End a flow's suspension and have it run on; safe to repeat."""
        return Answer({"flow_uuid": uuid, "woken": await pool.run(client.wake, uuid)})

    @router.post("/flows/{uuid}/cancel", response_model=wire.Cancelled, responses=_UNKNOWN)
    async def cancel(uuid: _Uuid, sent: wire.SentReason | None = None) -> Answer:
        """Call a flow off: revert all it has done."""
        is_new = await pool.run(client.cancel, uuid, (sent and sent.reason) or "")
        return Answer({"flow_uuid": uuid, "cancelled": is_new})

    @router.post(
        "/flows/{uuid}/tasks/{name}/token", response_model=wire.IssuedToken, responses=_UNKNOWN
    )
    async def issue_token(request: Request, uuid: _Uuid, name: str) -> Answer:
        """Issue the token of a task that waits again; this is logged."""
        try:
            token = await pool.run(client.token, uuid, name)
        except errors.UnknownDelay as error:
            raise Refusal(Word.NOT_FOUND, str(error)) from None
        host = request.client.host if request.client else "-"
        AUDIT_LOG.info("token of task %r of flow %r issued to %s", name, uuid, host)
        document = {"flow_uuid": uuid, "task_name": name, "token": token}
        return Answer(document, is_secret=True)


_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": wire.Problem}}


def _documents(found: Sequence[view.FlowSummary | view.OpenDelay]) -> list[dict[str, Any]]:
    return [wire.document(each) for each in found]


def _find_flows(overview: Overview, asked: wire.FlowQuery) -> _Found:
    page = r.FlowPage(
        state=asked.state,
        only_incidents=asked.incidents,
        after=view.read_flow_place(asked.after) if asked.after else None,
        limit=asked.limit,
    )
    return overview.find_flows(page, Search(text=asked.search or ""))


def _find_delays(
    overview: Overview, asked: wire.DelayQuery
) -> tuple[Sequence[view.OpenDelay], str | None, Mapping[str, str]]:
    page = r.Page(
        flow_uuid=asked.flow_uuid,
        task_name=asked.task_name,
        after=view.read_place(asked.after) if asked.after else None,
        limit=asked.limit,
        order=asked.order,
    )
    search = Search(text=asked.search or "", is_overdue=asked.overdue)
    found, after = overview.find_delays(page, search)
    return found, after, overview.names(found)


async def _listed(call: Awaitable[_Listed]) -> _Listed:
    try:
        return await call
    except ValueError:
        raise Refusal(Word.INVALID, "after= takes the 'next' of a page of the same list") from None
