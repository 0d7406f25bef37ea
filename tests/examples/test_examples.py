# SPDX-License-Identifier: Apache-2.0
"""Every example prints what its golden output says, and the README shows the first one."""

from __future__ import annotations

import os
import pathlib
import random
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
OUTPUT = EXAMPLES / "output"
SCRIPTS = sorted(EXAMPLES.glob("[0-9][0-9]_*.py"))

#: Examples that want the address of a ZooKeeper.
WITH_ZOOKEEPER = {"07_zookeeper_conductor"}

#: What stands at the head of an example and not in the README.
HEAD = re.compile(r'\A# SPDX-License-Identifier: Apache-2\.0\n"""[^"]*"""\n\n')
INCLUDED = re.compile(r"^\.\. literalinclude:: (\S*/examples/\S+)$", re.MULTILINE)
FENCED = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def run_example(
    script: pathlib.Path, dice: random.Random, *arguments: str
) -> subprocess.CompletedProcess[str]:
    # What is printed must not hang on the order of a set, whatever that is this time.
    environment = {**os.environ, "PYTHONHASHSEED": str(dice.randrange(2**32))}
    environment.pop("LAZY_ENGINE_KEYS", None)
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_example_prints_its_golden_output(
    script: pathlib.Path, dice: random.Random, request: pytest.FixtureRequest
) -> None:
    arguments = []
    if script.stem in WITH_ZOOKEEPER:
        arguments.append(request.getfixturevalue("zookeeper").hosts)
    done = run_example(script, dice, *arguments)
    # Flows that are loaded here and now warn, as they should, that no conductor could make them again.
    unexpected = [line for line in done.stderr.splitlines() if "has no factory" not in line]
    assert (done.returncode, unexpected) == (0, [])
    assert done.stdout == (OUTPUT / f"{script.stem}.txt").read_text(encoding="utf-8")


def test_example_tests_of_a_flow_pass() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_order.py"],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_every_example_and_its_output_stand_on_a_page() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("doc/**/*.rst"))
    shown = {pathlib.PurePath(name).name for name in INCLUDED.findall(pages)}
    wanted = {path.name for path in EXAMPLES.glob("*.py")}
    wanted |= {path.name for path in OUTPUT.iterdir()}
    assert wanted - shown == set()


def test_every_golden_output_has_its_example() -> None:
    assert {path.stem for path in OUTPUT.iterdir()} == {script.stem for script in SCRIPTS}
    assert len(SCRIPTS) >= 16


def test_readme_shows_the_first_example_and_its_output() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {}
    for block in FENCED.finditer(readme):
        shown.setdefault(block["language"], block["text"])
    script = EXAMPLES / "01_hello_delay.py"
    assert shown["python"] == HEAD.sub("", script.read_text(encoding="utf-8"))
    assert shown["text"] == (OUTPUT / f"{script.stem}.txt").read_text(encoding="utf-8")


def test_every_link_in_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^):]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_tour_of_the_command_line_in_the_readme_works(tmp_path: pathlib.Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tour,) = (block["text"] for block in FENCED.finditer(readme) if block["language"] == "console")
    commands = tour.replace("\n$ ", "\n").removeprefix("$ ")
    assert "/tmp/lazy-engine-tour.db" in commands
    programs = str(pathlib.Path(sys.executable).parent)
    done = subprocess.run(
        ["sh", "-eu"],
        input=commands.replace("/tmp/lazy-engine-tour.db", str(tmp_path / "tour.db")),
        cwd=EXAMPLES,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "order  " in done.stdout
    assert done.stdout.count("SUCCESS") >= 3  # the flow and both of its tasks
