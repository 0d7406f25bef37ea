# SPDX-License-Identifier: Apache-2.0
"""What is read from a store's address."""

from __future__ import annotations

from typing import Any

import pytest
from taskflow.persistence import backends

from lazy_engine import errors
from lazy_engine.address import configuration


@pytest.mark.parametrize(
    "persistence",
    [
        "dir:///var/lib/my%20flows",
        "file:///var/lib/my%20flows",
        "dir://?path=/var/lib/my%20flows",
        {"connection": "dir", "path": "/var/lib/my flows"},
        {"connection": "dir:///elsewhere", "path": "/var/lib/my flows"},
        {"connection": "dir:///var/lib/my%20flows", "max_cache_size": 10},
    ],
)
def test_path_of_a_directory_is_what_its_backend_gets(persistence: Any) -> None:
    conf = configuration(persistence)
    assert backends.fetch(conf).path == "/var/lib/my flows"


@pytest.mark.parametrize("persistence", ["dir:", "dir://", "dir", "dir://var/lib/flows"])
def test_directory_without_a_path_is_refused(persistence: str) -> None:
    with pytest.raises(errors.UnsupportedBackend, match="dir:///path"):
        configuration(persistence)


@pytest.mark.parametrize(
    "persistence", ["sqlite:////a/b.db", "postgresql+psycopg://me@host/flows?sslmode=require"]
)
def test_other_addresses_are_left_as_they_are(persistence: str) -> None:
    assert configuration(persistence) == {"connection": persistence}


def test_configuration_that_was_given_is_not_changed() -> None:
    given = {"connection": "dir:///a"}
    configuration(given)
    assert given == {"connection": "dir:///a"}
