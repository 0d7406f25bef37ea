# SPDX-License-Identifier: Apache-2.0
"""End test servers whose test process died without doing so; run as a script, knows only the standard library.

It is a process and not ``PR_SET_PDEATHSIG``, because that signal fires when the *thread* that started the server ends,
and because setting it needs a ``preexec_fn``, which Python 3.12 warns about in a process that has threads.

Standard input carries JSON lines: ``{"add": KEY, "pid": int | null, "started": str | null, "signal": int, "directory": str}``
and ``{"drop": KEY}``. At its end, after ``{"quit": true}``, or when the parent is another one, everything that was added
and not dropped is ended. The end of input alone would not do: a forked child of the test process keeps the pipe open.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import time

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0


def start_mark(pid):
    """Return what tells this process from a later one with the same number, or None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def follow(parent_pid):
    """Keep the book until the parent is gone, and return it."""
    book = {}
    rest = b""
    while os.getppid() == parent_pid:
        if not select.select([0], [], [], _POLL_SECONDS)[0]:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            entry = json.loads(line)
            if "quit" in entry:
                return book
            if "drop" in entry:
                book.pop(entry["drop"], None)
            else:
                book[entry["add"]] = entry
    return book


def end(entries):
    """Ask every process to go, kill those that stay, and remove the directories."""
    running = [entry for entry in entries if entry["pid"] is not None]

    def send(number):
        for entry in running:
            if start_mark(entry["pid"]) == entry["started"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(entry["pid"], number)

    send(signal.SIGCONT)
    for entry in running:
        if start_mark(entry["pid"]) == entry["started"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(entry["pid"], entry["signal"])
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if not any(start_mark(entry["pid"]) == entry["started"] for entry in running):
            break
        time.sleep(0.05)  # they are no children of this process, which could be waited for
    send(signal.SIGKILL)
    for entry in entries:
        shutil.rmtree(entry["directory"], ignore_errors=True)


if __name__ == "__main__":
    end(list(follow(int(sys.argv[1])).values()))
