# SPDX-License-Identifier: Apache-2.0
"""Receipts are plain frozen values."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from lazy_engine import Disposition, Receipt

RECEIPT = Receipt(
    disposition=Disposition.ACCEPTED, flow_uuid="f", task_name="t", attempt=2, woken=True
)


def test_receipt_is_frozen_and_told_by_name() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECEIPT.attempt = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Receipt(Disposition.LATE, "f", "t", 1, False)  # type: ignore[misc]


def test_receipt_survives_pickle_and_copy() -> None:
    for again in (pickle.loads(pickle.dumps(RECEIPT)), copy.deepcopy(RECEIPT)):
        assert again == RECEIPT
        assert again.disposition is Disposition.ACCEPTED


def test_dispositions_are_read_back_from_their_values() -> None:
    assert [Disposition(d.value) for d in Disposition] == list(Disposition)
    assert {d.value for d in Disposition} == {d.name.lower() for d in Disposition}
