# SPDX-License-Identifier: Apache-2.0
"""Tokens: signed text that names one attempt of one delayed task.

A token is ``lz1.<key id>.<name>.<signature>``. The name is the flow, the
atom, what is delayed (``execute`` or ``revert``) and the attempt, packed and
written in URL-safe base64. Nothing in it changes from one making to the next,
so that an attempt that is executed again after a crash has the same token.

Whoever holds a token can answer that one attempt and nothing else. The
signature is itsdangerous' HMAC-SHA256 with a derived key.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import re
import struct
import uuid
from typing import Final

import itsdangerous

from lazy_engine import errors

EXECUTE: Final = "execute"
REVERT: Final = "revert"

#: Longer text is refused unread.
MAX_LENGTH: Final = 1024

_PREFIX: Final = "lz1"
_SALT: Final = b"lazy_engine.token.1"
_KINDS: Final = {EXECUTE: b"e", REVERT: b"r"}
_KIND_NAMES: Final = {code: name for name, code in _KINDS.items()}
_UUID_TAG: Final = 0
_LOOKS_LIKE_ONE: Final = re.compile(r"lz1\.[A-Za-z0-9_.\-]+")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DelayKey:
    """Names one attempt of one atom; the primary key of a delay.

    :ivar kind: ``"execute"`` or ``"revert"``.
    :ivar attempt: counts from 1.
    """

    flow_uuid: str
    atom_uuid: str
    kind: str
    attempt: int

    @property
    def delay_id(self) -> str:
        """A UUID that is not secret and is the same after a crash and re-execution.

        Source: RFC 9562, version 5 (name-based).
        """
        name = f"{self.flow_uuid}/{self.atom_uuid}/{self.kind}/{self.attempt}"
        return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Key:
    """A signing key.

    :ivar key_id: short text without dots; it stands in every token.
    :ivar secret: at least 16 bytes.
    """

    key_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key(key_id={self.key_id!r}, secret=***)"


def mask(text: str) -> str:
    """Return *text* with every token in it made unreadable."""
    return _LOOKS_LIKE_ONE.sub("lz1.***", text)


def sign(name: DelayKey, key: Key) -> str:
    """Return the token for *name*; the same arguments give the same token."""
    text = base64.urlsafe_b64encode(_pack(name)).rstrip(b"=").decode()
    return _signer(key).sign(f"{_PREFIX}.{key.key_id}.{text}").decode()


def key_id_of(token: object) -> str:
    """Return the id of the key that a token says it was signed with.

    Nothing is proven by it: call :func:`verify` with that key next.

    :raises InvalidToken: for what does not even look like a token.
    """
    if not isinstance(token, str) or len(token) > MAX_LENGTH or not token.isascii():
        raise _invalid("it does not look like a token")
    parts = token.split(".")
    if len(parts) != 4 or parts[0] != _PREFIX or not parts[1]:
        raise _invalid("it does not look like a token (was it cut off?)")
    return parts[1]


def verify(token: str, key: Key) -> DelayKey:
    """Return what a token names, once its signature has been proven.

    :raises InvalidToken: malformed, altered, or signed by somebody else.
    """
    key_id_of(token)
    try:
        signed = _signer(key).unsign(token).decode()
        text = signed.split(".")[2]
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        name = _unpack(packed)
        # Base64 decoders read several texts as the same bytes; a token has one.
        is_exact = hmac.compare_digest(sign(name, key), token)
    except (itsdangerous.BadData, binascii.Error, ValueError, struct.error, LookupError):
        is_exact = False
    if not is_exact:
        raise _invalid("its signature does not fit; it was altered or is cut off")
    return name


def _invalid(why: str) -> errors.InvalidToken:
    return errors.InvalidToken(
        f"the token is not valid: {why}; nothing was recorded: take it anew from"
        " Client.token() or 'lazy-engine delays --tokens'"
    )


def _signer(key: Key) -> itsdangerous.Signer:
    return itsdangerous.Signer(
        key.secret, salt=_SALT, key_derivation="hmac", digest_method=hashlib.sha256
    )


def _pack(name: DelayKey) -> bytes:
    return b"".join(
        (
            _KINDS[name.kind],
            struct.pack(">I", name.attempt),
            _pack_identifier(name.flow_uuid),
            _pack_identifier(name.atom_uuid),
        )
    )


def _unpack(packed: bytes) -> DelayKey:
    kind = _KIND_NAMES[packed[:1]]
    (attempt,) = struct.unpack(">I", packed[1:5])
    flow_uuid, rest = _unpack_identifier(packed[5:])
    atom_uuid, rest = _unpack_identifier(rest)
    if rest:
        raise ValueError("trailing bytes")
    return DelayKey(flow_uuid=flow_uuid, atom_uuid=atom_uuid, kind=kind, attempt=attempt)


def _pack_identifier(identifier: str) -> bytes:
    # TaskFlow's uuids are UUIDs in their usual spelling, but nothing forces a
    # caller to name a flow so.
    try:
        parsed = uuid.UUID(identifier)
    except ValueError:
        parsed = None
    if parsed is not None and str(parsed) == identifier:
        return bytes([_UUID_TAG]) + parsed.bytes
    encoded = identifier.encode()
    if not 0 < len(encoded) < 256:
        raise ValueError("a flow's uuid must have 1 to 255 bytes to be named in a token")
    return bytes([len(encoded)]) + encoded


def _unpack_identifier(packed: bytes) -> tuple[str, bytes]:
    tag = packed[0]
    if tag == _UUID_TAG:
        return str(uuid.UUID(bytes=packed[1:17])), packed[17:]
    if len(packed) < 1 + tag:
        raise ValueError("cut off")
    return packed[1 : 1 + tag].decode(), packed[1 + tag :]
