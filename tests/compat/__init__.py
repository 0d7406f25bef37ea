# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's own tests, run on the lazy engine."""
