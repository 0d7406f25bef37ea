# SPDX-License-Identifier: Apache-2.0
"""What a ZooKeeper board makes of the server's answers, whatever threads they come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

from lazy_engine.board.zookeeper_hearing import Hearing


class Answer:
    """The server's answer to a question; taken in when a test says so."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.before_it_is_used: Callable[[], object] = list

    def get(self) -> list[str]:
        self.before_it_is_used()
        return self.names

    def rawlink(self, use: Callable[[Answer], None]) -> None:
        use(self)


def test_answer_that_is_overtaken_by_a_later_one_hides_no_job() -> None:
    board: Any = mock.Mock(path="/jobs", LOCK_POSTFIX=".lock", JOB_PREFIX="job", _known_jobs={})
    hearing = Hearing(board)
    waited_for, later = Answer(["job1"]), Answer(["job1", "job2"])
    board._client.get_children_async.side_effect = [waited_for, later]
    # Its thread was not run before a job came, and kazoo's had looked at that.
    waited_for.before_it_is_used = hearing.look
    hearing.look_and_wait()
    assert [call.args[0] for call in board._on_job_posting.call_args_list][-1] == ["job1", "job2"]
