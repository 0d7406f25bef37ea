# SPDX-License-Identifier: Apache-2.0
"""Owners: a name tells whether its process can still be alive, and never guesses."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading

import pytest

from lazy_engine.ledger import owner
from tests.waiting import wait_until


def name_of(pid: int) -> str:
    parts = owner.name().split("/")
    started = owner._started(pid)
    assert started is not None
    return "/".join([parts[0], parts[1], str(pid), started, parts[4]])


def test_names_are_of_this_process_and_never_the_same() -> None:
    names = {owner.name() for _ in range(100)}
    assert len(names) == 100
    assert {name.split("/")[2] for name in names} == {str(os.getpid())}
    assert all(len(name) <= 255 for name in names), "longer than the column"


def test_this_process_is_not_dead_in_any_thread() -> None:
    name = owner.name()
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(owner.is_dead(name)))
    thread.start()
    thread.join()
    assert answers == [False]
    assert not owner.is_dead(name)


def test_process_is_dead_once_it_has_ended_even_as_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = name_of(child.pid)
    assert not owner.is_dead(name)
    assert child.stdin is not None
    child.stdin.close()
    wait_until(lambda: owner.is_dead(name), what="the zombie to count as dead")
    child.wait()
    assert owner.is_dead(name)


def test_another_process_with_the_same_number_is_another_owner() -> None:
    parts = owner.name().split("/")
    parts[3] = str(int(parts[3]) - 1)
    assert owner.is_dead("/".join(parts))


@pytest.mark.parametrize("place", [0, 1])
def test_owner_elsewhere_is_never_known_to_be_dead(place: int) -> None:
    parts = owner.name().split("/")
    parts[place], parts[2] = "elsewhere", "999999999"
    assert not owner.is_dead("/".join(parts))


@pytest.mark.parametrize("name", ["", "x", "a/b/c", "a/b/c/d/e", "a/b/c/d/e/f", "////"])
def test_name_that_is_none_of_ours_is_never_known_to_be_dead(name: str) -> None:
    assert not owner.is_dead(name)


def test_mangled_process_number_is_never_known_to_be_dead() -> None:
    parts = owner.name().split("/")
    parts[2] = "many"
    assert not owner.is_dead("/".join(parts))


def test_without_proc_nobody_is_known_to_be_dead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    before = owner.name()
    monkeypatch.setattr(owner, "_PROC", tmp_path)
    without = owner.name()
    assert without.split("/")[1] == without.split("/")[3] == "-"
    assert not owner.is_dead(without)
    assert not owner.is_dead(before)
