# SPDX-License-Identifier: Apache-2.0
"""Flows and clients that write down in a journal what they do."""

from __future__ import annotations

import functools
import hashlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskflow import task
from taskflow.types import failure as taskflow_failure

from lazy_engine import attempt
from lazy_engine import token as tokens
from lazy_engine.client import Client
from lazy_engine.delay import Delay
from lazy_engine.outcome import Failed, Result
from lazy_engine.receipt import Receipt
from lazy_engine.testing import journal as j
from lazy_engine.token import EXECUTE, REVERT


def watched_flow(
    journal_path: str, factory: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Make a flow whose tasks note each beginning and each ``Delay``.

    :param factory: makes the flow itself; ``"module:qualname"``.
    """
    flow = pkgutil.resolve_name(factory)(*args, **kwargs)
    journal = j.Journal(journal_path)
    for atom, _meta in flow.iter_nodes():
        _watch(atom, journal)
    return flow


def _watch(node: Any, journal: j.Journal) -> None:
    if isinstance(node, task.Task):
        # The names of the arguments have been read when the task was made.
        node.execute = _noting(node, EXECUTE, node.execute, journal)
        node.revert = _noting(node, REVERT, node.revert, journal)
    elif hasattr(node, "iter_nodes"):
        for inner, _meta in node.iter_nodes():
            _watch(inner, journal)


def _noting(
    node: task.Task, kind: str, method: Callable[..., Any], journal: j.Journal
) -> Callable[..., Any]:
    @functools.wraps(method)
    def noting(*args: Any, **kwargs: Any) -> Any:
        current = attempt.current.get()
        number = None if current is None else current.name.attempt
        about = {"task": node.name, "kind": kind, "attempt": number}
        journal.note(j.BEGUN, **about)
        try:
            result = method(*args, **kwargs)
        except Delay as delay:
            _note_delay(journal, delay, about)
            raise
        if isinstance(result, Delay):
            _note_delay(journal, result, about)
        return result

    return noting


def _note_delay(journal: j.Journal, delay: Delay, about: Mapping[str, Any]) -> None:
    # The token itself is a secret.
    digest = hashlib.sha256(delay.token.encode()).hexdigest()
    journal.note(j.DELAY, **about, delay_id=delay.id, token_digest=digest)


class WatchedClient(Client):
    """A client whose flows are watched, and that notes every receipt."""

    def __init__(self, persistence: Any, journal: j.Journal, jobboard: Any = None) -> None:
        super().__init__(persistence, jobboard)
        self._journal = journal

    def submit(
        self,
        factory: str | Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        store: Mapping[str, Any] | None = None,
        flow_uuid: str | None = None,
    ) -> str:
        name = (
            factory if isinstance(factory, str) else f"{factory.__module__}:{factory.__qualname__}"
        )
        given = (str(self._journal.path), name, list(args), dict(kwargs or {}))
        return super().submit(watched_flow, given, store=store, flow_uuid=flow_uuid)

    def complete(self, token: str, result: Any = None) -> Receipt:
        return self._noted(token, super().complete(token, result), Result(result))

    def fail(
        self,
        token: str,
        error: str | BaseException | taskflow_failure.Failure,
        *,
        kind: str | None = None,
        details: Any = None,
    ) -> Receipt:
        receipt = super().fail(token, error, kind=kind, details=details)
        outcome = Failed.from_error(error, kind=kind, details=details)
        return self._noted(token, receipt, outcome)

    def deliver_many(self, items: Sequence[tuple[str, Result | Failed]]) -> Any:
        answers = super().deliver_many(items)
        for answer, (token, value) in zip(answers, items, strict=True):
            if isinstance(answer, Receipt):
                self._noted(token, answer, value)
        return answers

    def _noted(self, token: str, receipt: Receipt, value: Result | Failed) -> Receipt:
        key = self._ledger.signing_key(tokens.key_id_of(token))
        self._journal.note(
            j.RECEIPT,
            task=receipt.task_name,
            kind=tokens.verify(token, key).kind,
            attempt=receipt.attempt,
            disposition=receipt.disposition.name,
            digest=self._ledger.encode(value).digest,
        )
        return receipt
