# SPDX-License-Identifier: Apache-2.0
"""Events for whoever watches: one look at the store serves all who listen.

Nothing runs while nobody listens, and nothing has to be stopped: whichever
listener finds that the last look is too old looks anew, and the others are
told what it saw.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, TypeAlias

from starlette.types import Scope

from lazy_engine.http import answer, wire
from lazy_engine.http.answer import Refusal, Word
from lazy_engine.http.limit import Limits
from lazy_engine.http.pool import Overloaded, Pool
from lazy_engine.overview import Overview
from lazy_engine.token import mask

LOG = logging.getLogger(__name__)

#: Key of a request's scope under which the server says whether it is to stop.
IS_STOPPING: Final = "lazy_engine.is_stopping"

#: How often it is found out whether the server stops, which wakes nobody.
_TICK_SECONDS: Final = 0.25
#: How often something is sent even if nothing happens: proxies give up on what is silent.
_SILENCE_SECONDS: Final = 15.0
#: A look that took a second is not repeated for twenty.
_REST_FACTOR: Final = 20.0
_EVENT_ID: Final = re.compile(r"([0-9a-f]{0,16})/([0-9a-f]{0,16})")
#: When whoever was sent away should come again, in milliseconds.
_RETRY_MILLISECONDS: Final = 2000

#: A version, and what it has to tell.
_Read: TypeAlias = tuple[str, dict[str, Any] | None]


def is_stopping(scope: Scope) -> bool:
    """Whether the server that got this request is about to stop."""
    ask = scope.get(IS_STOPPING)
    return bool(ask is not None and ask())


@dataclasses.dataclass
class _Look:
    """What was last seen, and when it is to be looked for again."""

    version: str = ""
    content: dict[str, Any] | None = None
    problem: dict[str, str] | None = None
    expires_at: float = 0.0
    is_looking: bool = False


class Watch:
    """Tells listeners of changes.

    :param limits: how many listen, how long, and how often the store is looked at.
    """

    def __init__(self, overview: Overview, pool: Pool, limits: Limits) -> None:
        self._overview = overview
        self._pool = pool
        self._limits = limits
        self._summary = _Look()
        self._flows: dict[str, _Look] = {}
        self._listeners: dict[object, str | None] = {}

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def enter(self, flow_uuid: str | None) -> object:
        """Let one more listen; give what is returned to :meth:`events`.

        :raises Refusal: too many do.
        """
        if len(self._listeners) >= self._limits.listeners:
            raise Refusal(Word.UNAVAILABLE, "too many listen; ask for the summary instead")
        listener = object()
        self._listeners[listener] = flow_uuid
        return listener

    def leave(self, listener: object) -> None:
        """Let no more be known of a listener; a second call does nothing."""
        self._listeners.pop(listener, None)
        watched = set(self._listeners.values())
        self._flows = {uuid: look for uuid, look in self._flows.items() if uuid in watched}

    async def events(
        self, listener: object, since: str, is_over: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Yield events as text/event-stream has them, until the listener's time is over.

        ``summary`` with the whole summary, ``flow`` with a flow's uuid, each whenever
        it is another than before; ``away`` with a problem while the store does not
        answer; ``end`` before the stream ends by itself.

        :param since: id of the last event that the listener got before, or nothing.
        :param is_over: asked now and then.
        """
        flow_uuid = self._listeners.get(listener)
        # What did not come from here is not sent back.
        known = _EVENT_ID.fullmatch(since)
        summary_seen, flow_seen = known.groups() if known else ("", "")
        problem_seen: dict[str, str] | None = None
        ends_at = time.monotonic() + self._limits.listening_seconds
        silent_at = time.monotonic()
        yield f"retry: {_RETRY_MILLISECONDS}\n\n".encode()
        while not is_over() and time.monotonic() < ends_at:
            told: list[tuple[str, Mapping[str, Any] | None]] = []
            summary = await self._look(self._summary, self._read_summary)
            if summary.problem != problem_seen:
                problem_seen = summary.problem
                if problem_seen is not None:
                    told.append(("away", problem_seen))
                else:
                    summary_seen = ""
            if summary.problem is None and summary.version not in ("", summary_seen):
                summary_seen = summary.version
                told.append(("summary", summary.content))
            if flow_uuid is not None and summary.problem is None:
                flow = await self._look(self._look_of(flow_uuid), self._reader_of(flow_uuid))
                if flow.version not in ("", flow_seen):
                    flow_seen = flow.version
                    told.append(("flow", {"flow_uuid": flow_uuid}))
            for name, content in told:
                yield _event(name, content, f"{summary_seen}/{flow_seen}")
            now = time.monotonic()
            if told:
                silent_at = now
            elif now - silent_at >= _SILENCE_SECONDS:
                silent_at = now
                yield b": nothing new\n\n"
            await asyncio.sleep(min(_TICK_SECONDS, self._limits.look_seconds))
        yield _event("end", {}, f"{summary_seen}/{flow_seen}")

    # -- looking ----------------------------------------------------------

    def _look_of(self, flow_uuid: str) -> _Look:
        return self._flows.setdefault(flow_uuid, _Look())

    def _read_summary(self) -> _Read:
        content = dataclasses.asdict(self._overview.summary())
        version = hashlib.sha256(wire.text_of(content).encode()).hexdigest()[:16]
        return version, {**content, "now": self._overview.now()}

    def _reader_of(self, flow_uuid: str) -> Callable[[], _Read]:
        def read() -> _Read:
            stamp = self._overview.stamp(flow_uuid)
            return hashlib.sha256(stamp.encode()).hexdigest()[:16], None

        return read

    async def _look(self, look: _Look, read: Callable[[], _Read]) -> _Look:
        """Look anew if that is due and nobody else is at it; return what was last seen."""
        if look.is_looking or time.monotonic() < look.expires_at:
            return look
        look.is_looking = True
        begun = time.monotonic()
        try:
            look.version, look.content = await self._pool.run(read)
            look.problem = None
        except Overloaded:
            pass  # the next one will tell
        except Exception as error:
            # Whoever listens is to hear of it, and to hear when it is over.
            refusal = answer.refusal_of(error)
            if refusal.word is Word.FAILED:
                LOG.error("a look for listeners failed: %s", mask(repr(error)))
            look.problem = answer.problem(refusal)
        finally:
            look.is_looking = False
            took = time.monotonic() - begun
            pause = max(self._limits.look_seconds, _REST_FACTOR * took)
            look.expires_at = time.monotonic() + pause
        return look


def _event(name: str, content: object, event_id: str) -> bytes:
    # JSON in ASCII has no line breaks, which would end the event.
    return f"event: {name}\nid: {event_id}\ndata: {wire.text_of(content)}\n\n".encode("ascii")
