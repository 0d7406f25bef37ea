# SPDX-License-Identifier: Apache-2.0
"""Every example prints what its golden output says, and the README shows the first one."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
OUTPUT = EXAMPLES / "output"
SCRIPTS = sorted(EXAMPLES.glob("[0-9][0-9]_*.py"))

#: What stands at the head of an example and not in the README.
HEAD = re.compile(r'\A# SPDX-License-Identifier: Apache-2\.0\n"""[^"]*"""\n\n')
FENCED = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def run_example(script: pathlib.Path, hash_seed: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    environment.pop("LAZY_ENGINE_KEYS", None)
    return subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_example_prints_its_golden_output(script: pathlib.Path, hash_seed: str) -> None:
    done = run_example(script, hash_seed)
    # Flows that are loaded here and now warn, as they should, that no conductor could make them again.
    unexpected = [line for line in done.stderr.splitlines() if "has no factory" not in line]
    assert (done.returncode, unexpected) == (0, [])
    assert done.stdout == (OUTPUT / f"{script.stem}.txt").read_text(encoding="utf-8")


def test_every_golden_output_has_its_example() -> None:
    assert {path.stem for path in OUTPUT.iterdir()} == {script.stem for script in SCRIPTS}
    assert len(SCRIPTS) >= 10


def test_readme_shows_the_first_example_and_its_output() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {}
    for block in FENCED.finditer(readme):
        shown.setdefault(block["language"], block["text"])
    script = EXAMPLES / "01_hello_delay.py"
    assert shown["python"] == HEAD.sub("", script.read_text(encoding="utf-8"))
    assert shown["text"] == (OUTPUT / f"{script.stem}.txt").read_text(encoding="utf-8")


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
