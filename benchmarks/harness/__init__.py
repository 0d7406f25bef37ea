# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: subjects in processes of their own, stores, and the lines that are printed."""
