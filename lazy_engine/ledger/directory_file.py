# SPDX-License-Identifier: Apache-2.0
"""The files in which TaskFlow's directory backend keeps details.

Its layout (taskflow 6.5, ``persistence/path_based.py``)::

    books/BOOK/metadata          flow_details/FLOW/metadata     atom_details/ATOM/metadata
    books/BOOK/FLOW -> …         flow_details/FLOW/ATOM -> …

Metadata are JSON; what belongs to a book or a flow is known by the names of
the symbolic links in it, whose targets are never looked at.

TaskFlow writes a file in place under a lock beside it, makes the directory of
whatever uuid it is asked for in order to lock there, and lets nothing reach
the disk for certain. Here a file is replaced as a whole, so that no reader
sees half of one, and reading makes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any, Final

import fasteners

from lazy_engine import errors

BOOK: Final = "book"
FLOW: Final = "flow"
ATOM: Final = "atom"

_DIRECTORIES: Final = {BOOK: "books", FLOW: "flow_details", ATOM: "atom_details"}

#: Name of a file that is about to be renamed; TaskFlow looks at links and ``metadata`` only.
_DRAFT: Final = "metadata.lazy_engine"

#: What may be the name of a directory without leading anywhere else, and cannot be
#: that of a file which TaskFlow or this module puts among the links.
_PLAIN: Final = re.compile(r"(?!metadata|lock$)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")


class DetailFiles:
    """Reads and writes TaskFlow's files; writers must not meet each other.

    :param path: the backend's directory.
    :param encoding: how the backend encodes its files.
    """

    def __init__(self, path: str, encoding: str) -> None:
        self._root = pathlib.Path(path)
        self._encoding = encoding
        self._touched: set[pathlib.Path] = set()

    def require_directories(self) -> None:
        """Check that TaskFlow's directories exist.

        :raises StoreUnavailable: they do not.
        """
        for name in _DIRECTORIES.values():
            if not (self._root / name).is_dir():
                raise errors.StoreUnavailable(
                    f"{self._root} has no TaskFlow directories yet: run 'lazy-engine init', or"
                    " call upgrade() on a connection of the persistence backend"
                )

    @staticmethod
    def is_plain(uuid: str) -> bool:
        """Whether a uuid can be the name of a directory."""
        return _PLAIN.fullmatch(uuid) is not None

    def _place(self, kind: str, uuid: str) -> pathlib.Path:
        if not self.is_plain(uuid):
            raise errors.StoreUnavailable(
                f"{uuid!r} cannot be the uuid of a {kind} in a directory: use letters, digits,"
                " '-', '_' and '.'; nothing was written"
            )
        return self._root / _DIRECTORIES[kind] / uuid

    # -- reading ----------------------------------------------------------

    def read(self, kind: str, uuid: str) -> dict[str, Any] | None:
        """Return what is in a detail's file, or ``None`` if there is none.

        :raises FlowIncident: it is not JSON.
        :raises StoreUnavailable: it cannot be read.
        """
        if not self.is_plain(uuid):
            return None
        path = self._place(kind, uuid) / "metadata"
        with _reading(path):
            try:
                found: dict[str, Any] = json.loads(path.read_text(self._encoding))
            except (FileNotFoundError, NotADirectoryError):
                return None
            except ValueError:
                # TaskFlow may be in the middle of writing it.
                with fasteners.InterProcessLock(str(path.with_name("lock"))):
                    found = json.loads(path.read_text(self._encoding))
            return found

    def members(self, kind: str, uuid: str) -> list[str]:
        """Return the uuids of what belongs to a book or a flow."""
        if not self.is_plain(uuid):
            return []
        place = self._place(kind, uuid)
        with _reading(place):
            try:
                with os.scandir(place) as entries:
                    return sorted(entry.name for entry in entries if entry.is_symlink())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def book_of(self, flow_uuid: str) -> str | None:
        """Return the uuid of the book that a flow belongs to."""
        books = self._root / _DIRECTORIES[BOOK]
        with _reading(books):
            for uuid in os.listdir(books):
                if (books / uuid / flow_uuid).is_symlink():
                    return uuid
        return None

    # -- writing ----------------------------------------------------------

    def write(self, kind: str, uuid: str, text: str) -> None:
        """Replace a detail's file."""
        place = self._place(kind, uuid)
        path, draft = place / "metadata", place / _DRAFT
        if not place.is_dir():
            place.mkdir()
            self._touched.add(place.parent)
        with open(draft, "wb") as file:
            file.write(text.encode(self._encoding))
            file.flush()
            os.fsync(file.fileno())
        # TaskFlow reads a file again only if its time of change has grown, and a
        # file system's clock may stand still for some milliseconds.
        with contextlib.suppress(FileNotFoundError):
            changed_ns = max(time.time_ns(), path.stat().st_mtime_ns + 1_000_000)
            os.utime(draft, ns=(changed_ns, changed_ns))
        os.replace(draft, path)
        self._touched.add(place)

    def link(self, parent_kind: str, parent_uuid: str, kind: str, uuid: str) -> None:
        """Make a detail belong to a book or a flow."""
        parent = self._place(parent_kind, parent_uuid)
        place = self._place(kind, uuid)
        with contextlib.suppress(FileExistsError):
            (parent / uuid).symlink_to(place)
        self._touched.add(parent)

    def unlink(self, parent_kind: str, parent_uuid: str, uuid: str) -> None:
        """Make a detail no longer belong to a book or a flow."""
        parent = self._place(parent_kind, parent_uuid)
        if (parent / uuid).is_symlink():
            (parent / uuid).unlink()
            self._touched.add(parent)

    def remove(self, kind: str, uuid: str) -> None:
        """Remove a detail's directory with its file and links."""
        place = self._place(kind, uuid)
        self._touched.discard(place)
        if place.is_symlink():  # put there by somebody else; what it leads to is theirs
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
        self._touched.add(place.parent)

    def settle(self) -> None:
        """Have the disk know all names that were made or removed since the last call."""
        while self._touched:
            directory = os.open(self._touched.pop(), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.StoreUnavailable(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise errors.FlowIncident(
            f"{path} is damaged: {error}; restore it from a copy, then resume the flow"
        ) from error
