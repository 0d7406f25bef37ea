# SPDX-License-Identifier: Apache-2.0
"""The engine type ``lazy``."""

from lazy_engine.engine.engine import LazyEngine

__all__ = ["LazyEngine"]
