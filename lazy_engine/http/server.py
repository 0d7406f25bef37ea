# SPDX-License-Identifier: Apache-2.0
"""Serving the app by itself, with uvicorn."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import threading
from types import TracebackType
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from lazy_engine.http.event import IS_STOPPING

LOG = logging.getLogger(__name__)

_BACKLOG: Final = 2048
#: How long a start may take.
_START_SECONDS: Final = 30.0


class _Crowd:
    """The connections of a server that wait for a request.

    :param most: connections, of any kind, at the same time.
    :param seconds: how long one may wait, or not read its answer.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        self.most = most
        self.seconds = seconds
        self._waiting: dict[_PatientProtocol, asyncio.TimerHandle] = {}

    def add(self, protocol: _PatientProtocol) -> None:
        if protocol not in self._waiting:
            loop = asyncio.get_running_loop()
            self._waiting[protocol] = loop.call_later(self.seconds, protocol.hang_up)

    def remove(self, protocol: _PatientProtocol) -> None:
        timer = self._waiting.pop(protocol, None)
        if timer is not None:
            timer.cancel()

    def make_room(self, newcomer: _PatientProtocol) -> None:
        """Hang up on whoever has waited longest, if there are too many; else on the newcomer."""
        if len(newcomer.connections) > self.most:
            next(iter(self._waiting), newcomer).hang_up()


class _PatientProtocol(H11Protocol):
    """Gives a client so long for the head of its next request, and to read an answer.

    By itself uvicorn (0.54) waits for ever for the first request of a
    connection, for the rest of a head that has begun, and for a client that
    does not read.
    """

    def __init__(self, *, crowd: _Crowd, **options: Any) -> None:
        super().__init__(**options)
        self._crowd = crowd
        # Its own access log has paths with tokens in them, and minds no setting
        # where logging is set up by others; Gate writes one without.
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        # A short answer is two writes, and would wait for the other side to have noted the
        # first: 40 ms. asyncio (3.13) does so only where a socket was made naming TCP.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._crowd.make_room(self)
        self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        # From now on it waits, even if the body of the last request still comes.
        self._crowd.remove(self)
        super().on_response_complete()
        self._note()

    def pause_writing(self) -> None:
        # The other side does not read, and uvicorn would wait for it for ever.
        self._unread_timer = self.loop.call_later(self._crowd.seconds, self.hang_up)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_timer.cancel()
        super().resume_writing()

    def hang_up(self) -> None:
        """Close the connection; what the other side does not read is thrown away."""
        self._crowd.remove(self)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _note(self) -> None:
        cycle: Any = self.cycle  # uvicorn's own types leave out that it begins as None
        is_waiting = cycle is None or cycle.response_complete
        if is_waiting and not self.transport.is_closing():
            self._crowd.add(self)
        else:
            self._crowd.remove(self)


class Server:
    """Serves an app in a thread of its own.

    :param app: any ASGI app.
    :param host: an address of this machine.
    :param port: 0 takes a free one; see :attr:`url`.
    :param connections: how many at most. If there are more, those that have
        waited longest for a request go first.
    :param head_seconds: how long a connection may wait for a request, take for
        the whole head of one, and leave an answer unread.
    :param drain_seconds: how long requests at work may take when it stops.
    :raises OSError: the address cannot be listened at.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        connections: int = 2000,
        head_seconds: float = 15.0,
        drain_seconds: float = 30.0,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._host = f"[{host}]" if ":" in host else host
        self._port = self._socket.getsockname()[1]
        crowd = _Crowd(most=connections, seconds=head_seconds)
        config = uvicorn.Config(
            self._tell_stopping(app),
            http=functools.partial(_PatientProtocol, crowd=crowd),  # type: ignore[arg-type]  # any callable does
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=max(1, round(head_seconds)),
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
            backlog=_BACKLOG,
        )
        self._server = uvicorn.Server(config)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="lazy-engine-http", daemon=True)

    @property
    def url(self) -> str:
        """Where it is served, without a slash at the end."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> None:
        """Begin to serve; returns as soon as requests are answered.

        :raises RuntimeError: it does not start.
        """
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(_START_SECONDS / 0.01)):
            if self._server.started or not self._thread.is_alive():
                break
            waited.wait(0.01)
        if not self._server.started or not self._thread.is_alive():
            raise RuntimeError("the HTTP server did not start") from self._failure

    @property
    def is_running(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    @property
    def open_connections(self) -> int:
        """How many connections there are now."""
        return len(self._server.server_state.connections)

    def stop(self) -> None:
        """Take no more requests, finish those at work, and end."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _tell_stopping(self, app: ASGIApp) -> ASGIApp:
        """Return the app, which can find out that its server is to stop.

        A server that stops waits for its answers, and a stream of events has no end of its own.
        """

        async def told(scope: Scope, receive: Receive, send: Send) -> None:
            scope[IS_STOPPING] = lambda: self._server.should_exit
            await app(scope, receive, send)

        return told

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as error:
            # A thread has nobody to raise it to; start() and is_running tell.
            self._failure = error
            LOG.exception("the HTTP server failed")
