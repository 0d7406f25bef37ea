# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run; what they measure is nobody's test."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

_BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
_HOME = ("--subjects", "lazy_engine,taskflow")


def _run(script: str, *arguments: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, str(_BENCHMARKS / script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout


def _lines(script: str, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """Return what it printed after the line of the machine."""
    machine, *lines = map(json.loads, _run(script, *arguments, **environment).splitlines())
    assert machine["benchmark"] == "machine"
    assert machine["cores"] == os.cpu_count()
    assert all(each["median"] is not None and each["unit"] for each in lines)
    return lines


def test_benchmark_of_time_finds_every_deadline() -> None:
    lines = _lines("time.py", "sqlite", LAZY_ENGINE_BENCH_SCALE="0.001")
    assert [(each["workload"], each["parked"]) for each in lines] == [
        ("sweep", 10),
        ("sweep", 100),
        ("sweep", 10),
        ("sweep", 100),
        ("watching", 100),
        ("watching", 100),
        ("late when recorded", 100),
        ("late when told to the caller", 100),
    ]
    assert all(each["rounds"] == 10 for each in lines[-2:])


def test_benchmark_of_the_floor_adds_its_parts_up() -> None:
    lines = _lines("floor.py", "--flows", "2", "--tasks", "5", "--rounds", "1", "sqlite")
    found = {(each["workload"], each.get("tasks")): each["median"] for each in lines}
    assert list(found) == [
        ("make", 3),
        ("make", 5),
        ("run", 2),
        ("transactions", None),
        ("park", None),
    ]
    whole = found["make", 3] + found["run", 2] + found["transactions", None]
    assert found["park", None] == pytest.approx(1000 / whole, rel=0.01)


def test_benchmark_of_tasks_prints_a_line_for_each_workload_of_each_subject() -> None:
    arguments = ("--tasks", "2,3", "--rounds", "1", "--shapes", "row,side")
    lines = _lines("task.py", *arguments, *_HOME, "memory", "sqlite")
    assert [
        (each["store"], each["tasks"], each["subject"], each["workload"]) for each in lines
    ] == [
        (store, count, subject, workload)
        for store in ("memory", "sqlite")
        for shape in ("row", "side")
        for count in (2, 3)
        for subject in ("lazy_engine", "taskflow")
        for workload in (shape, f"prepare {shape}", f"reload {shape}")
        if store == "sqlite" or "reload" not in workload
    ]
    assert all(each["median"] > 0 and each["ratio"] > 0 for each in lines)


def test_benchmark_of_parking_prints_a_line_for_each_workload_of_each_subject() -> None:
    subjects = ("lazy_engine", "lazy_engine_kept", "taskflow")
    arguments = ("--flows", "2", "--rounds", "1", "--workers", "1,2", "--subjects")
    lines = _lines("park.py", *arguments, ",".join(subjects))
    assert [(line["subject"], line["workload"]) for line in lines[:9]] == [
        (subject, workload) for subject in subjects for workload in ("park", "finish", "alone")
    ]
    assert all(line["median"] > 0 and line["statements"] > 0 for line in lines[:9])
    assert [(line["workers"], line["workload"]) for line in lines[9:]] == [
        (workers, workload) for workers in (1, 2) for workload in ("park", "finish")
    ]


def test_benchmark_of_joins_delivers_both_ways() -> None:
    lines = _lines("fan_out.py", "--waits", "2,4", "--rounds", "1", *_HOME)
    assert [(line["waits"], line["workload"]) for line in lines] == [
        (2, "batch"),
        (2, "single"),
        (4, "batch"),
        (4, "single"),
    ]


def test_benchmark_of_flatness_wakes_among_copies() -> None:
    lines = _lines("flat.py", "--few", "2", "--many", "30", "--wakes", "1", "--rounds", "1")
    assert [(line["parked"], line["workload"]) for line in lines] == [
        (2, "park"),
        (2, "alone"),
        (30, "park"),
        (30, "alone"),
    ]
    assert "to_few" in lines[3]


def test_report_tells_of_what_was_printed(tmp_path: pathlib.Path) -> None:
    lines = _run("footprint.py", "--flows", "60", "--parts", "--subjects", "lazy_engine")
    (tmp_path / "lines").write_text(lines, encoding="utf-8")
    _run("report.py", str(tmp_path / "lines"), "--no-plots", "--into", str(tmp_path))
    page = (tmp_path / "measured.rst").read_text(encoding="utf-8")
    disk = next(
        each for each in map(json.loads, lines.splitlines()) if each.get("workload") == "disk"
    )
    assert f"{disk['median']:,} bytes a flow" in page
    assert "≤ 4,096 bytes" in page
    assert "``atomdetails``" in page


def test_peers_that_are_not_installed_are_asked_for() -> None:
    with pytest.raises(AssertionError, match="make bench-peers"):
        _run("park.py", "--subjects", "dbos", LAZY_ENGINE_BENCH_PEERS="/nowhere")


def test_benchmark_of_conductors_prints_a_line_for_each_workload_of_each_subject() -> None:
    """Not all of its workloads: every conductor is a process."""
    ran = _run("conductor.py", "large", LAZY_ENGINE_BENCH_SCALE="0.0001")
    lines = [json.loads(text) for text in ran.splitlines()]
    assert [(line["workload"], line["subject"]) for line in lines] == [
        ("large", "warm"),
        ("large", "cold"),
        ("large", "factory"),
    ]
    assert all(line["median"] > 0 for line in lines)


def test_benchmark_of_http_prints_a_line_for_each_way_and_a_ratio() -> None:
    arguments = ("--parked", "5", "--deliveries", "20", "--rounds", "1", "sqlite")
    lines = [json.loads(text) for text in _run("http_delivery.py", *arguments).splitlines()]
    assert [line["subject"] for line in lines] == ["in-process", "http", "count"]
    assert all(line["rate"] > 0 and line["p99_ms"] > 0 for line in lines[:2])
    assert lines[1]["ratio"] > 0
