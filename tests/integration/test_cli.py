# SPDX-License-Identifier: Apache-2.0
"""The command line as processes of their own, on SQLite; the job board on ZooKeeper."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lazy_engine import ledger
from lazy_engine.access import open_backend
from lazy_engine.cli import main
from lazy_engine.cli.exit_code import MEANINGS, ExitCode
from lazy_engine.cli.output import Output
from lazy_engine.cli.session import Session
from lazy_engine.ledger import TakeRequest
from lazy_engine.ledger.record import Newcomer, Taken
from tests.integration import command
from tests.servers import ZooKeeper
from tests.waiting import wait_until

FLOWS = """
from taskflow import retry, task
from taskflow.patterns import linear_flow, unordered_flow
from lazy_engine import Delay

class Step(task.Task):
    def execute(self):
        print("printed by", self.name)

class Ask(task.Task):
    def execute(self):
        return Delay(details={"about": "\\x1b[2Jthe\\nbudget"})

class Fail(task.Task):
    def execute(self):
        raise RuntimeError("no paper")

def waits(last="last"):
    print("printed by the factory")
    asks = unordered_flow.Flow("asks", retry=retry.Times(1, "again")).add(Ask("one"), Ask("two"))
    return linear_flow.Flow("letter").add(Step("first"), asks, Step(last))

def fails():
    return linear_flow.Flow("broken").add(Fail("printer"))

class Interrupt(task.Task):
    def execute(self):
        raise KeyboardInterrupt

def is_interrupted():
    return linear_flow.Flow("interrupted").add(Interrupt("ctrl-c"))

class Undo(task.Task):
    def execute(self):
        pass

    def revert(self, **_):
        return Delay(timeout_seconds=None)

def times_out(seconds):
    ask = Ask("ask")
    ask.delay_timeout_seconds = seconds
    return linear_flow.Flow("hasty").add(Undo("undo"), ask)

class Alert(task.Task):
    def execute(self):
        return Delay(timeout_seconds=0.001, on_timeout="alert", heartbeat_seconds=3600)

def alerts():
    return linear_flow.Flow("patient").add(Alert("alert"))

class Nap(task.Task):
    def execute(self, seconds):
        return Delay.sleep(seconds)

def naps():
    return linear_flow.Flow("naps").add(Nap("nap", inject={"seconds": 0.001}), Step("after"))

def takes(name):
    return linear_flow.Flow(name).add(Step("only"))

def raises():
    raise LookupError("no such plan")

