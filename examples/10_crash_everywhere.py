# SPDX-License-Identifier: Apache-2.0
"""Kill the shop beside each of its durable writes, and see that no order suffers."""

import pathlib
import tempfile

import crash_scenario

from lazy_engine.testing import CrashTest

with tempfile.TemporaryDirectory() as directory:
    test = CrashTest(
        crash_scenario.order_is_paid,
        persistence=f"sqlite:///{directory}/flows.db",
        directory=pathlib.Path(directory),
    )
    report = test.run()
    assert not report.problems, report
    print("crash points tried:", "many" if len(report.points) > 10 else "few")
    print("problems:", dict(report.problems))
