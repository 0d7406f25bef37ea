# SPDX-License-Identifier: Apache-2.0
"""What is said of the endpoints is true: schemathesis asks them all, well and badly."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode

from lazy_engine import Client
from lazy_engine.http import make_app
from lazy_engine.http.server import Server
from tests.integration.parked import opened, park
from tests.integration.web import Web

SETTINGS = hypothesis.settings(
    max_examples=10,
    derandomize=not os.environ.get("LAZY_ENGINE_TEST_RANDOM"),
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
KEY = "operators-key-0123456789"


@pytest.fixture(scope="module")
def api_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(f"sqlite:///{tmp_path_factory.mktemp('openapi') / 'lazy.sqlite'}") as store:
        world = park(store)
        app = make_app(Client(store), api_keys=[KEY])
        with Server(app) as server:
            yield schemathesis.openapi.from_url(f"{server.url}/v1/openapi.json")
        # A stranger has changed nothing.
        world.assert_open()


# Its own plugin for pytest does not know pytest 9.
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_as_described(api_schema: Any, mode: GenerationMode) -> None:
    asked = []
    for found in api_schema.get_all_operations():
        operation = found.ok()

        @SETTINGS
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            # A place in a list is opaque, and cannot be made up.
            hypothesis.assume("after" not in (case.query or {}))
            case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, timeout=20)

        with contextlib.suppress(hypothesis.errors.Unsatisfiable):
            ask()
            asked.append(operation.label)
    assert len(asked) > 8


def test_description_names_every_endpoint(api_schema: Any) -> None:
    found = Web(api_schema.location).get("/v1/openapi.json").document
    operations = {f"{method} {path}" for path, item in found["paths"].items() for method in item}
    assert operations == {
        "post /v1/tokens/{token}/complete",
        "post /v1/tokens/{token}/fail",
        "post /v1/tokens/{token}/heartbeat",
        "post /v1/deliveries",
        "get /v1/flows",
        "get /v1/delays",
        "get /v1/flows/{uuid}",
        "get /v1/flows/{uuid}/picture",
        "get /v1/key",
        "get /v1/summary",
        "post /v1/flows/{uuid}/suspend",
        "post /v1/flows/{uuid}/resume",
        "post /v1/flows/{uuid}/cancel",
        "post /v1/flows/{uuid}/tasks/{name}/token",
        "post /v1/flows/{uuid}/delays/{delay_id}/token",
        "post /v1/flows/{uuid}/delays/{delay_id}/complete",
        "post /v1/flows/{uuid}/delays/{delay_id}/fail",
    }
