# SPDX-License-Identifier: Apache-2.0
"""lazy_engine as a subject, with the engines of parked flows kept in memory."""

from __future__ import annotations

import logging

import serving
from lazy_engine_subject import Lazy


class Kept(Lazy):
    keep_engines = 10_000


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    versions = ["lazy_engine", "taskflow", "SQLAlchemy"]
    serving.serve("lazy_engine_kept", Kept, versions, Kept.durability)
