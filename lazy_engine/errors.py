# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, one class for each thing that a caller can act on.

The class decides what becomes of a job: TaskFlow's conductors keep a job
only after an ``ExecutionFailure`` or a ``StorageFailure``
(:file:`taskflow/conductors/backends/impl_executor.py`, taskflow 6.5) and
consume it after anything else. So errors after which *another* attempt by
*another* owner may succeed derive from one of these two, and errors that
trying again cannot mend do not.

Tokens are secrets: no message and no attribute here ever holds one.
"""

from __future__ import annotations

from typing import Any

from taskflow import exceptions as taskflow_exceptions


class LazyEngineError(taskflow_exceptions.TaskFlowException):  # type: ignore[misc]  # no types
    """Root of every error that lazy_engine raises.

    :ivar flow_uuid: the flow it is about, or ``None``.
    :ivar task_name: the task it is about, or ``None``.
    """

    def __init__(
        self,
        message: str,
        cause: BaseException | None = None,
        *,
        flow_uuid: str | None = None,
        task_name: str | None = None,
    ) -> None:
        super().__init__(message, cause=cause)
        self.flow_uuid = flow_uuid
        self.task_name = task_name


class InvalidToken(LazyEngineError):
    """The token is malformed, forged, or was made by another deployment."""


class UnknownDelay(LazyEngineError):
    """The token is authentic, but its flow has been purged or never got here."""


class UnknownFlow(LazyEngineError):
    """No flow with that uuid is stored."""


class OutcomeTooLarge(LazyEngineError):
    """The outcome is larger than the store takes; nothing was recorded."""


class OutcomeNotStorable(LazyEngineError, ValueError):
    """The value cannot be stored as strict JSON; nothing was recorded."""


class ResultNotStorable(LazyEngineError, ValueError):
    """A task returned a result that the store cannot hold; the task failed."""


class DelayMisuse(LazyEngineError, TypeError):
    """A ``Delay`` was made or handed over where it cannot be one."""


class UnsupportedBackend(LazyEngineError, ValueError):
    """The persistence backend (or its configuration) cannot hold a ledger."""


class StoreUnavailable(LazyEngineError, taskflow_exceptions.StorageFailure):  # type: ignore[misc]  # no types
    """The store did not answer, or refused to; nothing is known to be written."""


class FlowBusy(LazyEngineError, taskflow_exceptions.ExecutionFailure):  # type: ignore[misc]  # no types
    """Somebody else owns the flow and did not let go in time.

    Raised only after waiting, since a stock conductor that gets it gives the
    job back and claims it again at once.
    """


class Fenced(LazyEngineError, taskflow_exceptions.ExecutionFailure):  # type: ignore[misc]  # no types
    """The flow has a newer owner: this engine stopped and wrote nothing more.

    Or its store was set back to a backup, which knows nothing of this engine's run.
    """


class FlowSuspended(LazyEngineError):
    """The flow was suspended by request; ``Client.resume`` lets it go on."""


class FlowCancelled(LazyEngineError):
    """The flow was cancelled by request and has been reverted."""


class FlowIncident(LazyEngineError):
    """The flow could not be run for a reason that is not the flow's own.

    The flow, its delays and its outcomes are kept as they were; the incident
    is written on the flow. Mend the cause, then call ``Client.resume``.

    :ivar kind: what sort of reason; see :mod:`lazy_engine.incident`.
    :ivar is_recorded: whether it is written on the flow, which can then be
        found again without a job.
    """

    def __init__(
        self,
        message: str,
        cause: BaseException | None = None,
        *,
        kind: str = "",
        is_recorded: bool = False,
        flow_uuid: str | None = None,
        task_name: str | None = None,
    ) -> None:
        super().__init__(message, cause, flow_uuid=flow_uuid, task_name=task_name)
        self.kind = kind
        self.is_recorded = is_recorded


class DelayFailed(LazyEngineError):
    """What a delayed task fails with when the outside reports a failure.

    :ivar kind: the reporter's own name for this sort of failure, or ``None``.
    :ivar details: JSON value the reporter sent along, or ``None``.
    """

    def __init__(
        self,
        message: str,
        cause: BaseException | None = None,
        *,
        kind: str | None = None,
        details: Any = None,
        flow_uuid: str | None = None,
        task_name: str | None = None,
    ) -> None:
        super().__init__(message, cause, flow_uuid=flow_uuid, task_name=task_name)
        self.kind = kind
        self.details = details


class DelayTimeout(LazyEngineError):
    """What a delayed task fails with when its deadline has passed."""


class HeartbeatTimeout(DelayTimeout):
    """What a delayed task fails with when the outside fell silent."""


class DelayCancelled(LazyEngineError):
    """What the ``revert`` of a task sees as its result when its wait was called off."""
