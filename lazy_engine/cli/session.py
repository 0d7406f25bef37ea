# SPDX-License-Identifier: Apache-2.0
"""What one call of the command line works with: the store, the job board, the output."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc
from taskflow import exceptions as taskflow_exceptions
from taskflow.jobs import backends as job_backends

from lazy_engine import address as address_module
from lazy_engine import board as board_drivers
from lazy_engine import doorbell, errors
from lazy_engine.access import open_backend
from lazy_engine.address import ZOOKEEPER, configuration, kind_of
from lazy_engine.cli import zookeeper
from lazy_engine.cli.exit_code import BoardUnreachable, UsageError
from lazy_engine.cli.output import Output
from lazy_engine.client import Client

LOG = logging.getLogger(__name__)

_BOARD_NAME: Final = "lazy-engine"


class Session:
    """Opens the store and the job board when they are asked for; closes them in the end.

    :param persistence: the store's address, or ``None``.
    :param jobboard: the job board's address, or ``None``.
    """

    def __init__(self, persistence: str | None, jobboard: str | None, output: Output) -> None:
        self.output = output
        self.persistence = persistence
        self.jobboard = jobboard
        self._closing = contextlib.ExitStack()
        for address in (persistence, jobboard):
            self.hide_passwords(address)

    def close(self) -> None:
        """Close what was opened."""
        self._closing.close()

    def hide_passwords(self, address: str | None) -> None:
        """Have no error repeat the passwords of a server's address."""
        for secret in _passwords(address):
            self.output.hide(secret)

    @property
    def store_name(self) -> str:
        """The store's address without its password."""
        address = self._require_persistence()
        if kind_of(address) == ZOOKEEPER:
            return board_name(address)
        return _url(address).render_as_string(hide_password=True)

    def open_store(self, *, may_create: bool = False) -> Any:
        """Return the persistence backend.

        :param may_create: an SQLite file or a directory that does not exist is made.
        :raises UsageError: none was named, or not in a way that can be read.
        :raises UnsupportedBackend: there is no ledger for it.
        :raises StoreUnavailable: it cannot be reached.
        """
        address = self._require_persistence()
        if kind_of(address) != ZOOKEEPER:
            _require_there(address, may_create=may_create)
        try:
            backend = open_backend(address)
        except ValueError as error:
            if isinstance(error, errors.LazyEngineError):
                raise
            raise UsageError(f"--persistence {self.store_name}: {error}") from error
        self._closing.callback(backend.close)
        return backend

    def open_client(self, *, may_create: bool = False, rings: bool = False) -> Client:
        """Return a client; see :meth:`open_store` for what is raised.

        :param rings: connect to the job board too, if there is one.
        :raises BoardUnreachable: it does not answer.
        """
        backend = self.open_store(may_create=may_create)
        board = self.open_board(backend) if rings and self.jobboard else None
        return Client(backend, board)

    def open_board(self, backend: Any) -> Any:
        """Return the job board, connected.

        :raises UsageError: none was named, or not in a way that can be read.
        :raises BoardUnreachable: it does not answer.
        """
        if not self.jobboard:
            raise UsageError(
                "no job board: give --jobboard zookeeper://host:port/path (or redis://…), or set"
                " LAZY_ENGINE_JOBBOARD"
            )
        conf = board_conf(self.jobboard)
        options: dict[str, Any] = {"persistence": backend}
        if conf["board"] == "zookeeper" and (client := zookeeper.make_client(conf)) is not None:
            self._closing.callback(zookeeper.close_client, client)
            options["client"] = client
        try:
            board = job_backends.fetch(_BOARD_NAME, conf, **options)
        except taskflow_exceptions.NotFound as error:
            raise UsageError(
                f"there is no job board of kind {conf['board'].partition(':')[0]!r}: use"
                " zookeeper://host:port/path, redis://host:port or etcd://host:port/path"
            ) from error
        except (TypeError, ValueError) as error:
            raise UsageError(f"--jobboard: {error}") from error
        except ImportError as error:
            raise UsageError(
                f"the job board's driver is not installed ({error}): install"
                f" lazy_engine[{conf['board']}]"
            ) from error
        try:
            doorbell.connect(board_drivers.of(board))
        except Exception as error:
            # TaskFlow lets whatever its drivers raise through when it connects.
            raise BoardUnreachable(
                f"cannot reach the job board at {board_name(self.jobboard)}: {_first_line(error)}"
            ) from error
        self._closing.callback(_close_board, board)
        return board

    @contextlib.contextmanager
    def others_code(self) -> Iterator[None]:
        """While a flow's own code runs, send what it prints to stderr.

        Standard output carries the command's answer and nothing else.
        """
        with contextlib.redirect_stdout(sys.stderr):
            yield

    def _require_persistence(self) -> str:
        if not self.persistence:
            raise UsageError(
                "no store: give --persistence sqlite:////path/to/flows.db, or set"
                " LAZY_ENGINE_PERSISTENCE"
            )
        return self.persistence


