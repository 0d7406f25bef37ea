# SPDX-License-Identifier: Apache-2.0
"""Who may: keys of operators, and signatures of callers that have one."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

#: Shorter secrets can be guessed.
MIN_SECRET_LENGTH: Final = 16

_SCHEME: Final = "bearer"


def require_strong(secrets: Sequence[str]) -> None:
    """Refuse secrets that can be guessed.

    :raises ValueError: without repeating them.
    """
    for secret in secrets:
        if len(secret) < MIN_SECRET_LENGTH or not secret.isascii() or not secret.isprintable():
            raise ValueError(
                f"a key must have at least {MIN_SECRET_LENGTH} characters, all printable ASCII:"
                " make one with 'openssl rand -hex 32'"
            )


class Right(enum.IntEnum):
    """What somebody may do; each right has those before it in it."""

    NONE = 0
    LOOK = 1
    ACT = 2


class Keys:
    """Operators' API keys; several may hold at once, so that they can be rotated.

    Only digests are kept, which are of one length whatever is compared.

    :param acting: whoever has one may look and act.
    :param looking: whoever has one may look.
    :raises ValueError: one can be guessed, or is of both sorts.
    """

    def __init__(self, acting: Sequence[str], looking: Sequence[str] = ()) -> None:
        require_strong([*acting, *looking])
        if set(acting) & set(looking):
            raise ValueError("a key for looking only must not be one for acting, too")
        self._rights = [(_digest(key.encode()), Right.ACT) for key in acting]
        self._rights += [(_digest(key.encode()), Right.LOOK) for key in looking]

    def right_of(self, authorization: str | None) -> Right:
        """Return what whoever sent an ``Authorization`` header may do; every key is compared."""
        scheme, _, given = (authorization or "").partition(" ")
        digest = _digest(given.strip().encode("utf-8", "surrogatepass"))
        found = [
            right if hmac.compare_digest(digest, each) else Right.NONE
            for each, right in self._rights
        ]
        return max(found, default=Right.NONE) if scheme.lower() == _SCHEME else Right.NONE


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Signature:
    """How callers sign what they send, beside the token (HMAC-SHA-256, hexadecimal).

    The defaults bind time, token and body. For callers with a convention of
    their own say theirs; Slack's is ``header="X-Slack-Signature",
    timestamp_header="X-Slack-Request-Timestamp", prefix="v0=",
    signed="v0:{timestamp}:{body}"``.

    :ivar secrets: each counts, so that they can be rotated; at least 16 characters.
    :ivar header: where the signature stands.
    :ivar prefix: what stands before the hexadecimal digits there.
    :ivar timestamp_header: where the time of sending stands, in whole seconds
        since 1970.
    :ivar signed: what is signed; ``{timestamp}``, ``{token}`` (empty for a
        batch) and ``{body}`` stand for themselves. Must have time and body.
    :ivar replay_seconds: how far that time may be from now, either way. Within
        it the very same request may come again, and is a duplicate.
    """

    secrets: Sequence[str]
    header: str = "X-Lazy-Signature"
    prefix: str = ""
    timestamp_header: str = "X-Lazy-Timestamp"
    signed: str = "{timestamp}.{token}.{body}"
    replay_seconds: float = 300.0
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not self.secrets:
            raise ValueError("a signature needs at least one secret")
        require_strong(self.secrets)
        if "{timestamp}" not in self.signed or not self.signed.endswith("{body}"):
            raise ValueError("what is signed must have {timestamp} in it, and end with {body}")

    def allows(self, headers: Mapping[str, str], token: str, body: bytes) -> bool:
        """Whether a request was signed with one of the secrets, and just now.

        :param headers: with lower-case names, or a mapping that does not mind.
        """
        timestamp = headers.get(self.timestamp_header.lower(), "")
        given = headers.get(self.header.lower(), "").encode("utf-8", "replace")
        # Digits alone: nothing in a timestamp may pass for the part after it.
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 20):
            return False
        lead = self.signed.removesuffix("{body}")
        lead = lead.replace("{timestamp}", timestamp).replace("{token}", token)
        message = lead.encode("utf-8", "surrogatepass") + body
        found = [
            hmac.compare_digest(
                given,
                (self.prefix + hmac.new(secret.encode(), message, "sha256").hexdigest()).encode(),
            )
            for secret in self.secrets
        ]
        return any(found) and abs(self.clock() - int(timestamp)) <= self.replay_seconds
