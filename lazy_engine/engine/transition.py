# SPDX-License-Identifier: Apache-2.0
"""The states of a run, and what leads from one to the next.

Those of TaskFlow's own machine in the same order
(``taskflow/engines/action_engine/builder.py``), and one more end: ``DELAYED``,
when nothing can run and something waits for outside.
"""

from __future__ import annotations

from typing import Final

from taskflow import states

from lazy_engine.delay import DELAYED

UNDEFINED: Final = "UNDEFINED"
GAME_OVER: Final = "GAME_OVER"
#: States that are not shown to whoever iterates over a run.
META_STATES: Final = (UNDEFINED, GAME_OVER)

START: Final = "start"
SCHEDULE: Final = "schedule_next"
WAIT: Final = "wait_finished"
ANALYZE: Final = "examine_finished"
FINISH: Final = "completed"

#: From, event, to. The documentation's diagram is drawn from this table.
TRANSITIONS: Final = (
    (UNDEFINED, START, states.RESUMING),
    (states.RESUMING, SCHEDULE, states.SCHEDULING),
    (states.SCHEDULING, WAIT, states.WAITING),
    (states.WAITING, ANALYZE, states.ANALYZING),
    (states.ANALYZING, SCHEDULE, states.SCHEDULING),
    (states.ANALYZING, WAIT, states.WAITING),
    (states.ANALYZING, FINISH, GAME_OVER),
    (GAME_OVER, "analyze_again", states.ANALYZING),
    (GAME_OVER, "delayed", DELAYED),
    (GAME_OVER, "failed", states.FAILURE),
    (GAME_OVER, "reverted", states.REVERTED),
    (GAME_OVER, "success", states.SUCCESS),
    (GAME_OVER, "suspended", states.SUSPENDED),
)
TERMINAL: Final = (
    DELAYED,
    states.FAILURE,
    states.REVERTED,
    states.SUCCESS,
    states.SUSPENDED,
)
