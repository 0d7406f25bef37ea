# SPDX-License-Identifier: Apache-2.0
"""Znodes that put things into the order of time.

An index is a znode with *buckets* below it, one for each minute, and in each
bucket an empty znode for each thing: ``<minute>/<instant>.<name>``. So the
oldest things are found without listing all, and no list outgrows a packet
unless very much happens in one minute.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from lazy_engine.ledger.zookeeper_connection import Connection

_BUCKET_MICROS: Final = 60_000_000

#: A bucket that is older than this and empty is deleted by who comes across it.
#: A writer whose bucket goes just then makes it anew.
_KEPT_BUCKETS: Final = 60

#: How many buckets are listed at a time.
_BATCH: Final = 64


def entry_path(index_path: str, at: int, name: str) -> str:
    """Return the path of a thing's entry.

    :param at: instant in microseconds since 1970 UTC.
    :param name: without slashes.
    """
    return f"{index_path}/{at // _BUCKET_MICROS:010d}/{at:016d}.{name}"


def entries(
    connection: Connection,
    index_path: str,
    *,
    now: int,
    from_at: int = 0,
    before_at: int | None = None,
) -> Iterator[Sequence[tuple[int, str]]]:
    """Yield instants and names in order of time, bucket by bucket.

    Within a bucket things come in the order of their names if their instants
    are the same. Empty buckets of the past are deleted on the way.

    :param from_at: leave out what is before that instant.
    :param before_at: leave out what is not before that instant.
    """
    buckets = [
        name
        for name in connection.children(index_path)
        if int(name) >= from_at // _BUCKET_MICROS
        and (before_at is None or int(name) <= before_at // _BUCKET_MICROS)
    ]
    oldest_kept = now // _BUCKET_MICROS - _KEPT_BUCKETS
    for batch in _batches(buckets):
        paths = [f"{index_path}/{name}" for name in batch]
        listed = connection.children_of(paths)
        connection.discard(
            path
            for path, bucket, names in zip(paths, batch, listed, strict=True)
            if not names and int(bucket) < oldest_kept
        )
        for names in listed:
            found = [_read(name) for name in names]
            wanted = [
                (at, name)
                for at, name in found
                if at >= from_at and (before_at is None or at < before_at)
            ]
            if wanted:
                yield wanted


def _read(entry: str) -> tuple[int, str]:
    at, _, name = entry.partition(".")
    return int(at), name


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    # The first one is small: often the first page is all that is wanted.
    sizes = itertools.chain((8,), itertools.repeat(_BATCH))
    start = 0
    for size in sizes:
        if start >= len(names):
            return
        yield names[start : start + size]
        start += size
