# SPDX-License-Identifier: Apache-2.0
"""Traces for OpenTelemetry; needs the extra ``telemetry``.

Spans, all of the kind that says nothing of tokens or values:

``lazy_engine.run``
    one run of a flow, from taking it to giving it up.
``lazy_engine.execute``, ``lazy_engine.revert``
    one attempt of a task, in a run. Its context is ``Delay.traceparent``, and
    is kept with the delay.
``lazy_engine.deliver``
    an outcome that is handed in.
``lazy_engine.absorb``
    a task that gets it, in the run that resumes the flow.

One trace goes through all of them: a run joins the trace that its flow was
submitted in, or that the delay was opened in whose outcome it comes for; what
is delivered joins the trace of whoever delivers (which is the same one, if the
outside was given ``Delay.traceparent``), with a link to the delay's, and
otherwise the delay's own.

Only the API of OpenTelemetry is used: without an SDK that the host program
sets up, nothing is recorded and no delay carries a trace.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, ParamSpec, TypeVar

from lazy_engine.client import Client
from lazy_engine.ledger.record import DelayOpening
from lazy_engine.observer import (
    Absorbed,
    Begun,
    Delivered,
    Observer,
    WatchedAttempt,
    WatchedRun,
)
from lazy_engine.token import REVERT, DelayKey

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        "lazy_engine.telemetry needs OpenTelemetry: pip install 'lazy_engine[telemetry]'",
        name=error.name,
    ) from error

_P = ParamSpec("_P")
_T = TypeVar("_T")

_HEADER: Final = "traceparent"
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Telemetry(Observer):
    """Writes spans of what happens in a store.

    :param client: of the store.
    :param tracer_provider: whose spans they are; the host program's, unless given.
    """

    def __init__(
        self, client: Client, *, tracer_provider: trace.TracerProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer("lazy_engine", tracer_provider=tracer_provider)
        client.observe(self)

    def traceparent(self) -> str | None:
        return _written(contexts.get_current())

    def joined(self, traceparent: str | None, call: Callable[_P, _T]) -> Callable[_P, _T]:
        if not traceparent or _is_in_trace():
            # A host app that traces its requests has read that header already.
            return call
        outside = _read(traceparent)

        def join(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            with _attached(outside):
                return call(*args, **kwargs)

        return join

    def delivered(self, delivered: Delivered) -> None:
        receipt = delivered.receipt
        own = _read(delivered.traceparent)
        parent = contexts.get_current() if _is_in_trace() else own
        span = self._tracer.start_span(
            "lazy_engine.deliver",
            context=parent,
            kind=trace.SpanKind.SERVER,
            links=_links([own], parent),
            start_time=delivered.began_ns,
            attributes={
                "lazy_engine.flow.uuid": receipt.flow_uuid,
                "lazy_engine.task.name": receipt.task_name,
                "lazy_engine.attempt": receipt.attempt,
                "lazy_engine.outcome.kind": delivered.kind,
                "lazy_engine.disposition": receipt.disposition.value,
                "lazy_engine.woken": receipt.woken,
            },
        )
        span.end(delivered.ended_ns)

    def run(self, begun: Begun) -> WatchedRun:
        stored = [each.traceparent for each in begun.arrivals] + [begun.traceparent]
        came_from = [_read(each) for each in stored if each]
        if _is_in_trace():
            came_from.append(contexts.get_current())
        # What is stored comes first: the trace outlives whoever happens to run the flow.
        parent = next(iter(came_from), None)
        attributes = {
            "lazy_engine.flow.uuid": begun.flow_uuid,
            "lazy_engine.flow.name": begun.flow_name,
        }
        span = self._tracer.start_span(
            "lazy_engine.run",
            context=parent or contexts.Context(),
            links=_links(came_from, parent),
            attributes=attributes,
        )
        return _Run(self._tracer, span, attributes)


class _Run(WatchedRun):
    def __init__(
        self, tracer: trace.Tracer, span: trace.Span, attributes: Mapping[str, Any]
    ) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span)
        self._attributes = attributes
        self._attempts: dict[DelayKey, _Attempt] = {}
        self.traceparent = _written(self._context)

    def attempt(self, name: DelayKey, task_name: str) -> WatchedAttempt:
        verb = "revert" if name.kind == REVERT else "execute"
        span = self._tracer.start_span(
            f"lazy_engine.{verb}",
            context=self._context,
            attributes={
                **self._attributes,
                "lazy_engine.task.name": task_name,
                "lazy_engine.attempt": name.attempt,
                "lazy_engine.delay.id": name.delay_id,
            },
        )
        made = _Attempt(span, lambda: self._attempts.pop(name, None))
        self._attempts[name] = made
        return made

    def committed(self, opened: Sequence[DelayOpening], absorbed: Sequence[Absorbed]) -> None:
        now_ns = time.time_ns()
        for each in absorbed:
            own = _read(each.record.traceparent)
            span = self._tracer.start_span(
                "lazy_engine.absorb",
                context=self._context,
                links=_links([own], None),
                start_time=now_ns,
                attributes={
                    **self._attributes,
                    "lazy_engine.task.name": each.record.task_name,
                    "lazy_engine.attempt": each.record.key.attempt,
                    "lazy_engine.delay.id": each.record.key.delay_id,
                    "lazy_engine.wake.seconds": each.wake_seconds,
                    **(
                        {}
                        if each.parked_seconds is None
                        else {"lazy_engine.park.seconds": each.parked_seconds}
                    ),
                },
            )
            span.end(now_ns)

    def end(self, state: str | None) -> None:
        for left in list(self._attempts.values()):
            left.end("given up")
        self._span.set_attribute("lazy_engine.flow.state", state or "given up")
        if state is None:
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


class _Attempt(WatchedAttempt):
    def __init__(self, span: trace.Span, forget: Callable[[], object]) -> None:
        self._span = span
        self._forget = forget
        self._context = trace.set_span_in_context(span)
        self._entered = contextlib.ExitStack()
        self.traceparent = _written(self._context)

    def __enter__(self) -> WatchedAttempt:
        self._entered.enter_context(_attached(self._context))
        return self

    def __exit__(self, *_: object) -> None:
        # What it raised is the task's own affair: to be attached is all that ends here.
        self._entered.close()

    def end(self, what: str) -> None:
        self._forget()
        self._span.set_attribute("lazy_engine.attempt.end", what)
        if what in ("failed", "given up"):
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


@contextlib.contextmanager
def _attached(found: contexts.Context) -> Iterator[None]:
    token = contexts.attach(found)
    try:
        yield
    finally:
        contexts.detach(token)


def _is_in_trace() -> bool:
    return trace.get_current_span().get_span_context().is_valid


def _read(traceparent: str | None) -> contexts.Context:
    return _PROPAGATOR.extract({_HEADER: traceparent or ""}, context=contexts.Context())


def _written(found: contexts.Context) -> str | None:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context=found)
    return carrier.get(_HEADER)


def _links(found: Sequence[contexts.Context], parent: contexts.Context | None) -> list[trace.Link]:
    """Return links to contexts that are valid and not the parent."""
    own = None if parent is None else trace.get_current_span(parent).get_span_context()
    others = {
        (each.trace_id, each.span_id): each
        for each in (trace.get_current_span(one).get_span_context() for one in found)
        if each.is_valid
    }
    if own is not None:
        others.pop((own.trace_id, own.span_id), None)
    return [trace.Link(each) for each in others.values()]
