# SPDX-License-Identifier: Apache-2.0
"""The search for tokens in all that the tests print does find one."""

from __future__ import annotations

import types
import uuid

import pytest

from lazy_engine import token
from tests import secrecy

KEY = token.Key(key_id="k1", secret=b"0123456789abcdef0123456789abcdef")


def report_of(text: str) -> types.SimpleNamespace:
    sections = [("Captured stdout call", "fine"), ("Captured log call", text)]
    return types.SimpleNamespace(outcome="passed", longrepr=None, sections=sections)


@pytest.mark.parametrize("identifier", ["f", "6f1b4bd0-6b5b-4f9a-8f0e-0123456789ab"])
def test_report_with_a_token_in_it_fails_and_does_not_show_it(identifier: str) -> None:
    name = token.DelayKey(
        flow_uuid=identifier, atom_uuid=str(uuid.uuid4()), kind=token.EXECUTE, attempt=1
    )
    signed = token.sign(name, KEY)
    report = report_of(f"DEBUG lazy_engine: answered {signed}, at once")
    secrecy.fail_if_leaky(report)
    assert report.outcome == "failed"
    assert "Captured log call" in report.longrepr
    assert signed not in str(report)


@pytest.mark.parametrize("text", ["", "lz1.***", "complete lz1.a.b.c", "flow 6f1b4bd0 ended"])
def test_report_without_a_token_is_left_alone(text: str) -> None:
    report = report_of(text)
    secrecy.fail_if_leaky(report)
    assert (report.outcome, report.longrepr) == ("passed", None)


def test_this_test_run_logs_at_every_level(request: pytest.FixtureRequest) -> None:
    assert request.config.getini("log_level") == "DEBUG", "or else the search would see little"
