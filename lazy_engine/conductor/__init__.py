# SPDX-License-Identifier: Apache-2.0
"""The conductor type ``lazy``: answers doorbells.

A consumed job means "ran as far as it could", not "the flow has ended": the
events ``flow_parked`` and ``flow_ended`` tell the two apart, and
``Client.flow`` and ``Client.wait`` tell how a flow stands.
"""

from lazy_engine.conductor.conductor import LazyConductor

__all__ = ["LazyConductor"]
