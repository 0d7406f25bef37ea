# SPDX-License-Identifier: Apache-2.0
"""Which conductors share the jobs of a ZooKeeper board: read once, and again when one comes or goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from kazoo import exceptions as kazoo_exceptions
from kazoo.protocol import paths
from taskflow import exceptions as taskflow_exceptions
from taskflow.conductors import base as conductors_base

#: Key of a registered conductor's metadata: path of the board whose jobs it shares.
SHARES: Final = "shares"


class Colleagues:
    """The conductors that are registered on a board and leave each other's jobs alone.

    :param jobboard: TaskFlow's ZooKeeper board.
    :param note: called when they may have changed, in a thread that must not be held up.
    :ivar names: what they are registered as, as of the last :meth:`meet`.
    """

    def __init__(self, jobboard: Any, note: Callable[[], None]) -> None:
        self._board = jobboard
        self._note = note
        self._has_met = False
        self.names: frozenset[str] = frozenset()

    def meet(self) -> None:
        """Read who there is, if that may have changed since the last time; waits for the server.

        :raises taskflow.exceptions.JobFailure: it cannot be read.
        """
        if self._has_met:
            return
        self._has_met = True  # unless the watch says otherwise from now on
        client = self._board._client
        place = paths.join(self._board.entity_path, conductors_base.Conductor.ENTITY_KIND)
        try:
            names = client.get_children(place, watch=self._on_change)
            asked = [(name, client.get_async(paths.join(place, name))) for name in names]
            self.names = frozenset(name for name, answer in asked if self._is_one(answer))
        except (kazoo_exceptions.KazooException, client.handler.timeout_exception) as error:
            self._has_met = False
            raise taskflow_exceptions.JobFailure("conductors cannot be read", error) from error

    def _is_one(self, answer: Any) -> bool:
        """Whether a registered conductor shares the jobs of this board.

        TaskFlow keeps the conductors of boards side by side in one place, and
        its own claim whatever they see.
        """
        try:
            data, _ = answer.get()
            metadata = json.loads(data)["metadata"]
            return bool(metadata.get(SHARES) == self._board.path)
        except (kazoo_exceptions.NoNodeError, ValueError, LookupError, TypeError, AttributeError):
            return False

    def _on_change(self, _event: object) -> None:
        self._has_met = False
        self._note()
