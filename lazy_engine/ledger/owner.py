# SPDX-License-Identifier: Apache-2.0
"""Who owns a lease, in words that tell whether that owner can still be alive.

Expiry alone decides when a lease may be taken from an owner elsewhere. For an
owner on *this* machine there is better evidence: a process that is gone holds
nothing any more. Taking its lease early is safe in any case, since every
commit is fenced by the epoch.
"""

from __future__ import annotations

import functools
import os
import pathlib
import secrets
import socket

_PROC = pathlib.Path("/proc")


def name() -> str:
    """Return a new owner: this process, and a part of its own for each call.

    That part also keeps a run from being taken for another one of the same epoch, which
    a store that was set back to a backup comes to again: every commit names its owner.

    Shape: ``host/machine/pid/started/nonce``; ``machine`` names boot and
    process namespace, ``started`` is the process' start in clock ticks.
    """
    return f"{_process(os.getpid(), _PROC)}/{secrets.token_hex(4)}"


@functools.lru_cache(maxsize=1)
def _process(pid: int, _proc: pathlib.Path) -> str:
    """Return what all owners of this process have in common; a forked child has its own."""
    return "/".join((_host(), _machine(), str(pid), _started(pid) or "-"))


def is_dead(owner: str) -> bool:
    """Whether that owner's process is known to be gone.

    Never guesses: elsewhere, or without ``/proc``, the answer is no.
    """
    parts = owner.split("/")
    if len(parts) != 5 or parts[0] != _host() or parts[1] != _machine() or parts[1] == "-":
        return False
    try:
        pid = int(parts[2])
    except ValueError:
        return False
    return parts[3] != "-" and _started(pid) != parts[3]


def _host() -> str:
    return socket.gethostname().replace("/", "_")


def _machine() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return "-"
    return f"{boot}:{space}".replace("/", "_")


def _started(pid: int) -> str | None:
    """Return the process' start time in clock ticks since boot, from proc(5)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # Field 3 (state) comes first here; a zombie has ended and runs nothing.
    return None if fields[0] in ("Z", "X") else fields[19]
