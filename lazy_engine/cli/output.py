# SPDX-License-Identifier: Apache-2.0
"""What the command line prints: words or JSON on stdout, errors on stderr.

Task names, details and failure messages come from elsewhere. None of them may
move the cursor of the terminal they are shown on, and no token may slip out
with them.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

from lazy_engine.token import mask

_STYLES: Final[Mapping[str, str]] = {
    "good": "32",
    "bad": "31",
    "waiting": "33",
    "working": "36",
    "faint": "2",
    "strong": "1",
}
#: How often it is said that something still goes on.
_TELL_SECONDS: Final = 1.0
_GLYPHS: Final = "├└│─✔✘◷▶·↺"


def printable(text: str) -> str:
    """Return *text* on one line, without tokens and terminal control codes."""
    line = " ".join(mask(text).split())
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in line
    )


def shorten(text: str, width: int) -> str:
    """Return *text* cut to *width* characters."""
    return text if len(text) <= width else text[: width - 3] + "..."


def compact(value: object) -> str:
    """Return a JSON value as people read it: ``why: audit, by: ops``."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(inner)}" for name, inner in value.items())
    return _plain(value)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def age(seconds: float) -> str:
    """Return a duration in its two largest units."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min"
    if left < 86400:
        return f"{left // 3600} h {left % 3600 // 60} min"
    return f"{left // 86400} d {left % 86400 // 3600} h"


def times(count: int) -> str:
    """Return how often something happened, in words."""
    return "once" if count == 1 else f"{count} times"


def as_json(value: object) -> Any:
    """Return a stand-in for what JSON does not know; for ``json.dumps(default=…)``."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return str(value)


class Output:
    """Prints for people, or as JSON.

    Keeps the stdout it was made with: what a flow's own code prints is sent
    elsewhere while it runs.

    :param is_json: print JSON only.
    :param stdout: where answers go.
    :param stderr: where errors and remarks go.
    """

    def __init__(
        self, *, is_json: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.is_json = is_json
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        self._secrets: list[str] = []
        self._status = ""
        self._lock = threading.RLock()
        self.has_colour = wants_colour(self._stdout)
        self.has_unicode = _can_encode(self._stdout)

    def hide(self, secret: str) -> None:
        """Never print *secret* (a password of a server's address) in an error."""
        self._secrets.append(secret)

    def line(self, text: str = "") -> None:
        """Print a line for people; nothing in JSON mode."""
        if not self.is_json:
            self._write(text)

    def json(self, value: object) -> None:
        """Print a JSON document on one line; nothing in the mode for people."""
        if self.is_json:
            self._write(json.dumps(value, default=as_json, ensure_ascii=False))

    def remark(self, text: str) -> None:
        """Print a line on stderr."""
        line = printable(text)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        with self._without_status():
            print(line, file=self._stderr, flush=True)

    def ask(self, question: str) -> None:
        """Print a question on stderr and leave the cursor behind it."""
        print(printable(question) + " ", end="", file=self._stderr, flush=True)

    @property
    def shows_progress(self) -> bool:
        """Whether somebody watches a terminal on stderr."""
        return self._stderr.isatty() and not self.is_json

    def status(self, text: str) -> None:
        """Keep a line on stderr below all that is printed; the empty text takes it away.

        Does nothing where nobody watches a terminal. A line that is wider than
        the terminal could not be taken away again, so it is cut.
        """
        if not self.shows_progress or text == self._status:
            return
        with self._lock:
            self._status = shorten(printable(text), _columns(self._stderr) - 1)
            self._write_status(self._status)

    @contextlib.contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """While something takes long, say so, and for how long, on the line of :meth:`status`."""
        if not self.shows_progress:
            yield
            return
        began_at = time.monotonic()
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(_TELL_SECONDS):
                self.status(f"{text}: {age(time.monotonic() - began_at)}")

        thread = threading.Thread(target=tell, name="lazy-engine-busy", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.status("")

    @contextlib.contextmanager
    def _without_status(self) -> Iterator[None]:
        with self._lock:
            if self._status:
                self._write_status("")
            yield
            if self._status:
                self._write_status(self._status)

    def _write_status(self, text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=self._stderr, flush=True)

    def error(self, text: str) -> None:
        """Print what went wrong on stderr, in one line."""
        self.remark(f"lazy-engine: {text}")

    def trace(self, text: str) -> None:
        """Print a traceback on stderr, for ``--debug``."""
        masked = mask(text)
        for secret in self._secrets:
            masked = masked.replace(secret, "***")
        print(masked, file=self._stderr, flush=True)

    def style(self, text: str, name: str) -> str:
        """Return *text* in a colour, where there are colours."""
        return f"\x1b[{_STYLES[name]}m{text}\x1b[0m" if self.has_colour else text

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows in columns; the last column is as wide as it is."""
        cells = [list(head), *(list(row) for row in rows)]
        widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
        for number, row in enumerate(cells):
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            text = "  ".join(padded).rstrip()
            self.line(self.style(text, "strong") if number == 0 else text)

    def _write(self, text: str) -> None:
        encoding = self._stdout.encoding or "utf-8"
        safe = text.encode(encoding, "backslashreplace").decode(encoding)
        with self._without_status():
            print(safe, file=self._stdout, flush=True)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour what is written there.

    Source: https://no-color.org; ``FORCE_COLOR`` is for whoever pipes the
    output of one program into a terminal of another.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _can_encode(stream: TextIO) -> bool:
    try:
        _GLYPHS.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
