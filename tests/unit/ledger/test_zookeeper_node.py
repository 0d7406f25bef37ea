# SPDX-License-Identifier: Apache-2.0
"""Names and contents of znodes come back as they were."""

from __future__ import annotations

import json

import pytest

from lazy_engine.ledger import record as r
from lazy_engine.ledger import zookeeper_node as node
from lazy_engine.outcome import Encoded
from lazy_engine.token import REVERT, DelayKey

FLOW = r.FlowRecord(
    flow_uuid="f",
    flow_name="flow",
    epoch=3,
    commit_number=7,
    owner="me",
    incident={"kind": "x", "message": "ü", "first_at": 1, "last_at": 2, "count": 2},
    has_factory=True,
    ended_at=5,
)


def test_flow_node_comes_back() -> None:
    wanted = node.FlowNode(
        record=FLOW,
        version=4,
        lease_seconds=30.0,
        sign=9,
        commit_id="abc",
        redo_id="def",
        redo_chunks=2,
        is_gone=True,
    )
    assert node.decode_flow(node.encode_flow(wanted), 4) == wanted


def test_flow_node_holds_no_instant_at_which_its_lease_ends() -> None:
    body = json.loads(node.encode_flow(node.FlowNode(record=FLOW)))
    assert "lease_expires_at" not in body
    assert body["format"] == r.FORMAT


@pytest.mark.parametrize("uuid", ["4f4ff2f8-0c3a-4b54-a0a5-4a8a4b2d7a11", "with.dots/and slashes"])
def test_delay_and_arrival_names_come_back(uuid: str) -> None:
    key = DelayKey(flow_uuid=uuid, atom_uuid=uuid, kind=REVERT, attempt=12)
    name = node.delay_name(key)
    assert "/" not in name
    assert node.read_delay_name(uuid, name) == key
    assert node.read_arrival_name(uuid, node.arrival_name(7, key)) == key
    assert node.unquote(node.quote(uuid)) == uuid


def test_arrivals_are_in_order_of_their_numbers() -> None:
    key = DelayKey(flow_uuid="f", atom_uuid="a", kind=REVERT, attempt=1)
    names = [node.arrival_name(number, key) for number in (2, 10, 100)]
    assert sorted(names) == names


def test_delay_comes_back_without_the_bodies_of_its_outcomes() -> None:
    key = DelayKey(flow_uuid="f", atom_uuid="a", kind=REVERT, attempt=1)
    wanted = r.DelayRecord(
        key=key,
        task_name="task",
        opened_at=1,
        details_text='{"a":1}',
        outcome=Encoded("result", None, "digest"),
        arrived_at=2,
        arrival_number=3,
        delivery_id="d",
        absorbed_at=4,
        closed_at=5,
        close_reason=r.CLOSED_ENDED,
        late=Encoded("failure", None, "another"),
        late_at=6,
    )
    assert node.decode_delay(key, node.encode_delay(wanted)) == wanted
    empty = r.DelayRecord(key=key, task_name="task")
    assert node.decode_delay(key, node.encode_delay(empty)) == empty


def test_every_field_of_a_record_but_one_is_stored() -> None:
    body = json.loads(node.encode_flow(node.FlowNode(record=FLOW)))
    expected = set(r.FlowRecord.__dataclass_fields__) - {"lease_expires_at"}
    assert expected <= set(body)
