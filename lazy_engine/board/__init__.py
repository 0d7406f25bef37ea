# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's job boards behind one protocol: a driver for each server.

What TaskFlow keeps to itself about its boards is touched in these modules and
nowhere else, each name with a contract test (``tests/contract/test_board.py``).
Written against taskflow 6.5.
"""

from __future__ import annotations

from typing import Any

from lazy_engine.board.etcd import EtcdBoard
from lazy_engine.board.protocol import Board
from lazy_engine.board.redis import RedisBoard
from lazy_engine.board.zookeeper import ZookeeperBoard

__all__ = ["Board", "EtcdBoard", "RedisBoard", "ZookeeperBoard", "of"]


def of(jobboard: Any) -> Board:
    """Return the driver for a TaskFlow job board; for one of no known kind, the plain one."""
    for driver in (ZookeeperBoard, RedisBoard, EtcdBoard):
        if driver.fits(jobboard):
            return driver(jobboard)
    return Board(jobboard)
