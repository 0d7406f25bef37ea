# SPDX-License-Identifier: Apache-2.0
"""A TaskFlow engine that waits for the outside world without holding anything."""

from lazy_engine.client import Client
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
from lazy_engine.view import FlowView, OpenDelay

__all__ = [
    "DELAYED",
    "Client",
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
    "FlowView",
    "InvalidToken",
    "LazyEngineError",
    "NotSupportedYet",
    "OpenDelay",
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
