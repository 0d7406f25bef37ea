# SPDX-License-Identifier: Apache-2.0
"""The options of a lazy engine, read and checked in one place."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from concurrent import futures
from typing import Any, Final

from lazy_engine import host

#: How long an owner that shows no sign of life keeps a flow.
DEFAULT_LEASE_SECONDS: Final = 30.0

#: Deadline of a delay that names none: a wait without one is how flows get lost.
DEFAULT_TIMEOUT_SECONDS: Final = 7 * 86400.0

_KNOWN: Final = (
    "executor",
    "max_workers",
    "linger_seconds",
    "lease_seconds",
    "default_timeout_seconds",
    "busy_wait_seconds",
    "job_name",
    "job_priority",
    # TaskFlow's own.
    "defer_reverts",
    "never_resolve",
    "inject_transient",
    "gather_statistics",
)
#: How alike two names are, of at most 1, one of which is taken for a slip of the pen.
_ALIKE: Final = 0.8

_SERIAL: Final = ("serial",)
_THREADS: Final = ("thread", "threads", "threaded")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a lazy engine can be told when it is loaded.

    :ivar executor: runs the tasks.
    :ivar linger_seconds: stay awake that long for quick answers before parking.
    :ivar default_timeout_seconds: deadline of a ``Delay`` that names none;
        ``None`` (``"none"`` in a URI) for no deadline.
    :ivar lease_seconds: after that long without a sign of life from its owner,
        somebody else may take the flow.
    """

    executor: host.HostTaskExecutor
    linger_seconds: float
    lease_seconds: float
    default_timeout_seconds: float | None

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Options:
        """Read engine options, as TaskFlow's loader hands them over.

        A name that is not known is passed over, as in TaskFlow's engines: options
        may be shared with one of those. One that is nearly known is refused.

        :raises ValueError: naming the option and what it takes, or what it is called.
        :raises TypeError: for an executor that is none, or one of processes.
        """
        _refuse_misspelt(options)
        return cls(
            executor=_executor(options.get("executor", "serial"), options.get("max_workers")),
            linger_seconds=_seconds(options, "linger_seconds", 0.0, least=0.0),
            lease_seconds=_seconds(options, "lease_seconds", DEFAULT_LEASE_SECONDS, least=0.1),
            default_timeout_seconds=_timeout_seconds(options),
        )


def _refuse_misspelt(options: Mapping[str, Any]) -> None:
    for name in options:
        if name in _KNOWN:
            continue
        if alike := difflib.get_close_matches(str(name), _KNOWN, n=1, cutoff=_ALIKE):
            raise ValueError(f"there is no engine option {name!r}: did you mean {alike[0]!r}?")


def _timeout_seconds(options: Mapping[str, Any]) -> float | None:
    name = "default_timeout_seconds"
    if name in options and str(options[name]).lower() == "none":
        return None
    return _seconds(options, name, DEFAULT_TIMEOUT_SECONDS, least=0.001)


def _seconds(options: Mapping[str, Any], name: str, default: float, *, least: float) -> float:
    value = options.get(name, default)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"engine option {name!r} takes seconds, not {value!r}") from None
    if not least <= seconds < float("inf"):
        raise ValueError(f"engine option {name!r} must be at least {least:g} seconds, not {value}")
    return seconds


def _executor(wanted: object, max_workers: Any) -> host.HostTaskExecutor:
    if max_workers is not None:
        try:
            max_workers = int(max_workers)
        except (TypeError, ValueError):
            max_workers = 0
        if max_workers < 1:
            raise ValueError("engine option 'max_workers' takes a whole number of at least 1")
    if isinstance(wanted, str):
        if wanted.lower() in _SERIAL:
            return host.HostTaskExecutor(is_serial=True)
        if wanted.lower() in _THREADS:
            return host.HostTaskExecutor(max_workers=max_workers)
        raise ValueError(
            f"engine option 'executor' is {wanted!r}; it takes 'serial', 'threads', or a"
            " thread-based concurrent.futures executor"
        )
    if isinstance(wanted, futures.ProcessPoolExecutor) or not isinstance(wanted, futures.Executor):
        raise TypeError(
            f"engine option 'executor' is a {type(wanted).__name__}; it takes 'serial',"
            " 'threads', or a thread-based concurrent.futures executor (tasks cannot run in"
            " processes, in TaskFlow's own engines either)"
        )
    return host.HostTaskExecutor(given=wanted)
