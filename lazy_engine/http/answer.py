# SPDX-License-Identifier: Apache-2.0
"""Which status an answer has."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Final

from taskflow import exceptions as taskflow_exceptions

from lazy_engine import errors
from lazy_engine.http.wire import Answer
from lazy_engine.receipt import Disposition, Receipt
from lazy_engine.token import mask

#: After how many seconds whoever got 503 should come again.
RETRY_SECONDS: Final = 5

OF_DISPOSITIONS: Final[Mapping[Disposition, int]] = {
    Disposition.ACCEPTED: 200,
    Disposition.EARLY: 200,
    Disposition.DUPLICATE: 200,
    Disposition.CONFLICT: 409,
    Disposition.LATE: 410,
}


class Word(enum.StrEnum):
    """What a program is told that a request was refused for."""

    INVALID_TOKEN = "invalid_token"
    NOT_FOUND = "not_found"
    NOT_ALLOWED = "method_not_allowed"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


STATUSES: Final[Mapping[Word, int]] = {
    Word.UNAUTHORIZED: 401,
    Word.FORBIDDEN: 403,
    Word.INVALID_TOKEN: 404,
    Word.NOT_FOUND: 404,
    Word.NOT_ALLOWED: 405,
    Word.TIMEOUT: 408,
    Word.TOO_LARGE: 413,
    Word.NOT_JSON: 415,
    Word.INVALID: 422,
    Word.FAILED: 500,
    Word.UNAVAILABLE: 503,
}

_HEADERS: Final[Mapping[Word, dict[str, str]]] = {
    Word.TIMEOUT: {"Connection": "close"},
    Word.UNAVAILABLE: {"Retry-After": str(RETRY_SECONDS)},
    Word.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
}


class Refusal(Exception):
    """A request that is not done; see :func:`refuse`.

    :ivar headers: to go with the answer.
    """

    def __init__(self, word: Word, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.word = word
        self.message = message
        self.headers = dict(headers or {})


def refuse(refusal: Refusal) -> Answer:
    """Return the answer to a request that is not done."""
    headers = {**_HEADERS.get(refusal.word, {}), **refusal.headers}
    return Answer(problem(refusal), STATUSES[refusal.word], headers)


def problem(refusal: Refusal) -> dict[str, str]:
    """Return what is said of a refusal: ``{"error": str, "message": str}``."""
    return {"error": refusal.word.value, "message": mask(refusal.message)}


def refusal_of(error: Exception) -> Refusal:
    """Return why a request that ended with an error is not done.

    An authentic token of a flow that was purged looks like a forged one, so
    that nobody learns from it what was here once.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, (errors.InvalidToken, errors.UnknownDelay)):
        return Refusal(Word.INVALID_TOKEN, "no delay is known by this token; nothing was recorded")
    if isinstance(error, errors.UnknownFlow):
        return Refusal(Word.NOT_FOUND, str(error))
    if isinstance(error, errors.OutcomeTooLarge):
        return Refusal(Word.TOO_LARGE, str(error))
    if isinstance(error, errors.OutcomeNotStorable):
        return Refusal(Word.INVALID, str(error))
    if isinstance(error, taskflow_exceptions.StorageFailure):
        # What failed there is for the log: it may name hosts and tables.
        return Refusal(
            Word.UNAVAILABLE,
            "the store does not answer; send the same again later, which does no harm",
        )
    return Refusal(Word.FAILED, "something is wrong here; it has been logged")


def receipt_document(receipt: Receipt) -> dict[str, Any]:
    """Return a receipt for JSON."""
    return {**dataclasses.asdict(receipt), "disposition": receipt.disposition.value}


def give(receipt: Receipt) -> Answer:
    """Return the answer to a delivery."""
    return Answer(receipt_document(receipt), OF_DISPOSITIONS[receipt.disposition])


def give_item(result: Receipt | errors.LazyEngineError) -> dict[str, Any]:
    """Return what is said of one delivery of a batch."""
    if isinstance(result, Receipt):
        status = OF_DISPOSITIONS[result.disposition]
        return {"status": status, "receipt": receipt_document(result), "problem": None}
    refusal = refusal_of(result)
    return {"status": STATUSES[refusal.word], "receipt": None, "problem": problem(refusal)}
