# SPDX-License-Identifier: Apache-2.0
"""Tokens are secrets: no test may have one printed or logged, at any level, by itself or by what it tests."""

from __future__ import annotations

import re
from typing import Any

#: A token with a name and a signature in it, unlike the words that tests make up.
_TOKEN = re.compile(r"lz1\.[\w-]+\.[\w-]{20,}\.[\w-]{10,}")


def fail_if_leaky(report: Any) -> None:
    """Fail a test's report if what was captured has a token in it, and hide that token."""
    leaky = [title for title, text in report.sections if _TOKEN.search(text)]
    if leaky:
        report.outcome = "failed"
        report.longrepr = f"tokens are secrets, and one was printed: {', '.join(leaky)}"
        report.sections = [(title, _TOKEN.sub("lz1.***", text)) for title, text in report.sections]
