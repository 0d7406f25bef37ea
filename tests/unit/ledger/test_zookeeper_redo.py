# SPDX-License-Identifier: Apache-2.0
"""Chunks of a redo: what is written in them comes back, in order, in pieces that fit."""

from __future__ import annotations

from lazy_engine.ledger.zookeeper_connection import Delete, Operation, Put, size_of
from lazy_engine.ledger.zookeeper_redo import decode, encode, split

OPERATIONS: list[Operation] = [
    Put("/a", b'{"x": "\xc3\xbc\n"}', is_new=True),
    Delete("/b"),
    Put("/c", b"", is_new=True, makes_parent=True),
    Put("/d", b"\n\n", is_new=False),
]


def test_chunk_comes_back() -> None:
    assert decode(encode(OPERATIONS)) == OPERATIONS


def test_pieces_keep_the_order_and_fit() -> None:
    many: list[Operation] = [
        Put(f"/{number}", b"x" * (number % 7) * 100, is_new=True) for number in range(50)
    ]
    pieces = list(split(many, 1500))
    assert [one for piece in pieces for one in piece] == many
    assert all(sum(map(size_of, piece)) <= 1500 for piece in pieces)
    assert len(pieces) > 5


def test_chunk_is_no_larger_than_what_was_reckoned_for_it() -> None:
    """One that holds as much as fits must fit itself."""
    assert len(encode(OPERATIONS)) <= sum(map(size_of, OPERATIONS))


def test_operation_that_fills_a_piece_alone_gets_one() -> None:
    large = Put("/large", b"x" * 1000, is_new=True)
    assert [len(piece) for piece in split([large, large, Delete("/b")], 1250)] == [1, 2]
