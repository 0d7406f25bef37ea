# SPDX-License-Identifier: Apache-2.0
"""Commands that take long or cannot be undone: what they ask, show, and leave behind when they are interrupted."""

from __future__ import annotations

import datetime
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lazy_engine import Client, cli
from lazy_engine.cli import ExitCode, session
from lazy_engine.cli.output import Output
from lazy_engine.ledger import protocol, sql
from tests.integration.parked import World, opened, park

SOON = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).isoformat()


class Terminal(io.StringIO):
    """Somebody who watches, and answers what he was told to."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Any]:
    with opened(sqlite_url) as made:
        yield made


@pytest.fixture
def ended(store: Any) -> list[str]:
    """Flows that have ended."""
    worlds = [park(store) for _ in range(4)]
    for world in worlds:
        world.assert_goes_on()
    return [world.flow_uuid for world in worlds]


def left(store: Any, ended: list[str]) -> int:
    return sum(Client(store)._ledger.flow(uuid) is not None for uuid in ended)


def test_purge_deletes_what_has_ended_and_says_how_much(
    store: Any, sqlite_url: str, ended: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    world: World = park(store)
    words = ["purge", "--persistence", sqlite_url, "--yes"]
    assert cli.main([*words, "--older-than", "1h"]) == ExitCode.DONE
    assert capsys.readouterr() == ("0 flows deleted\n", "")
    assert cli.main([*words, "--finished-before", SOON, "--json"]) == ExitCode.DONE
    seen = capsys.readouterr()
    assert json.loads(seen.out)["purged"] == len(ended)
    assert seen.err == "", "nobody watches a progress display"
    assert left(store, ended) == 0
    world.assert_goes_on()


@pytest.mark.parametrize(
    "words",
    [
        ["--older-than", "soon"],
        ["--older-than", "-1d"],
        ["--older-than", "999999w", "--yes"],
        ["--finished-before", "yesterday", "--yes"],
        ["--finished-before", SOON],
        ["--finished-before", SOON, "--json"],
        ["--finished-before", SOON, "--older-than", "1d", "--yes"],
        ["--yes"],
    ],
)
def test_purge_that_is_not_clearly_meant_deletes_nothing(
    store: Any, sqlite_url: str, ended: list[str], words: list[str]
) -> None:
    assert cli.main(["purge", "--persistence", sqlite_url, *words]) == ExitCode.WRONG_USE
    assert left(store, ended) == len(ended)


@pytest.mark.parametrize("answer", ["", "\n", "y\n", "no\n", "yes\n", "YES\n"])
def test_purge_asks_at_a_terminal(
    store: Any,
    sqlite_url: str,
    ended: list[str],
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    words = ["purge", "--persistence", sqlite_url, "--finished-before", SOON]
    is_meant = answer.lower() == "yes\n"
    assert cli.main(words) == (ExitCode.DONE if is_meant else ExitCode.FAILED)
    asked = capsys.readouterr().err
    assert asked.startswith(f"Delete every flow in {sqlite_url} that ended before ")
    assert is_meant or "nothing was deleted" in asked
    assert left(store, ended) == (0 if is_meant else len(ended))


def test_interrupted_purge_says_what_it_did_and_goes_on_later(
    store: Any,
    sqlite_url: str,
    ended: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(protocol, "PURGE_PAGE", 2)
    purge_one = sql.SqlLedger._purge_one
    monkeypatch.setattr(
        sql.SqlLedger,
        "_purge_one",
        lambda *args, **kwargs: (signal.raise_signal(signal.SIGINT), purge_one(*args, **kwargs))[1],
    )
    handler = signal.getsignal(signal.SIGTERM)
    # The second Ctrl-C would kill, so there is one only.
    monkeypatch.setattr(signal, "SIG_DFL", signal.SIG_IGN)
    words = ["purge", "--persistence", sqlite_url, "--finished-before", SOON, "--yes"]
    assert cli.main(words) == 130
    assert "interrupted: 2 flows were deleted as a whole" in capsys.readouterr().err
    assert left(store, ended) == 2
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.undo()
    assert cli.main(words) == ExitCode.DONE
    assert left(store, ended) == 0


def test_interrupted_init_is_finished_first(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_backend = session.open_backend

    def interrupted(address: str) -> Any:
        signal.raise_signal(signal.SIGINT)
        return open_backend(address)

    monkeypatch.setattr(session, "open_backend", interrupted)
    assert cli.main(["init", "--persistence", sqlite_url]) == ExitCode.DONE
    seen = capsys.readouterr()
    assert "up to date" in seen.out
    assert "finished first" in seen.err
    monkeypatch.undo()
    assert cli.main(["flows", "--persistence", sqlite_url]) == ExitCode.DONE


def test_status_line_stays_below_what_is_printed_and_goes_in_the_end() -> None:
    screen = Terminal()
    output = Output(stdout=screen, stderr=screen)
    output.status("1 flow")
    output.line("a line")
    output.remark("a remark")
    output.status("lz1.secret\x1b[2J" + "x" * 200)
    output.status("")
    clear = "\r\x1b[K"
    told = screen.getvalue()
    masked = "lz1.***" + "x" * 200
    assert told.startswith(
        f"{clear}1 flow{clear}a line\n{clear}1 flow{clear}a remark\n{clear}1 flow{clear}"
    )
    assert masked[:7] in told
    assert "secret" not in told
    assert "\x1b[2J" not in told
    assert "x" * 80 not in told
    assert told.endswith(clear)


def test_nobody_sees_a_status_line_without_a_terminal_or_in_json() -> None:
    for output in (
        Output(stdout=io.StringIO(), stderr=(quiet := io.StringIO())),
        Output(is_json=True, stdout=io.StringIO(), stderr=(also_quiet := Terminal())),
    ):
        output.status("1 flow")
        with output.busy("working"):
            pass
        output.status("")
    assert quiet.getvalue() == also_quiet.getvalue() == ""


_COMPLETE = """
set -e
. /dev/stdin
COMP_WORDS=(lazy-engine {words}); COMP_CWORD={last}
_shtab_lazy_engine
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["co"], "complete conductor completion consume"),
        (["purge", "--fin"], "--finished-before"),
        (["flows", "--state", "S"], "SUSPENDED SUCCESS"),
    ],
)
def test_bash_completes(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    assert cli.main(["completion", "bash"]) == ExitCode.DONE
    script = capsys.readouterr().out
    ran = subprocess.run(
        [bash, "-c", _COMPLETE.format(words=" ".join(words), last=len(words))],
        input=script,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(ran.stdout.split()) == sorted(expected.split())


def test_zsh_can_read_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "zsh"]) == ExitCode.DONE
    script = capsys.readouterr().out
    assert script.startswith("#compdef lazy-engine")
    if (zsh := shutil.which("zsh")) is not None:
        subprocess.run([zsh, "-n", "/dev/stdin"], input=script, text=True, check=True)
