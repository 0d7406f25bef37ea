# SPDX-License-Identifier: Apache-2.0
"""Have a ZooKeeper ready before a module here imports ``taskflow.tests.utils``, which reads its port once, at import."""

from __future__ import annotations

import os
import pathlib

import pytest

from tests.conftest import SESSION_SERVERS
from tests.servers.process import in_ci
from tests.servers.zookeeper import why_missing


def pytest_pycollect_makemodule(module_path: pathlib.Path, parent: pytest.Collector) -> None:
    """Start ZooKeeper when a module of this directory is collected, before pytest imports it."""
    reason = why_missing()
    if reason is None:
        server = parent.config.stash[SESSION_SERVERS].zookeeper()
        os.environ["TASKFLOW_TEST_ZOOKEEPER_PORT"] = str(server.port)
    elif in_ci():
        raise pytest.UsageError(reason)
    else:
        # TaskFlow (6.5, tests/utils.py) reads this misspelt name; any other scheme spares 30 s of asking in vain.
        os.environ["TAKSFLOW_TEST_URL"] = "none://"