def _url(address: str) -> sa.URL:
    try:
        return sa.engine.make_url(address)
    except (sa_exc.ArgumentError, ValueError) as error:
        raise UsageError(
            "--persistence takes an address such as sqlite:////path/to/flows.db,"
            " postgresql+psycopg://user@host/database or zookeeper://host:port/path"
        ) from error


def _require_there(address: str, *, may_create: bool) -> None:
    url = _url(address)
    if url.get_backend_name() == "sqlite" and not may_create:
        _require_file(url)
    if url.get_backend_name() in ("dir", "file") and not may_create:
        _require_directory(address)
    if url.get_backend_name() == "memory":
        raise UsageError("a memory store ends with the command that made it: use sqlite")


def _require_file(url: sa.URL) -> None:
    name = url.database or ""
    if name in ("", ":memory:") or name.startswith("file:"):
        return
    if not pathlib.Path(name).exists():
        raise errors.StoreUnavailable(
            f"there is no SQLite file {name}: 'lazy-engine init' makes it (or is the path wrong?)"
        )


def _require_directory(address: str) -> None:
    path = configuration(address)["path"]
    if not pathlib.Path(path).is_dir():
        raise errors.StoreUnavailable(
            f"there is no directory {path}: 'lazy-engine init' makes it (or is the path wrong?)"
        )


def board_conf(address: str) -> dict[str, Any]:
    """Return TaskFlow's configuration for a job board's address.

    :raises UsageError: it is no address.
    """
    kind, separator, _ = address.partition("://")
    if not separator or not kind:
        raise UsageError(
            "--jobboard takes an address such as zookeeper://host:port/path or redis://host:port"
        )
    try:
        return address_module.board_conf(address)
    except ValueError as error:
        raise UsageError(f"--jobboard: {error}") from error


def board_name(address: str) -> str:
    """Return a job board's or a store's address without password and options."""
    kind, _, rest = address.partition("://")
    return f"{kind}://{rest.partition('?')[0].rpartition('@')[2]}"


def _first_line(error: Exception) -> str:
    # TaskFlow's errors bring their causes along, a line for each.
    return str(error).partition("\n")[0] or type(error).__name__


def _passwords(address: str | None) -> set[str]:
    """Return an address' passwords as they are spelt there, and as they are meant."""
    try:
        parts = urllib.parse.urlsplit(address or "")
        options = dict(urllib.parse.parse_qsl(parts.query))
        found = {parts.password or "", options.get("keyfile_password", "")}
    except ValueError:
        return set()
    # SCHEME:CREDENTIAL, and of digest's user:secret the secret alone, too.
    credential = options.get("auth", "").partition(":")[2]
    found |= {credential, credential.partition(":")[2]}
    spelt = {urllib.parse.quote(text, safe=safe) for text in found for safe in ("", "/", ":/")}
    return (found | spelt | {urllib.parse.unquote(text) for text in found}) - {""}


def _close_board(board: Any) -> None:
    try:
        board.close()
    except Exception as error:
        # The answer has been given; a server that went away changes nothing.
        LOG.info("job board not closed: %s", error)
