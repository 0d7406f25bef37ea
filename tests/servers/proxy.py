# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy in front of a server, for losing what goes over the network: all of it, or one answer."""

from __future__ import annotations

import contextlib
import dataclasses
import select
import socket
import threading
from typing import Self

from tests.servers.process import free_port

_LOOK_SECONDS = 0.02
_LAST_ANSWER_SECONDS = 10.0


@dataclasses.dataclass
class _Loss:
    word: bytes
    after: bytes
    is_carried_out: bool
    and_cut: bool
    began_on: set[socket.socket] = dataclasses.field(default_factory=set)


class Proxy:
    """Forwards connections to a port of 127.0.0.1 until told otherwise.

    :param target_port: where the server listens
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", free_port()))
        self._listener.settimeout(_LOOK_SECONDS)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._links: dict[threading.Thread, tuple[socket.socket, socket.socket]] = {}
        self._is_cut = False
        self._is_stalled = False
        self._is_closed = False
        self._to_lose: _Loss | None = None
        self._has_lost = False
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)

    @property
    def hosts(self) -> str:
        """The address to give to a client."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """End all connections, and new ones as soon as they are made."""
        with self._lock:
            self._is_cut = True
            links = list(self._links.items())
        for thread, pair in links:
            _hang_up(*pair)
            thread.join()

    def stall(self) -> None:
        """Keep connections, old ones and new ones, and let nothing through."""
        self._is_stalled = True

    def restore(self) -> None:
        """Forward again, also what was held back."""
        self._is_cut = self._is_stalled = False

    def lose(
        self, word: bytes, *, is_carried_out: bool, after: bytes = b"", and_cut: bool = False
    ) -> None:
        """End the connection over which the next request with a word in it comes.

        :param is_carried_out: whether the server is to get the request; then the connection ends once it has
            answered, and gone through all that it was sent
        :param after: only on a connection on which a request with that word came since this was called
        :param and_cut: whether all that comes afterwards is lost, too
        """
        with self._lock:
            self._has_lost = False
            self._to_lose = _Loss(word, after, is_carried_out, and_cut)

    @property
    def has_lost(self) -> bool:
        """Whether the request that was to be lost has come."""
        return self._has_lost

    def close(self) -> None:
        """End all connections for good."""
        self._is_closed = True
        self._accepting.join()
        self.cut()
        self._listener.close()

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            with self._lock:
                link = None if self._is_cut else self._link(client)
            if link is None:
                _hang_up(client)
            else:
                link.start()

    def _link(self, client: socket.socket) -> threading.Thread | None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port))
        except OSError:
            return None
        thread = threading.Thread(
            target=self._forward, args=(client, server), name="proxy link", daemon=True
        )
        self._links[thread] = (client, server)
        return thread

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):  # one side, or cut(), has hung up
            while True:
                ready, _, _ = select.select([client, server], [], [], _LOOK_SECONDS)
                for source in () if self._is_stalled else ready:
                    data = source.recv(65536)
                    if not data:
                        raise ConnectionResetError
                    is_carried_out = self._found(client, data) if source is client else None
                    if is_carried_out is not False:
                        (server if source is client else client).sendall(data)
                    if is_carried_out:
                        _await_last_answer(server)
                    if is_carried_out is not None:
                        raise ConnectionResetError
        _hang_up(client, server)
        with self._lock:
            self._links.pop(threading.current_thread(), None)

    def _found(self, client: socket.socket, data: bytes) -> bool | None:
        """Whether the request to lose is to be carried out, or None if this is not it."""
        with self._lock:
            loss = self._to_lose
            if loss is None:
                return None
            if loss.after in data:
                loss.began_on.add(client)
            if client not in loss.began_on or loss.word not in data:
                return None
            self._to_lose = None
            self._has_lost = True
            self._is_cut = self._is_cut or loss.and_cut
            return loss.is_carried_out


def _await_last_answer(server: socket.socket) -> None:
    server.settimeout(_LAST_ANSWER_SECONDS)
    server.recv(65536)
    # What answered may have been a request sent with the one to lose, before it.
    server.shutdown(socket.SHUT_WR)
    while server.recv(65536):
        pass


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
