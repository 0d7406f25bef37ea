# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run; what they measure is nobody's test."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

_BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


def test_benchmark_of_time_finds_every_deadline_and_prints_a_table() -> None:
    ran = subprocess.run(
        [sys.executable, str(_BENCHMARKS / "time.py"), "sqlite"],
        env={**os.environ, "LAZY_ENGINE_BENCH_SCALE": "0.001"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    assert len(lines) == 13
    assert all(line.startswith("sqlite ") for line in lines)


def _lines(script: str, *arguments: str, scale: str = "1") -> list[dict[str, Any]]:
    ran = subprocess.run(
        [sys.executable, str(_BENCHMARKS / script), *arguments],
        env={**os.environ, "LAZY_ENGINE_BENCH_SCALE": scale},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_benchmark_of_tasks_prints_a_line_for_each_engine_of_each_flow() -> None:
    lines = _lines("task.py", "--tasks", "2,3", "--rounds", "1", "--shapes", "row,side")
    assert [
        (each["store"], each["workload"], each["tasks"], each["subject"]) for each in lines
    ] == [
        (store, shape, count, engine)
        for store in ("memory", "sqlite")
        for shape in ("row", "side")
        for count in (2, 3)
        for engine in ("serial", "lazy")
    ]
    assert all(each["prepare"] > 0 and each["run"] > 0 for each in lines)


def test_benchmark_of_parking_prints_a_line_for_each_workload_of_each_subject() -> None:
    lines = _lines("park.py", "--flows", "2", "--rounds", "1", "--peers")
    assert [(line["subject"], line["workload"]) for line in lines] == [
        (subject, workload)
        for subject in ("lazy_engine", "taskflow")
        for workload in ("park", "finish", "alone")
    ]
    assert all(line["median"] > 0 and line["statements"] > 0 for line in lines)


def test_benchmark_of_conductors_prints_a_line_for_each_workload_of_each_subject() -> None:
    """Not all of its workloads: every conductor is a process."""
    lines = _lines("conductor.py", "large", scale="0.0001")
    assert [(line["workload"], line["subject"]) for line in lines] == [
        ("large", "warm"),
        ("large", "cold"),
        ("large", "factory"),
    ]
    assert all(line["median"] > 0 for line in lines)


def test_benchmark_of_http_prints_a_line_for_each_way_and_a_ratio() -> None:
    lines = _lines(
        "http_delivery.py", "--parked", "5", "--deliveries", "20", "--rounds", "1", "sqlite"
    )
    assert [line["subject"] for line in lines] == ["in-process", "http", "count"]
    assert all(line["rate"] > 0 and line["p99_ms"] > 0 for line in lines[:2])
    assert lines[1]["ratio"] > 0
