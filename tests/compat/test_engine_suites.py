# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's own engine suites, run with ``engine="lazy"``.

The classes come from the installed ``taskflow.tests``; only what engine they
make is changed here.
"""

from __future__ import annotations

from typing import Any

import pytest
import taskflow.engines
from taskflow.tests import utils
from taskflow.tests.unit import (
    test_arguments_passing,
    test_engines,
    test_progress,
    test_retries,
    test_suspend,
)

from lazy_engine.engine import LazyEngine

# Their flows have no logbook of their own, on purpose.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


class _Serial:
    backend: Any

    def _make_engine(self, flow: Any, flow_detail: Any = None, **options: Any) -> Any:
        return taskflow.engines.load(
            flow, flow_detail=flow_detail, engine="lazy", backend=self.backend, **options
        )


class _Threads:
    backend: Any

    def _make_engine(self, flow: Any, flow_detail: Any = None, **options: Any) -> Any:
        executor = options.pop("executor", None) or "threads"
        return taskflow.engines.load(
            flow,
            flow_detail=flow_detail,
            engine="lazy",
            backend=self.backend,
            executor=executor,
            max_workers=2,
            **options,
        )


class _MakesLazyEngines:
    _make_engine: Any

    def test_correct_load(self) -> None:
        engine = self._make_engine(utils.TaskNoRequiresNoReturns)
        assert isinstance(engine, LazyEngine)


class EnginesSerialTest(_Serial, _MakesLazyEngines, test_engines.SerialEngineTest):
    pass


class EnginesThreadsTest(_Threads, _MakesLazyEngines, test_engines.ParallelEngineWithThreadsTest):
    pass


class RetriesSerialTest(_Serial, test_retries.SerialEngineTest):
    pass


class RetriesThreadsTest(_Threads, test_retries.ParallelEngineWithThreadsTest):
    pass


class SuspendSerialTest(_Serial, test_suspend.SerialEngineTest):
    pass


class SuspendThreadsTest(_Threads, test_suspend.ParallelEngineWithThreadsTest):
    pass


class ArgumentsSerialTest(_Serial, test_arguments_passing.SerialEngineTest):
    pass


class ArgumentsThreadsTest(_Threads, test_arguments_passing.ParallelEngineWithThreadsTest):
    pass


class ProgressTest(test_progress.TestProgress):
    def _make_engine(self, flow: Any, flow_detail: Any = None, backend: Any = None) -> Any:
        engine = taskflow.engines.load(
            flow, flow_detail=flow_detail, backend=backend, engine="lazy"
        )
        engine.compile()
        engine.prepare()
        return engine
