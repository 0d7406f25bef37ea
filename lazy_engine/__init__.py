# SPDX-License-Identifier: Apache-2.0
"""A TaskFlow engine that waits for the outside world without holding anything."""

from lazy_engine.delay import DELAYED, Delay
from lazy_engine.errors import (
    DelayCancelled,
    DelayFailed,
    DelayMisuse,
    Fenced,
    FlowBusy,
    FlowCancelled,
    FlowIncident,
    FlowSuspended,
    InvalidToken,
    LazyEngineError,
    NotSupportedYet,
    OutcomeNotStorable,
    OutcomeTooLarge,
    ResultNotStorable,
    StoreUnavailable,
    UnknownDelay,
    UnknownFlow,
    UnsupportedBackend,
)
from lazy_engine.outcome import Failed, Result
from lazy_engine.receipt import Disposition, Receipt

__all__ = [
    "DELAYED",
    "Delay",
    "DelayCancelled",
    "DelayFailed",
    "DelayMisuse",
    "Disposition",
    "Failed",
    "Fenced",
    "FlowBusy",
    "FlowCancelled",
    "FlowIncident",
    "FlowSuspended",
    "InvalidToken",
    "LazyEngineError",
    "NotSupportedYet",
    "OutcomeNotStorable",
    "OutcomeTooLarge",
    "Receipt",
    "Result",
    "ResultNotStorable",
    "StoreUnavailable",
    "UnknownDelay",
    "UnknownFlow",
    "UnsupportedBackend",
]
