# SPDX-License-Identifier: Apache-2.0
"""A TaskFlow engine that waits for the outside world without holding anything."""

from lazy_engine.client import Client
from lazy_engine.delay import DELAYED, Delay, StillWaiting
from lazy_engine.errors import (
    DelayCancelled,
    DelayFailed,
    DelayMisuse,
    DelayTimeout,
    Fenced,
    FlowBusy,
    FlowCancelled,
    FlowIncident,
    FlowSuspended,
    HeartbeatTimeout,
    InvalidToken,
    LazyEngineError,
    OutcomeNotStorable,
    OutcomeTooLarge,
    ResultNotStorable,
    StoreUnavailable,
    UnknownDelay,
    UnknownFlow,
    UnsupportedBackend,
)
from lazy_engine.outcome import Failed, Result
from lazy_engine.receipt import Disposition, Heartbeat, Receipt
from lazy_engine.view import FlowView, OpenDelay

__all__ = [
    "DELAYED",
    "Client",
    "Delay",
    "DelayCancelled",
    "DelayFailed",
    "DelayMisuse",
    "DelayTimeout",
    "Disposition",
    "Failed",
    "Fenced",
    "FlowBusy",
    "FlowCancelled",
    "FlowIncident",
    "FlowSuspended",
    "FlowView",
    "Heartbeat",
    "HeartbeatTimeout",
    "InvalidToken",
    "LazyEngineError",
    "OpenDelay",
    "OutcomeNotStorable",
    "OutcomeTooLarge",
    "Receipt",
    "Result",
    "ResultNotStorable",
    "StillWaiting",
    "StoreUnavailable",
    "UnknownDelay",
    "UnknownFlow",
    "UnsupportedBackend",
]
