# SPDX-License-Identifier: Apache-2.0
"""What happened while a scenario was told, in a file that outlives its processes."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Final

#: What an entry is about (its key ``"what"``), and its further keys.
#:
#: - ``life`` (``number``): a process began to tell the scenario.
#: - ``write`` (``number``, ``write``): it is about to make a durable write.
#: - ``begun`` (``task``, ``kind``, ``attempt``): an attempt of a task began.
#: - ``delay`` (… and ``delay_id``, ``token_digest``): that attempt made a ``Delay``.
#: - ``receipt`` (``task``, ``kind``, ``attempt``, ``disposition``, ``digest``): an outcome
#:   was delivered, and this was the answer.
LIFE: Final = "life"
WRITE: Final = "write"
BEGUN: Final = "begun"
DELAY: Final = "delay"
RECEIPT: Final = "receipt"

Entry = Mapping[str, Any]


class Journal:
    """Appends entries; several processes and threads may do so at once.

    An entry is one ``write()`` to a file opened for appending. It survives the
    end of the process that wrote it, which is all that dies in these tests.

    :param path: the file; made at the first entry.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        self.path = pathlib.Path(path)

    def note(self, what: str, **entry: Any) -> None:
        """Append an entry."""
        line = json.dumps({"what": what, "pid": os.getpid(), **entry}) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first, each with the number of its ``life``."""
        if not self.path.exists():
            return []
        entries: list[Entry] = []
        life = 0
        for line in self.path.read_text().splitlines():
            entry = json.loads(line)
            # One life ends before the next one begins.
            life = entry["number"] if entry["what"] == LIFE else life
            entries.append({**entry, "life": life})
        return entries
