# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's task executor, and executors for it."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent import futures
from typing import Any

from taskflow.engines.action_engine import (
    executor,
)


class ContextExecutor:
    """An executor whose work runs in a copy of the submitter's context."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Submit work; see :meth:`concurrent.futures.Executor.submit`."""
        context = contextvars.copy_context()
        return self._inner.submit(context.run, function, *args, **kwargs)

    def shutdown(self, wait: bool = True) -> None:
        """Shut the executor down; see :meth:`concurrent.futures.Executor.shutdown`."""
        self._inner.shutdown(wait=wait)


class DoneFuture:
    """The future of work that was done when it was submitted.

    Python's own holds a lock, a condition and three lists, which for ten thousand
    tasks of one turn is most of what its garbage collector has to look through.
    """

    def __init__(self, result: Any = None, error: BaseException | None = None) -> None:
        self._result = result
        self._error = error

    def result(self, timeout: float | None = None) -> Any:
        """Return what the work returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the work raised."""
        return self._error

    def done(self) -> bool:
        """Return that it is done."""
        return True

    def running(self) -> bool:
        """Return that it is not under way."""
        return False

    def cancelled(self) -> bool:
        """Return that it was not cancelled."""
        return False

    def cancel(self) -> bool:
        """Return that it is too late for that."""
        return False

    def add_done_callback(self, function: Callable[[Any], Any]) -> None:
        """Call a function, at once."""
        function(self)


class InlineExecutor:
    """An executor whose work is done when it has been submitted, in a context of its own."""

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do some work; see :meth:`concurrent.futures.Executor.submit`."""
        try:
            return DoneFuture(contextvars.copy_context().run(function, *args, **kwargs))
        except SystemExit:
            raise
        except BaseException as error:  # so do the executors that work beside their caller
            return DoneFuture(error=error)

    def shutdown(self, wait: bool = True) -> None:
        """Do nothing: nothing is under way."""


class HostTaskExecutor(executor.ParallelThreadTaskExecutor):  # type: ignore[misc]  # no types
    """TaskFlow's task executor, running tasks in their submitter's context.

    :param given: the user's own executor, or ``None``.
    :param is_serial: run tasks one after the other in the engine's thread.
    """

    def __init__(
        self,
        *,
        given: futures.Executor | None = None,
        is_serial: bool = False,
        max_workers: int | None = None,
    ) -> None:
        wrapped = ContextExecutor(given) if given is not None else None
        super().__init__(executor=wrapped, max_workers=max_workers)
        self._is_serial = is_serial

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function where tasks are run; return its future."""
        return self._executor.submit(function, *args)

    def _create_executor(self, max_workers: int | None = None) -> ContextExecutor | InlineExecutor:
        if self._is_serial:
            return InlineExecutor()
        # Python's own pool: futurist's takes up to a second to shut down, and an
        # engine shuts its executor down each time it parks.
        return ContextExecutor(futures.ThreadPoolExecutor(max_workers=max_workers))


class started:
    """Starts an executor, and stops it in the end."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def __enter__(self) -> None:
        self._executor.start()

    def __exit__(self, *_: object) -> None:
        self._executor.stop()