not_a_function = 1
"""
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

Answer = command.Answer
Run = Callable[..., Answer]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "LAZY_ENGINE" not in name}
    return {**kept, "PYTHONIOENCODING": "utf-8", "NO_COLOR": "", "FORCE_COLOR": "", **variables}


@pytest.fixture
def run(tmp_path: pathlib.Path, sqlite_url: str) -> Run:
    """Runs a command in a directory with some flows in ``flows.py``."""
    (tmp_path / "flows.py").write_text(FLOWS)

    def call(*words: str, exits: int = 0, stdin: str = "", **variables: str) -> Answer:
        variables = {"LAZY_ENGINE_PERSISTENCE": sqlite_url, **variables}
        answer = command.run(
            words, directory=tmp_path, environment=environment(**variables), stdin=stdin
        )
        assert answer.returncode == exits, answer.stdout + answer.stderr
        if "--debug" not in words:
            assert "Traceback" not in answer.stderr
        assert not re.search(r"lz1\.[^*]", answer.stderr)
        return answer

    return call


@pytest.fixture
def parked(run: Run) -> str:
    """The uuid of a flow in which the tasks ``one`` and ``two`` wait."""
    return run("submit", "flows:waits", "--run").stdout.strip()


def token_of(run: Run, flow_uuid: str, task_name: str) -> str:
    words = ("delays", "--flow", flow_uuid, "--task", task_name, "--tokens", "--json")
    (delay,) = json.loads(run(*words).stdout)["delays"]
    assert isinstance(delay["token"], str)
    return delay["token"]


def shown(run: Run, flow_uuid: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("show", flow_uuid, "--json").stdout)
    return document


def test_help_lists_commands_and_every_exit_code(run: Run) -> None:
    text = run("--help").stdout
    for name in (
        *("init", "submit", "delays", "show", "complete", "fail", "resume", "conductor"),
        *("watchdog", "heartbeat", "cancel", "suspend"),
    ):
        assert f"\n    {name} " in text
    for code in ExitCode:
        assert f"{code.value}  {MEANINGS[code]}" in text


def test_help_begins_with_what_the_command_takes_for_itself(run: Run) -> None:
    told = run("complete", "--help").stdout.partition("options:")[2]
    assert told.index("--result JSON") < told.index("options of every command:")
    assert told.index("options of every command:") < told.index("--persistence URL")


def test_init_may_be_repeated(run: Run, tmp_path: pathlib.Path) -> None:
    assert "up to date" in run("init").stdout
    assert json.loads(run("--json", "init").stdout)["store"].startswith("sqlite:///")
    assert (tmp_path / "lazy.sqlite").exists()


def test_whole_life_of_a_flow_on_zookeeper(run: Run, zookeeper_url: str) -> None:
    def call(*words: str) -> Any:
        return json.loads(run(*words, "--json", LAZY_ENGINE_PERSISTENCE=zookeeper_url).stdout)

    assert call("init")["store"] == zookeeper_url
    flow_uuid = call("submit", "flows:waits", "--run")["flow_uuid"]
    delays = call("delays", "--tokens")["delays"]
    assert sorted(delay["task_name"] for delay in delays) == ["one", "two"]
    for delay in delays:
        assert call("complete", delay["token"])["disposition"] == "accepted"
    # Its owner died on another machine; who comes anew does not know that it did.
    with contextlib.closing(open_backend(zookeeper_url)) as backend:
        book = ledger.beside(backend)
        wanted = TakeRequest(
            flow_uuid=flow_uuid,
            owner="elsewhere/-/1/-/abcd",
            seconds=4.0,
            newcomer=Newcomer(flow_name="", has_factory=True, key_id=book.signing_key().key_id),
            known=None,
            may_rerun=False,
            resumes=False,
            is_dead=lambda _owner: False,
        )
        assert isinstance(book.take(wanted), Taken)
    assert call("resume", flow_uuid)["state"] == "RUNNING"
    assert call("resume", flow_uuid, "--patience", "30")["state"] == "SUCCESS"


def test_address_of_zookeeper_without_a_host_is_wrong_use(run: Run) -> None:
    answer = run("init", "--persistence", "zookeeper:///flows", exits=ExitCode.WRONG_USE)
    assert "names no host" in answer.stderr


def test_submit_prints_the_uuid_alone(run: Run) -> None:
    answer = run("submit", "flows.waits")
    assert re.fullmatch(UUID, answer.stdout.strip())
    assert "printed by the factory" in answer.stderr
    assert shown(run, answer.stdout.strip())["state"] == "PENDING"


def test_submit_with_the_same_uuid_is_the_same_flow(run: Run) -> None:
    wanted = "11111111-2222-4333-8444-555555555555"
    for _ in range(2):
        assert run("submit", "flows:waits", "--flow-uuid", wanted).stdout.strip() == wanted


def test_submit_hands_arguments_to_the_factory(run: Run) -> None:
    by_place = run("submit", "flows:takes", "--args", '["a"]', "--run", "--json").stdout
    by_name = run("submit", "flows:takes", "--kwargs", '{"name": "b"}', "--json").stdout
    assert json.loads(by_place)["state"] == "SUCCESS"
    assert shown(run, json.loads(by_place)["flow_uuid"])["name"] == "a"
    assert shown(run, json.loads(by_name)["flow_uuid"])["name"] == "b"


def test_submit_and_run_parks(run: Run) -> None:
    answer = run("submit", "flows:waits", "--run", "--json")
    document = json.loads(answer.stdout)
    assert document["state"] == "DELAYED"
    assert sorted(document["waits_for"]) == ["one", "two"]
    assert "printed by first" in answer.stderr


def test_a_flow_is_answered_and_resumed_to_its_end(run: Run, parked: str) -> None:
    receipt = run("complete", token_of(run, parked, "one"), "--result", "1").stdout
    assert receipt.startswith("accepted: recorded for task 'one'")
    assert f"lazy-engine resume {parked}" in receipt
    assert "is DELAYED: waits for two" in run("resume", parked).stdout
    run("complete", "--flow", parked, "--task", "two")
    assert "is SUCCESS" in run("resume", parked).stdout
    assert shown(run, parked)["state"] == "SUCCESS"


def test_every_disposition_in_words_and_as_json(run: Run, parked: str) -> None:
    token = token_of(run, parked, "one")
    assert run("complete", token, "--result", "1").stdout.startswith("accepted: ")
    assert run("complete", token, "--result", "1").stdout.startswith("duplicate: ")
    answer = run("--json", "complete", token, "--result", "2", exits=ExitCode.CONFLICT)
    assert json.loads(answer.stdout) == {
        "disposition": "conflict",
        "flow_uuid": parked,
        "task_name": "one",
        "attempt": 1,
        "woken": False,
    }
    run("complete", "--flow", parked, "--task", "two")
    run("resume", parked)
    assert run("fail", token, "too late", exits=ExitCode.LATE).stdout.startswith("late: ")


def test_token_from_standard_input(run: Run, parked: str) -> None:
    token = token_of(run, parked, "one")
    assert run("complete", "-", stdin=f"{token}\n").stdout.startswith("accepted: ")
    run("complete", "-", stdin="", exits=ExitCode.WRONG_USE)
    run("complete", "-", stdin="x" * 5000, exits=ExitCode.INVALID_TOKEN)


def test_failed_flow_exits_with_one_and_names_the_task(run: Run, parked: str) -> None:
    run("fail", "--kind", "NoMoney", "--flow", parked, "spent", "--task", "one", "--details", "[7]")
    answer = run("resume", parked, exits=ExitCode.FAILED)
    assert "is REVERTED" in answer.stdout
    assert "lazy-engine: task 'one' failed: " in answer.stderr
    assert "spent" in answer.stderr


def test_submit_and_run_of_a_flow_that_fails(run: Run) -> None:
    answer = run("submit", "flows:fails", "--run", "--json", exits=ExitCode.FAILED)
    assert json.loads(answer.stdout)["state"] == "REVERTED"
    assert "no paper" in json.loads(answer.stdout)["failures"]["printer"]


def test_options_before_and_after_the_command(run: Run, parked: str, sqlite_url: str) -> None:
    for words in (
        ("--persistence", sqlite_url, "--json", "show", parked),
        ("show", parked, "--json", "--persistence", sqlite_url),
        ("--json", "show", "--persistence", sqlite_url, parked),
    ):
        answer = run(*words, LAZY_ENGINE_PERSISTENCE="sqlite:////nowhere/at/all")
        assert json.loads(answer.stdout)["uuid"] == parked


def test_delays_hides_tokens_unless_asked(run: Run, parked: str) -> None:
    plain = run("delays").stdout
    assert "lz1." not in plain
    assert "TOKEN" not in plain
    assert plain.splitlines()[0].split() == ["AGE", "DUE", "FLOW", "TASK", "ATTEMPT", "DETAILS"]
    assert "  in 6 d 23 h  " in plain, "a week, by default"
    assert "lz1." not in run("delays", "--json").stdout
    assert run("delays", "--tokens").stdout.count("lz1.") == 2


def test_delays_come_in_pages(run: Run, parked: str) -> None:
    first = json.loads(run("delays", "--limit", "1", "--json").stdout)
    second = json.loads(run("delays", "--limit", "2", "--json", "--after", first["next"]).stdout)
    names = [delay["task_name"] for page in (first, second) for delay in page["delays"]]
    assert sorted(names) == ["one", "two"]
    assert second["next"] is None
    assert "--after" in run("delays", "--limit", "1").stderr


def test_delays_of_nothing(run: Run) -> None:
    run("init")
    assert json.loads(run("delays", "--json").stdout) == {"delays": [], "next": None}
    assert "nothing waits" in run("delays").stderr


def test_show_draws_the_flow_as_a_tree(run: Run, parked: str) -> None:
    run("complete", "--flow", parked, "--task", "one")
    head, *lines = run("show", parked).stdout.splitlines()
    assert head.startswith(f"letter  ◷ DELAYED  {parked}  submitted ")
    assert [re.sub(r"for \d+ s", "for N s", line) for line in lines] == [
        "├─ first             ✔ SUCCESS",
        "├─ asks (unordered)",
        "│  ├─ again (retry)  ✔ SUCCESS",
        "│  ├─ one            ◷ DELAYED  answered; the next resume takes the answer",
        "│  └─ two            ◷ DELAYED  for N s, waits for about: \\x1b[2Jthe budget",
        "└─ last              · PENDING  after one, two",
    ]


def test_show_says_that_nobody_runs_what_was_interrupted(run: Run) -> None:
    answer = run("submit", "flows:is_interrupted", "--run", exits=130)
    flow_uuid = answer.stdout.strip()
    assert answer.stderr == "lazy-engine: interrupted\n"
    headline = run("show", flow_uuid).stdout.splitlines()[0]
    assert "RUNNING" in headline
    assert headline.endswith(
        f"run by nobody any more: a watchdog sees to it, or 'lazy-engine resume {flow_uuid}'"
    )


def test_show_in_ascii(run: Run, parked: str) -> None:
    text = run("show", parked, PYTHONIOENCODING="ascii").stdout
    assert text.isascii()
    assert "`- last" in text


def test_show_is_coloured_only_when_that_is_wanted(run: Run, parked: str) -> None:
    assert "\x1b[" not in run("show", parked).stdout
    assert "\x1b[33m" in run("show", parked, FORCE_COLOR="1").stdout
    assert "\x1b[" not in run("show", parked, FORCE_COLOR="1", NO_COLOR="1").stdout


def test_show_without_the_factory_is_a_flat_list(
    run: Run, parked: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "flows.py").unlink()
    answer = run("show", parked)
    assert "a flat list" in answer.stderr
    assert len(answer.stdout.splitlines()) == 1 + 5
    assert shown(run, parked)["structure"] is None


def test_show_names_tasks_that_the_code_no_longer_has(
    run: Run, parked: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "flows.py").write_text(FLOWS.replace('Ask("two")', 'Ask("three")'))
    text = run("show", parked).stdout
    assert "no longer in the flow's code" in text
    assert "two" in text


def test_drift_is_previewed_without_running_anything(
    run: Run, parked: str, tmp_path: pathlib.Path
) -> None:
    assert run("show", parked, "--drift").stdout == "the code has not changed\n"
    (tmp_path / "flows.py").write_text(FLOWS.replace('last="last"', 'last="other"'))
    text = run("show", parked, "--drift").stdout
    assert "allowed: 'other' is added" in text
    assert "allowed: 'last' (PENDING) is gone" in text
    assert shown(run, parked)["drift"] is None
    (tmp_path / "flows.py").write_text(FLOWS.replace('Ask("two")', 'Ask("three")'))
    answer = run("show", parked, "--drift", "--json", exits=ExitCode.INCIDENT)
    document = json.loads(answer.stdout)
    assert document["can_resume"] is False
    harmful = [change for change in document["changes"] if change["is_harmful"]]
    assert [(change["what"], change["name"]) for change in harmful] == [("gone", "two")]
    assert shown(run, parked)["incident"] is None
    run("resume", parked, exits=ExitCode.INCIDENT)
    assert "'two' (DELAYED) is gone" in run("show", parked).stdout


def test_code_that_changed_where_it_may_is_shown_with_the_flow(
    run: Run, parked: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "flows.py").write_text(FLOWS.replace('last="last"', 'last="other"'))
    run("resume", parked)
    assert run("show", parked).stdout.startswith("resumed by changed code ")
    assert shown(run, parked)["drift"]["count"] == 2


def test_incident_comes_first_and_has_its_own_code(
    run: Run, parked: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "flows.py").unlink()
    said = run("resume", parked, exits=ExitCode.INCIDENT).stderr
    assert said.endswith(f"'lazy-engine resume {parked}'\n"), "the last word is what to do"
    assert run("show", parked).stdout.startswith("INCIDENT (")
    assert shown(run, parked)["incident"]["count"] == 1
    (tmp_path / "flows.py").write_text(FLOWS)
    run("resume", parked)
    assert shown(run, parked)["incident"] is None


def test_flows_are_listed_incidents_first(run: Run, parked: str, tmp_path: pathlib.Path) -> None:
    broken = run("submit", "flows:takes", "--args", '["broken"]').stdout.strip()
    ended = run("submit", "flows:takes", "--args", '["ended"]', "--run").stdout.strip()
    (tmp_path / "flows.py").write_text(FLOWS.replace("def takes(name)", "def gone(name)"))
    run("resume", broken, exits=ExitCode.INCIDENT)
    lines = run("flows").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["FLOW", broken, ended, parked]
    assert "factory failed, once, next try in " in lines[1]
    assert lines[3].split()[1:3] == ["DELAYED", "2"]
    assert [line.split()[0] for line in run("flows", "--incidents").stdout.splitlines()[1:]] == [
        broken
    ]
    assert ended in run("flows", "--state", "SUCCESS").stdout
    assert run("flows", "--state", "REVERTED").stderr == "no such flows\n"


def test_flows_come_in_pages(run: Run, parked: str) -> None:
    for number in range(3):
        run("submit", "flows:takes", "--args", f'["flow {number}"]')
    seen, after = [], ""
    while True:
        words = ["flows", "--limit", "3", "--json", *(["--after", after] if after else [])]
        document = json.loads(run(*words).stdout)
        seen += [flow["name"] for flow in document["flows"]]
        after = document["next"]
        if not after:
            break
    assert seen == ["flow 2", "flow 1", "flow 0", "letter"]
    run("flows", "--after", "nonsense", exits=ExitCode.WRONG_USE)
    run("flows", "--limit", "0", exits=ExitCode.WRONG_USE)


def test_unknown_flows_and_delays(run: Run, parked: str) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    for words in (
        ("show", nobody),
        ("resume", nobody),
        ("complete", "--flow", nobody, "--task", "one"),
        ("delays", "--flow", nobody),
        ("delays", "--flow", nobody, "--json"),
        ("complete", "--flow", parked, "--task", "first"),
        ("fail", "--flow", parked, "--task", "nobody", "message"),
    ):
        assert run(*words, exits=ExitCode.NOT_FOUND).stderr.count("\n") == 1
    answer = run("complete", "--flow", parked, "--task", "first", exits=ExitCode.NOT_FOUND)
    assert answer.stderr.endswith("does not wait for an outcome (there waits: one, two)\n")


def test_invalid_tokens(run: Run, parked: str) -> None:
    token = token_of(run, parked, "one")
    for text in ("nonsense", token[:-1], token + "x", token[:-6]):
        answer = run("complete", text, exits=ExitCode.INVALID_TOKEN)
        assert answer.stderr.startswith("lazy-engine: the token is not valid")
    assert [delay["task_name"] for delay in shown(run, parked)["delays"]].count("one") == 1


def test_blanks_around_a_token_do_no_harm(run: Run, parked: str) -> None:
    token = token_of(run, parked, "one")
    assert run("heartbeat", f" {token}\r\n").stdout == "go on\n"


def test_no_token_is_repeated_in_an_error(run: Run, parked: str) -> None:
    token = token_of(run, parked, "one")
    run("complete", token, token, exits=ExitCode.WRONG_USE)
    run("complete", token, "--result", token, exits=ExitCode.WRONG_USE)
    run("resume", parked, token, exits=ExitCode.WRONG_USE)
    run(token, exits=ExitCode.WRONG_USE)
    run("submit", token, exits=ExitCode.WRONG_USE)
    run("show", token, exits=ExitCode.NOT_FOUND)
    run("--debug", "show", token, exits=ExitCode.NOT_FOUND)
    run("delays", "--after", token, exits=ExitCode.WRONG_USE)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("frobnicate",),
        ("show",),
        ("complete",),
        ("complete", "--flow", "x"),
        ("complete", "--task", "x"),
        ("complete", "lz1.a.b.c", "--result", "hello"),
        ("complete", "lz1.a.b.c", "--result", "NaN"),
        ("complete", "lz1.a.b.c", "--result", "[" * 100_000),
        ("fail", "lz1.a.b.c"),
        ("fail", "lz1.a.b.c", "two", "messages"),
        ("fail", "lz1.a.b.c", "message", "--details", "{"),
        ("delays", "--limit", "0"),
        ("delays", "--limit", "many"),
        ("submit", "flows"),
        ("submit", "flows:nothing"),
        ("submit", "flows:not_a_function"),
        ("submit", "flows:a.b"),
        ("submit", "nowhere:flow"),
        ("submit", "flows:takes", "--args", "{}"),
        ("submit", "flows:takes", "--kwargs", "[]"),
        ("submit", "flows:takes", "--store", "x"),
        ("submit", "flows:waits", "--jobboard", "nonsense"),
        ("submit", "flows:waits", "--jobboard", "nonsense://host/path"),
        ("submit", "flows:waits", "--jobboard", "zookeeper:///path"),
        ("init", "--persistence", "nonsense"),
        ("init", "--persistence", "nonsense://host/path"),
        ("init", "--persistence", "memory://"),
        ("init", "--persistence", "sqlite://"),
        ("init", "--persistence", "postgresql+psycop://host/database"),
        ("init", "--persistence", "sqlite+nonsense:////tmp/nonsense"),
        ("init", "--persistence", "dir://"),
    ],
)
def test_wrong_use(
    words: tuple[str, ...],
    tmp_path: pathlib.Path,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "flows.py").write_text(FLOWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "flows", raising=False)
    monkeypatch.setenv("LAZY_ENGINE_PERSISTENCE", sqlite_url)
    monkeypatch.delenv("LAZY_ENGINE_JOBBOARD", raising=False)
    assert main(words) == ExitCode.WRONG_USE
    seen = capsys.readouterr()
    monkeypatch.delitem(sys.modules, "flows", raising=False)
    assert seen.out == ""
    assert words == () or seen.err.splitlines()[-1].startswith("lazy-engine: ")


def test_kinds_of_job_boards_are_named(run: Run) -> None:
    words = ("submit", "flows:waits", "--jobboard", "rabbit://host/path")
    told = run(*words, exits=ExitCode.WRONG_USE).stderr
    assert "kind 'rabbit': use zookeeper://" in told


def test_conductor_without_a_job_board(run: Run) -> None:
    run("init")
    assert "--jobboard" in run("conductor", exits=ExitCode.WRONG_USE).stderr


def test_no_store_named(run: Run) -> None:
    answer = run("delays", LAZY_ENGINE_PERSISTENCE="", exits=ExitCode.WRONG_USE)
    assert "LAZY_ENGINE_PERSISTENCE" in answer.stderr


def test_factory_that_fails(run: Run) -> None:
    answer = run("submit", "flows:raises", exits=ExitCode.FAILED)
    assert answer.stderr == "lazy-engine: LookupError: no such plan\n"
    assert "Traceback" in run("submit", "flows:raises", "--debug", exits=ExitCode.FAILED).stderr


def test_missing_sqlite_file_is_not_made_by_looking(run: Run, tmp_path: pathlib.Path) -> None:
    answer = run("delays", exits=ExitCode.UNREACHABLE)
    assert "lazy-engine init" in answer.stderr
    assert not (tmp_path / "lazy.sqlite").exists()


def test_flow_is_kept_in_a_directory(run: Run, tmp_path: pathlib.Path) -> None:
    place = {"LAZY_ENGINE_PERSISTENCE": f"dir://{tmp_path / 'kept'}"}
    assert "no directory" in run("show", "x", exits=ExitCode.UNREACHABLE, **place).stderr
    assert not (tmp_path / "kept").exists()
    run("init", **place)
    flow_uuid = run("submit", "flows:waits", "--run", **place).stdout.strip()
    for name in ("one", "two"):
        run("complete", "--flow", flow_uuid, "--task", name, "--result", "1", **place)
    assert "SUCCESS" in run("resume", flow_uuid, **place).stdout
    assert flow_uuid in os.listdir(tmp_path / "kept" / "flow_details")


def test_store_that_does_not_answer(run: Run) -> None:
    url = f"postgresql+psycopg://somebody:hush@127.0.0.1:{unused_port()}/flows"
    answer = run("delays", "--persistence", url, exits=ExitCode.UNREACHABLE)
    assert answer.stderr.count("\n") == 1
    assert "hush" not in answer.stderr


def test_passwords_of_servers_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    Session("postgresql://me:hu%2Fsh@host/flows", "redis://:shut@host", output)
    output.error("cannot open postgresql://me:hu%2Fsh@host/flows with 'hu/sh', nor with shut")
    output.trace("shut")
    seen = capsys.readouterr().err
    assert not any(secret in seen for secret in ("hu%2Fsh", "hu/sh", "shut"))
    assert seen.count("***") == 4


def test_broken_pipe_is_silent(run: Run, parked: str, sqlite_url: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lazy_engine.cli", "show", parked],
        env=environment(LAZY_ENGINE_PERSISTENCE=sqlite_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.close()
        assert process.stderr.read().count(b"Error") == 0


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.slow
def test_outcome_is_recorded_though_the_job_board_is_away(run: Run, parked: str) -> None:
    board = f"zookeeper://127.0.0.1:{unused_port()}/jobs"
    words = ("complete", "--flow", parked, "--task", "one", "--jobboard", board)
    answer = run(*words, exits=ExitCode.UNREACHABLE)
    assert "accepted: " in answer.stdout
    assert "nobody was woken" in answer.stderr
    assert run("complete", "--flow", parked, "--task", "two").stdout.startswith("accepted: ")
    assert "is SUCCESS" in run("resume", parked).stdout


@pytest.mark.slow
def test_job_board_that_does_not_answer(run: Run) -> None:
    board = f"zookeeper://127.0.0.1:{unused_port()}/jobs"
    answer = run("submit", "flows:waits", "--jobboard", board, exits=ExitCode.UNREACHABLE)
    assert "cannot reach the job board" in answer.stderr
    assert re.search(UUID, answer.stdout) is None


class Conductor:
    """A conductor process and the events that it prints."""

    def __init__(self, process: subprocess.Popen[str], log_path: pathlib.Path) -> None:
        self.process = process
        self._log_path = log_path

    def events(self) -> list[dict[str, Any]]:
        lines = self._log_path.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def wait_for(self, event: str, flow_uuid: str | None = None) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            for found in self.events():
                if found["event"] == event and found.get("flow_uuid") == flow_uuid:
                    return found
            return None

        found = wait_until(find, timeout_seconds=30, what=f"event {event}")
        assert found is not None
        return found


@pytest.fixture
def board_url(zookeeper: ZooKeeper, jobboard_path: str) -> str:
    return f"zookeeper://{zookeeper.hosts}{jobboard_path}"


@pytest.fixture
def conductor(
    run: Run, tmp_path: pathlib.Path, sqlite_url: str, board_url: str
) -> Iterator[Conductor]:
    run("init")
    log_path = tmp_path / "conductor.log"
    with open(log_path, "w") as log, open(tmp_path / "conductor.err", "w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "lazy_engine.cli", "conductor", "--name", "c", "--json"],
            cwd=tmp_path,
            env=environment(LAZY_ENGINE_PERSISTENCE=sqlite_url, LAZY_ENGINE_JOBBOARD=board_url),
            stdout=log,
            stderr=err,
            encoding="utf-8",
        )
        try:
            yield Conductor(process, log_path)
        finally:
            process.kill()
            process.wait()


def test_conductor_runs_what_is_submitted_and_wakes_what_is_answered(
    run: Run, conductor: Conductor, board_url: str
) -> None:
    conductor.wait_for("started")
    board = {"LAZY_ENGINE_JOBBOARD": board_url}
    flow_uuid = run("submit", "flows:waits", **board).stdout.strip()
    conductor.wait_for("flow_parked", flow_uuid)
    for name in ("one", "two"):
        answer = run("complete", "--flow", flow_uuid, "--task", name, "--json", **board)
        assert json.loads(answer.stdout)["woken"] is True
    assert conductor.wait_for("flow_ended", flow_uuid)["state"] == "SUCCESS"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_conductor_stops_at_a_signal(conductor: Conductor, number: signal.Signals) -> None:
    conductor.wait_for("started")
    conductor.process.send_signal(number)
    assert conductor.process.wait(timeout=30) == ExitCode.DONE
    assert [event["event"] for event in conductor.events()][-2:] == ["stopping", "stopped"]


_SIGNALS_AT_ONCE = """
import os, signal, sys
from lazy_engine import cli
from lazy_engine.cli import conductor

