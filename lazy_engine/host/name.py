# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's own words, and small things of its that have no other place."""

from __future__ import annotations

import contextlib
from typing import Any

from taskflow.engines.action_engine import (
    compiler,
    executor,
)
from taskflow.types import failure as taskflow_failure
from taskflow.utils import misc

ATOMS = compiler.ATOMS
TASK = compiler.TASK
RETRY = compiler.RETRY
EXECUTED = executor.EXECUTED
REVERTED = executor.REVERTED

Atom = Any
Failure = taskflow_failure.Failure


def version_of(atom: Atom) -> str | None:
    """Return an atom's version as TaskFlow stores it: ``"1.0"``."""
    version: str | None = misc.get_version_string(atom)
    return version


def zookeeper_client(backend: Any) -> Any:
    """Return the kazoo client of TaskFlow's ZooKeeper backend, started.

    :raises taskflow.exceptions.StorageFailure: no server answers.
    """
    with contextlib.closing(backend.get_connection()):  # which starts the client
        return backend._client
