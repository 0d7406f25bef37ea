# SPDX-License-Identifier: Apache-2.0
"""Which of several conductors answers a job first.

Highest random weight (rendezvous) hashing (Thaler and Ravishankar, 1998): all
who know the same conductors agree without a word, and when one comes or goes
only its own jobs change hands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def first_of(conductors: Iterable[str], job_name: str) -> str | None:
    """Return the conductor that is to answer a job at once; ``None`` if there is none."""
    return max(conductors, key=lambda name: (_weight(name, job_name), name), default=None)


def _weight(conductor: str, job_name: str) -> bytes:
    return hashlib.blake2b(f"{conductor}\0{job_name}".encode(), digest_size=8).digest()
