# SPDX-License-Identifier: Apache-2.0
"""Every part of TaskFlow's engines and storage that lazy_engine uses without it being public.

TaskFlow offers its engines for extension but documents no interface for it.
The names it keeps to itself are touched in this package and nowhere else (those
of its job boards in :mod:`lazy_engine.board`), each with a contract test
(``tests/contract/test_host.py``) that fails when they change. Written against taskflow 6.5.
"""

from lazy_engine.host.action import HostCompleter, HostTaskAction
from lazy_engine.host.detail import mend_history, note_known, unstored_in
from lazy_engine.host.engine import HostEngine
from lazy_engine.host.executor import ContextExecutor, HostTaskExecutor, InlineExecutor, started
from lazy_engine.host.name import (
    ATOMS,
    EXECUTED,
    REVERTED,
    Atom,
    Failure,
    version_of,
    zookeeper_client,
)
from lazy_engine.host.runtime import Graph, HostRuntime, decider_of, goes_ahead, item_of
from lazy_engine.host.storage import HostStorage, is_injected, item_of_result

__all__ = [
    "ATOMS",
    "EXECUTED",
    "REVERTED",
    "Atom",
    "ContextExecutor",
    "Failure",
    "Graph",
    "HostCompleter",
    "HostEngine",
    "HostRuntime",
    "HostStorage",
    "HostTaskAction",
    "HostTaskExecutor",
    "InlineExecutor",
    "decider_of",
    "goes_ahead",
    "is_injected",
    "item_of",
    "item_of_result",
    "mend_history",
    "note_known",
    "started",
    "unstored_in",
    "version_of",
    "zookeeper_client",
]
