# SPDX-License-Identifier: Apache-2.0
"""What is installed is whole, and it is what the tests test, in child processes too."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from importlib import metadata, resources

from taskflow import engines
from taskflow.conductors import backends as conductors

import lazy_engine
from lazy_engine.conductor import LazyConductor
from lazy_engine.engine import LazyEngine
from tests import child

TESTS = pathlib.Path(__file__).resolve().parents[1]


def test_taskflow_finds_engine_and_conductor_by_their_entry_points() -> None:
    (engine,) = metadata.entry_points(group=engines.helpers.ENGINES_NAMESPACE, name="lazy")
    (conductor,) = metadata.entry_points(group=conductors.CONDUCTOR_NAMESPACE, name="lazy")
    assert engine.load() is LazyEngine
    assert conductor.load() is LazyConductor


def test_command_is_installed() -> None:
    (command,) = metadata.entry_points(group="console_scripts", name="lazy-engine")
    path = pathlib.Path(sys.executable).parent / command.name
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"lazy-engine {metadata.version('lazy_engine')}\n"


def test_types_are_shipped() -> None:
    assert (resources.files(lazy_engine) / "py.typed").is_file()


def test_children_of_tests_run_the_package_that_is_tested(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import lazy_engine, tests; print(lazy_engine.__file__)"],
        env=child.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == lazy_engine.__file__


def test_no_child_gets_its_path_otherwise() -> None:
    own = {pathlib.Path(__file__).resolve(), TESTS / "child.py"}
    users = {path for path in TESTS.rglob("*.py") if '"PYTHONPATH"' in path.read_text("utf-8")}
    assert users == own
