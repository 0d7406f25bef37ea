# SPDX-License-Identifier: Apache-2.0
"""The shapes of what goes over the wire, and how it is written."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import pydantic
from pydantic.json_schema import SkipJsonSchema
from starlette.responses import JSONResponse

from lazy_engine import outcome, token
from lazy_engine.http.limit import MAX_BATCH
from lazy_engine.receipt import Disposition
from lazy_engine.view import FlowSummary, OpenDelay

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Kind = Annotated[str, pydantic.Field(min_length=1, max_length=outcome.MAX_KIND_LENGTH)]


class _Sent(pydantic.BaseModel):
    # A misspelt name must not count as left out.
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class SentResult(_Sent):
    """A result."""

    result: Any


class SentFailure(_Sent):
    """A failure: what went wrong for people, its kind for retry controllers, and more about it."""

    error: str
    kind: _Kind | None = None
    details: Any = None


class SentHeartbeat(_Sent):
    """A sign of life."""

    progress: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    details: Any = None


class TokenAndResult(SentResult):
    """A result for the delay that a token names."""

    token: str


class TokenAndFailure(SentFailure):
    """A failure for the delay that a token names."""

    token: str


class SentBatch(_Sent):
    """Outcomes for many delays."""

    deliveries: Annotated[
        list[TokenAndResult | TokenAndFailure], pydantic.Field(min_length=1, max_length=MAX_BATCH)
    ]


class SentReason(_Sent):
    """Why, for people."""

    reason: str | None = None


# A query can leave a name out, and cannot say null.
_LeftOut = SkipJsonSchema[None]


class _Asked(pydantic.BaseModel):
    # Not strict: all that a query has is text.
    model_config = pydantic.ConfigDict(extra="forbid", hide_input_in_errors=True)

    after: Annotated[str | _LeftOut, pydantic.Field(description="``next`` of the page before")] = (
        None
    )
    limit: Annotated[int, pydantic.Field(ge=1, le=1000)] = 100


_SearchText = Annotated[
    str | _LeftOut,
    pydantic.Field(
        max_length=200,
        description="in names, uuids and details; a page that is shorter than its limit, or"
        " empty, may have a ``next`` then",
    ),
]


class FlowQuery(_Asked):
    """Which flows are listed."""

    state: (
        Literal["PENDING", "RUNNING", "DELAYED", "SUSPENDED", "SUCCESS", "FAILURE", "REVERTED"]
        | _LeftOut
    ) = None
    incidents: bool = False
    search: _SearchText = None


class DelayQuery(_Asked):
    """Which delays are listed, and in which order."""

    flow_uuid: str | _LeftOut = None
    task_name: str | _LeftOut = None
    order: Annotated[
        Literal["age", "due"],
        pydantic.Field(description="``due`` leaves out what no timer waits for"),
    ] = "age"
    overdue: Annotated[bool, pydantic.Field(description="only those past their deadline")] = False
    search: _SearchText = None


class FlowWatch(pydantic.BaseModel):
    """What is listened for beside the summary."""

    model_config = pydantic.ConfigDict(extra="forbid", hide_input_in_errors=True)

    flow_uuid: str | _LeftOut = None


class ReceiptAnswer(pydantic.BaseModel):
    """What became of a delivery; durable by the time it is read."""

    disposition: Disposition
    flow_uuid: str
    task_name: str
    attempt: int
    woken: bool


class HeartbeatAnswer(pydantic.BaseModel):
    """Whether the outside is to stop its work."""

    cancelled: bool


class Problem(pydantic.BaseModel):
    """Why a request was refused: a word for programs and words for people."""

    error: str
    message: str


class BatchItem(pydantic.BaseModel):
    """What became of one delivery of a batch, as if it had come alone."""

    status: int
    receipt: ReceiptAnswer | None
    problem: Problem | None


class BatchAnswer(pydantic.BaseModel):
    """What became of each delivery, in the order in which they were sent."""

    receipts: list[BatchItem]


class FlowPage(pydantic.BaseModel):
    """Flows; ``next`` is for ``?after=``, and null on the last page."""

    flows: Sequence[FlowSummary]
    next: str | None


class DelayPage(pydantic.BaseModel):
    """Delays; ``next`` is for ``?after=``, and null on the last page."""

    delays: Sequence[OpenDelay]
    next: str | None
    flow_names: Mapping[str, str]


class KeyAnswer(pydantic.BaseModel):
    """What a key allows; without ``may_act`` it is for looking only."""

    may_act: bool


class Suspended(pydantic.BaseModel):
    """Whether the flow rests, or will as soon as what runs has finished: not if it is over, or called off."""

    flow_uuid: str
    suspended: bool


class Woken(pydantic.BaseModel):
    """Whether somebody is about to run the flow on."""

    flow_uuid: str
    woken: bool


class Cancelled(pydantic.BaseModel):
    """Whether this call cancelled the flow; false if it was over, or cancelled, before."""

    flow_uuid: str
    cancelled: bool


class IssuedToken(pydantic.BaseModel):
    """A secret: whoever has it can answer that delay."""

    flow_uuid: str
    task_name: str
    token: str


def document(shown: DataclassInstance) -> dict[str, Any]:
    """Return what is shown of a flow or a delay as a dictionary."""
    return dataclasses.asdict(shown)


class Answer(JSONResponse):
    """A JSON answer that no cache keeps.

    Written in ASCII: names and details may hold halves of characters, which
    UTF-8 cannot write. What is not JSON (a result in a store of Python
    objects) is shown as text, and tokens that stand in it are masked.

    :param is_secret: the answer *is* a token.
    """

    def __init__(
        self,
        content: Any,
        status_code: int = 200,
        headers: dict[str, str] | None = None,
        *,
        is_secret: bool = False,
    ) -> None:
        self._is_secret = is_secret
        super().__init__(content, status_code, {**DATA_HEADERS, **(headers or {})})

    def render(self, content: object) -> bytes:
        return (_write(content) if self._is_secret else text_of(content)).encode("ascii")


#: Of everything that is data: no cache keeps it, and nobody takes it for a page.
DATA_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def text_of(content: object) -> str:
    """Return content as JSON on one line, in ASCII, without tokens."""
    return token.mask(_write(content))


def _write(content: object) -> str:
    try:
        return json.dumps(content, default=_stand_in, allow_nan=False)
    except (ValueError, TypeError):
        return json.dumps(_plain(content))


def _stand_in(value: object) -> object:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value.value if isinstance(value, enum.Enum) else str(value)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(_stand_in(value)) if not isinstance(value, float) or value - value else value
