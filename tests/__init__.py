# SPDX-License-Identifier: Apache-2.0
"""Tests of lazy_engine; imported as ``tests.…`` without the repository on ``sys.path``."""
