# SPDX-License-Identifier: Apache-2.0
"""The ASGI app."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from taskflow import exceptions as taskflow_exceptions

from lazy_engine import Client
from lazy_engine.http import answer, callback, operation, overview, page
from lazy_engine.http.answer import Refusal, Word
from lazy_engine.http.gate import Gate
from lazy_engine.http.gathering import Gathering
from lazy_engine.http.limit import Limits
from lazy_engine.http.measure import add_metrics
from lazy_engine.http.permission import Keys, Signature
from lazy_engine.http.pool import Overloaded, Pool
from lazy_engine.http.wire import Answer
from lazy_engine.token import mask

if TYPE_CHECKING:
    from lazy_engine.metrics import Metrics

LOG = logging.getLogger(__name__)

#: Mistakes that are told of in one answer.
_MAX_TOLD: Final = 5

_OF_STATUSES: Final = {
    404: (Word.NOT_FOUND, "there is nothing here"),
    405: (Word.NOT_ALLOWED, "not by this method"),
}


def make_app(
    client: Client,
    *,
    api_keys: Sequence[str] = (),
    read_keys: Sequence[str] = (),
    metrics: Metrics | None = None,
    signature: Signature | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """Return an ASGI app that answers delays over HTTP.

    Serve it by itself, or mount it into another app. It starts nothing that
    would have to be stopped.

    :param client: with a job board, what is delivered rings.
    :param api_keys: each opens the operators' endpoints, which are not there
        without any key; at least 16 characters.
    :param read_keys: the same for looking only.
    :param metrics: told at ``/metrics``, to whoever may look.
    :param signature: what callers must sign with beside their token.
    :param limits: bounds on what requests may take.
    :raises ValueError: a key or secret that can be guessed, or a key of both sorts.
    """
    limits = limits or Limits()
    app = FastAPI(
        title="lazy_engine",
        version=metadata.version("lazy_engine"),
        description="Answers what flows wait for; with a key, shows and steers them.",
        openapi_url="/v1/openapi.json",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Its own spans have whole paths in them, with tokens; older versions have none, and
        # keep what they do not know.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    pool = _pool(limits, limits.delivery_threads)
    gathering = Gathering(
        client,
        pool,
        threads=limits.delivery_threads,
        waiting=limits.waiting,
        waiting_seconds=limits.waiting_seconds,
    )
    app.include_router(callback.make_router(client, pool, gathering, signature))
    if api_keys or read_keys:
        keys = Keys(api_keys, read_keys)
        operators = _pool(limits, limits.operator_threads)
        app.include_router(operation.make_router(client, operators, keys))
        app.include_router(overview.make_router(client, operators, keys, limits))
        app.include_router(page.make_router())
        if metrics is not None:
            add_metrics(app, _pool(limits, 1), metrics, keys)
    for kind, handle in (
        (Refusal, _refuse),
        (Overloaded, _defer),
        (taskflow_exceptions.TaskFlowException, _refuse),
        (RequestValidationError, _tell_mistakes),
        (HTTPException, _reword),
    ):
        app.add_exception_handler(kind, handle)
    app.add_middleware(Gate, limits=limits)
    return app


def _pool(limits: Limits, threads: int) -> Pool:
    return Pool(threads=threads, waiting=limits.waiting, waiting_seconds=limits.waiting_seconds)


async def _refuse(_request: Request, error: Exception) -> Answer:
    refusal = answer.refusal_of(error)
    if refusal.word in (Word.UNAVAILABLE, Word.FAILED):
        text = "".join(traceback.format_exception(error))
        level = logging.WARNING if refusal.word is Word.UNAVAILABLE else logging.ERROR
        LOG.log(level, "a request failed: %s", mask(str(error)))
        LOG.debug("%s", mask(text))
    return answer.refuse(refusal)


async def _defer(_request: Request, _error: Exception) -> Answer:
    return answer.refuse(Refusal(Word.UNAVAILABLE, "too many requests wait; come again later"))


async def _tell_mistakes(_request: Request, error: Exception) -> Answer:
    # What was sent is not repeated: it may be secret.
    assert isinstance(error, RequestValidationError)
    mistakes = [
        f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
        for each in error.errors()[:_MAX_TOLD]
    ]
    return answer.refuse(Refusal(Word.INVALID, "; ".join(mistakes)))


async def _reword(_request: Request, error: Exception) -> Answer:
    assert isinstance(error, HTTPException)
    word, message = _OF_STATUSES.get(error.status_code, (Word.INVALID, str(error.detail)))
    return answer.refuse(Refusal(word, message, error.headers))
