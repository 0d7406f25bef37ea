# SPDX-License-Identifier: Apache-2.0
"""A flow that waits, traced; run as a program it parks in a process of its own.

python -m tests.integration.traced URL
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Client, Delay
from lazy_engine.telemetry import Telemetry


class Asks(task.Task):
    default_provides = "answer"

    def execute(self) -> Delay:
        delay = Delay()
        span = trace.get_current_span().get_span_context()
        return Delay(details={"handed on": delay.traceparent, "span": f"{span.span_id:016x}"})


class Uses(task.Task):
    def execute(self, answer: Any) -> Any:
        return answer


def make_flow() -> Any:
    return linear_flow.Flow("traced").add(Asks("asks"), Uses("uses"))


class Tracing:
    """An SDK that keeps its spans, for one store."""

    def __init__(self, client: Client) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")
        Telemetry(client, tracer_provider=self.provider)

    @contextlib.contextmanager
    def outside(self, name: str = "outside") -> Iterator[str]:
        """Be in a span of somebody else; yield what that one would send on."""
        with self.tracer.start_as_current_span(name, context=trace.Context()) as span:
            found = span.get_span_context()
            yield f"00-{found.trace_id:032x}-{found.span_id:016x}-01"

    def spans(self) -> list[dict[str, Any]]:
        """Return the spans that have ended, in that order."""
        return [
            {
                "name": span.name.removeprefix("lazy_engine."),
                "trace": f"{span.context.trace_id:032x}",
                "id": f"{span.context.span_id:016x}",
                "parent": f"{span.parent.span_id:016x}" if span.parent else None,
                "links": [f"{link.context.span_id:016x}" for link in span.links],
                "is_error": span.status.status_code is trace.StatusCode.ERROR,
                **{
                    name.removeprefix("lazy_engine."): value
                    for name, value in (span.attributes or {}).items()
                },
            }
            for span in self.exporter.get_finished_spans()
        ]

    def named(self, name: str) -> dict[str, Any]:
        """Return the one span of that name."""
        (found,) = (span for span in self.spans() if span["name"] == name)
        return found


def main() -> None:
    client = Client({"connection": sys.argv[1]})
    tracing = Tracing(client)
    flow_uuid = client.submit("tests.integration.traced.make_flow")
    client.resume(flow_uuid)
    print(json.dumps({"flow_uuid": flow_uuid, "spans": tracing.spans()}))


if __name__ == "__main__":
    main()