say = conductor._say

def say_and_signal(session, name, event, details):
    say(session, name, event, details)
    if event == "started":
        os.kill(os.getpid(), signal.SIGTERM)

conductor._say = say_and_signal
sys.exit(cli.main(["conductor", "--json"]))
"""


def test_conductor_stops_at_a_signal_as_soon_as_it_says_that_it_has_started(
    run: Run, tmp_path: pathlib.Path, sqlite_url: str, board_url: str
) -> None:
    run("init")
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALS_AT_ONCE],
        cwd=tmp_path,
        env=environment(LAZY_ENGINE_PERSISTENCE=sqlite_url, LAZY_ENGINE_JOBBOARD=board_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.DONE, done
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert events == ["started", "stopping", "stopped"]


# -- time ------------------------------------------------------------------


def submitted(run: Run, factory: str, *words: str) -> str:
    return run("submit", f"flows:{factory}", "--run", *words).stdout.strip()


def due_in(run: Run, flow_uuid: str) -> str:
    (line,) = run("delays", "--flow", flow_uuid).stdout.splitlines()[1:]
    return line.partition(flow_uuid)[0].strip()


def test_one_round_of_the_watchdog_lists_what_wants_a_resume(run: Run) -> None:
    assert "nothing is due" in run("init").stdout + run("watchdog", "--once").stderr
    hasty = submitted(run, "times_out", "--args", "[0.001]")
    submitted(run, "times_out", "--args", "[3600]")
    assert run("watchdog", "--once").stdout.split() == [hasty]
    assert json.loads(run("watchdog", "--once", "--json").stdout) == {
        "wanting": [],
        "states": {},
        "errors": {},
    }


def test_one_round_of_the_watchdog_can_resume_too(run: Run) -> None:
    naps = submitted(run, "naps")
    answer = run("watchdog", "--once", "--resume", "--json")
    assert json.loads(answer.stdout) == {
        "wanting": [naps],
        "states": {naps: "SUCCESS"},
        "errors": {},
    }
    assert "printed by after" in answer.stderr


def test_one_round_of_the_watchdog_resumes_the_others_though_one_fails(
    run: Run, tmp_path: pathlib.Path
) -> None:
    module = tmp_path / "gone.py"
    module.write_text("from flows import naps\n\ndef make():\n    return naps()\n")
    broken = run("submit", "gone:make", "--run").stdout.strip()
    naps = submitted(run, "naps")
    module.unlink()
    answer = run("watchdog", "--once", "--resume", "--json", exits=ExitCode.INCIDENT)
    told = json.loads(answer.stdout)
    assert told["wanting"] == [broken, naps]
    assert told["states"] == {naps: "SUCCESS"}
    assert "gone" in told["errors"][broken]
    assert broken in answer.stderr


@pytest.mark.parametrize("resumes", [False, True])
def test_watchdog_goes_on_until_a_signal(
    run: Run, resumes: bool, tmp_path: pathlib.Path, sqlite_url: str
) -> None:
    run("init")
    words = ["watchdog", "--period-seconds", "0.05", *(["--resume"] if resumes else [])]
    log_path, err_path = tmp_path / "watchdog.log", tmp_path / "watchdog.err"
    with open(log_path, "w") as log, open(err_path, "w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "lazy_engine.cli", *words],
            cwd=tmp_path,
            env=environment(LAZY_ENGINE_PERSISTENCE=sqlite_url),
            stdout=log,
            stderr=err,
        )
        try:
            wait_until(lambda: "watching" in err_path.read_text(), timeout_seconds=30)
            naps = submitted(run, "naps")
            if resumes:
                wait_until(lambda: shown(run, naps)["state"] == "SUCCESS", timeout_seconds=30)
            else:
                wait_until(lambda: log_path.read_text().split() == [naps], timeout_seconds=30)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == ExitCode.DONE
        finally:
            process.kill()
            process.wait()
    assert log_path.read_text().split() == ([] if resumes else [naps])


def test_watchdog_refuses_what_it_cannot_do(run: Run, board_url: str) -> None:
    run("watchdog", "--period-seconds", "0", exits=ExitCode.WRONG_USE)
    run("watchdog", "--resume", "--jobboard", board_url, exits=ExitCode.WRONG_USE)


def test_heartbeat_says_whether_to_go_on(run: Run, parked: str) -> None:
    token = token_of(run, parked, "one")
    beat = run("heartbeat", token, "--progress", "0.25", "--details", '{"disk": 1}')
    assert beat.stdout == "go on\n"
    (delay,) = json.loads(run("delays", "--task", "one", "--json").stdout)["delays"]
    assert delay["progress"] == 0.25
    run("cancel", parked)
    answer = run("heartbeat", token, "--json", exits=ExitCode.LATE)
    assert json.loads(answer.stdout) == {"cancelled": True}


@pytest.mark.parametrize("words", [["--progress", "2"], ["--details", "{"], ["--progress", "x"]])
def test_heartbeat_refuses_what_makes_no_sense(run: Run, parked: str, words: list[str]) -> None:
    run("heartbeat", "--flow", parked, "--task", "one", *words, exits=ExitCode.WRONG_USE)
    run("heartbeat", "nonsense", exits=ExitCode.INVALID_TOKEN)


def test_cancel_reverts_with_the_next_resume(run: Run) -> None:
    flow_uuid = submitted(run, "times_out", "--args", "[3600]")
    answer = run("cancel", flow_uuid, "--reason", "too dear")
    assert f"lazy-engine resume {flow_uuid}" in answer.stdout
    assert "before" in run("cancel", flow_uuid).stdout
    assert json.loads(run("cancel", flow_uuid, "--json").stdout)["cancelled"] is False
    assert "is DELAYED: waits for undo" in run("resume", flow_uuid).stdout
    assert "undo (revert)" in run("delays", "--flow", flow_uuid).stdout
    run("complete", "--flow", flow_uuid, "--task", "undo")
    run("resume", flow_uuid, exits=ExitCode.FAILED)
    assert shown(run, flow_uuid)["state"] == "REVERTED"
    assert shown(run, flow_uuid)["wish_reason"] == "too dear"
    run("cancel", flow_uuid.replace(flow_uuid[:8], "00000000"), exits=ExitCode.NOT_FOUND)


def test_suspended_flow_keeps_outcomes_until_it_is_resumed(run: Run, parked: str) -> None:
    assert f"lazy-engine resume {parked}" in run("suspend", parked, "--reason", "night").stdout
    assert shown(run, parked)["state"] == "SUSPENDED"
    for name in ("one", "two"):
        run("complete", "--flow", parked, "--task", name)
    assert run("watchdog", "--once").stdout == ""
    assert "is SUCCESS" in run("resume", parked).stdout
    assert "is over" in run("suspend", parked).stdout
    assert json.loads(run("suspend", parked, "--json").stdout)["suspended"] is False


def test_delays_say_when_they_are_due(run: Run) -> None:
    hasty = submitted(run, "times_out", "--args", "[3600]")
    assert re.search(r"  in 5[89] min$", due_in(run, hasty))
    patient = submitted(run, "alerts")
    run("watchdog", "--once")
    assert due_in(run, patient).endswith("overdue")
    soon = ("delays", "--due-before", "2000-01-01T00:00:00+00:00")
    assert "nothing waits" in run(*soon).stderr
    later = ("delays", "--due-before", "2999-01-01T00:00:00+00:00", "--json")
    assert len(json.loads(run(*later).stdout)["delays"]) == 1
    run("delays", "--due-before", "tomorrow", exits=ExitCode.WRONG_USE)
