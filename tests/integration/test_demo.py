# SPDX-License-Identifier: Apache-2.0
"""The demos, as somebody sees them who has just installed the package."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import pytest

from lazy_engine.cli.output import Output
from lazy_engine.demo.interrupts import Interrupts
from lazy_engine.demo.stage import Stage
from tests.servers.process import missing
from tests.servers.zookeeper import why_missing
from tests.waiting import wait_until


def start(path: pathlib.Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if "LAZY_ENGINE" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "lazy_engine.cli", "demo", *words],
        env={**kept, "TMPDIR": str(path), "PYTHONIOENCODING": "utf-8", **variables},
        cwd=path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def play(path: pathlib.Path, *words: str, **variables: str) -> str:
    with start(path, *words, **variables) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")
    return stdout


def processes_at(path: pathlib.Path) -> Sequence[str]:
    """Return the commands of all processes that know of a directory."""
    found = []
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if str(path).encode() in environment + command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def leftovers(path: pathlib.Path) -> list[str]:
    return [*processes_at(path), *(str(left) for left in path.glob("lazy-engine-demo-*"))]


def test_demo_plays_in_several_processes_to_success(tmp_path: pathlib.Path) -> None:
    text = play(tmp_path)
    pids = re.findall(r"^\$ lazy-engine .* # process (\d+)$", text, re.MULTILINE)
    assert len(set(pids)) == len(pids) == 8
    assert "is DELAYED: waits for" in text
    assert "The flow ended in SUCCESS" in text
    assert text.count("├─ build ") == 3
    assert "lz1." not in text
    assert leftovers(tmp_path) == []


def test_demo_leaves_the_stores_of_its_user_alone(tmp_path: pathlib.Path) -> None:
    mine = tmp_path / "mine.sqlite"
    document = json.loads(play(tmp_path, "--json", LAZY_ENGINE_PERSISTENCE=f"sqlite:///{mine}"))
    assert document["state"] == "SUCCESS"
    assert not mine.exists()


@pytest.mark.slow
def test_demo_with_zookeeper_survives_a_killed_conductor(tmp_path: pathlib.Path) -> None:
    if (reason := why_missing()) is not None:
        missing(reason)
    text = play(tmp_path, "--zookeeper")
    killed = re.search(r"^(conductor-.) \(process (\d+)\) is killed with SIGKILL$", text, re.M)
    assert killed is not None
    assert "parked (DELAYED)" in text
    assert text.count("] publish: uploading") == 2
    assert text.count("] publish: uploaded") == 1
    assert text.count("] sign_off: ") == 1
    assert f"{killed[1]} (process {killed[2]}); executed again: publish" in text
    assert "The flow ended in SUCCESS" in text
    assert leftovers(tmp_path) == []


def await_curtain(process: subprocess.Popen[str]) -> None:
    """Wait until a demo's servers and conductors are there."""
    assert process.stdout is not None
    while "1. One process" not in process.stdout.readline():
        assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_interrupted_demo_cleans_up(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    if (reason := why_missing()) is not None:
        missing(reason)
    with start(tmp_path, "--zookeeper") as process:
        await_curtain(process)
        assert any("QuorumPeerMain" in command for command in processes_at(tmp_path))
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "lazy-engine: interrupted\n"
    wait_until(lambda: not leftovers(tmp_path), what="an empty stage")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_demo_interrupted_in_the_midst_of_a_start_ends_what_it_started(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def play() -> None:
        with Interrupts() as interrupts, Stage(Output(), interrupts) as stage:
            monkeypatch.setattr(subprocess, "Popen", Interrupted)
            stage.program("sleep", "60", log_path=stage.path / "log")

    with pytest.raises(KeyboardInterrupt):
        play()
    (process,) = started
    assert process.returncode == -signal.SIGTERM
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_killed_demo_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    if (reason := why_missing()) is not None:
        missing(reason)
    with start(tmp_path, "--zookeeper") as process:
        await_curtain(process)
        assert sum(" conductor " in command for command in processes_at(tmp_path)) == 2
        process.kill()
        process.wait()
        wait_until(lambda: not leftovers(tmp_path), what="an empty stage")


def test_demo_says_what_to_install(tmp_path: pathlib.Path) -> None:
    with start(tmp_path, "--zookeeper", PATH="") as process:
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "apt-get install zookeeper default-jre-headless" in stderr
    assert leftovers(tmp_path) == []
