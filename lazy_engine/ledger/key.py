# SPDX-License-Identifier: Apache-2.0
"""Signing keys: made once and kept in the store, or given by configuration.

Configured keys stand in the environment variable ``LAZY_ENGINE_KEYS`` as
``ID:BASE64[,ID:BASE64…]``; the first signs new flows, all verify. Without it
the store's newest key signs and every stored key verifies.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Final

from lazy_engine import errors, fork
from lazy_engine.token import Key

ENVIRONMENT_VARIABLE: Final = "LAZY_ENGINE_KEYS"

_SECRET_BYTES: Final = 32
_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


def make() -> Key:
    """Return a new random key."""
    return Key(key_id=secrets.token_hex(4), secret=secrets.token_bytes(_SECRET_BYTES))


def encode_secret(key: Key) -> str:
    """Return the key's secret as text."""
    return base64.b64encode(key.secret).decode()


def decode(key_id: str, text: str) -> Key:
    """Return the key for a stored or configured id and secret.

    :raises ValueError: telling what is wrong with it, without showing it.
    """
    if not _ID_PATTERN.fullmatch(key_id):
        raise ValueError("a key id is 1 to 32 letters, digits, '-' and '_'")
    try:
        secret = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"the secret of key {key_id!r} is not base64") from None
    if len(secret) < 16:
        raise ValueError(f"the secret of key {key_id!r} is shorter than 16 bytes")
    return Key(key_id=key_id, secret=secret)


def configured() -> Mapping[str, Key]:
    """Return the keys given by the environment, the signing one first.

    :raises ValueError: the variable is set but not well formed.
    """
    text = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    found: dict[str, Key] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key_id, separator, secret = part.partition(":")
        if not separator:
            raise ValueError(f"{ENVIRONMENT_VARIABLE} must read ID:BASE64[,ID:BASE64...]")
        if key_id in found:
            raise ValueError(f"{ENVIRONMENT_VARIABLE} names the key {key_id!r} twice")
        found[key_id] = decode(key_id, secret)
    return found


class KeyRing(fork.Forkable):
    """Finds keys by id, and asks the store only for those it has not seen.

    :param fetch: returns all stored keys, the signing one first; makes the
        first one if there is none.
    """

    def __init__(self, fetch: Callable[[], Mapping[str, Key]]) -> None:
        self._fetch = fetch
        self._configured = configured()
        self._stored: Mapping[str, Key] = {}
        self.begin_anew()
        fork.watch(self)

    def begin_anew(self) -> None:
        """Make the lock, again in a forked child: a thread of its parent's may have had it."""
        self._lock = threading.Lock()

    def find(self, key_id: str | None = None) -> Key:
        """Return the key with that id, or the one that signs new flows.

        :raises InvalidToken: this deployment has no such key.
        """
        for known in (self._configured, self._stored):
            if key_id is None and known:
                return next(iter(known.values()))
            if key_id is not None and key_id in known:
                return known[key_id]
        with self._lock:
            self._stored = self._fetch()
        if key_id is None:
            return next(iter(self._stored.values()))
        try:
            return self._stored[key_id]
        except KeyError:
            raise errors.InvalidToken(
                "the token is not valid here: another deployment signed it (or its key is gone);"
                " nothing was recorded: deliver it where its flow is stored"
            ) from None
