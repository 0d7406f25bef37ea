# SPDX-License-Identifier: Apache-2.0
"""The reference names what the package has; that the pages build is seen to by ``make docs``."""

from __future__ import annotations

import inspect
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import lazy_engine
from lazy_engine.conductor import LazyConductor
from lazy_engine.engine import LazyEngine
from lazy_engine.engine.option import Options
from lazy_engine.ledger.zookeeper_node import Paths

DOC = pathlib.Path(__file__).resolve().parents[2] / "doc"
PACKAGE = pathlib.Path(lazy_engine.__file__).parent

DESCRIBED = re.compile(r"^\.\. (?:auto\w+|data):: lazy_engine\.([\w.]+)$", re.MULTILINE)
VARIABLE = re.compile(r"\bLAZY_ENGINE_[A-Z]+\b")
#: An entry of the list of options in the engine's docstring.
OPTION = re.compile(r"^ *``(\w+)``$", re.MULTILINE)
#: The first column of the table of znodes.
ZNODE = re.compile(r"^``(lazy[^`]*)``", re.MULTILINE)
PARAMETER = re.compile(r":param (\w+):")


class Recorder(Mapping[str, Any]):
    """Holds nothing, and knows what it was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(read(page) for page in (DOC / "reference").glob("*.rst"))
    described = set(DESCRIBED.findall(pages))
    assert set(lazy_engine.__all__) - described == set()


def test_every_environment_variable_is_in_the_reference() -> None:
    used = {name for path in PACKAGE.rglob("*.py") for name in VARIABLE.findall(read(path))}
    assert "LAZY_ENGINE_KEYS" in used
    assert used == set(VARIABLE.findall(read(DOC / "reference" / "options.rst")))


def test_every_option_of_the_engine_is_described() -> None:
    options = Recorder()
    Options.read(options)
    assert "linger_seconds" in options.asked
    described = set(OPTION.findall(inspect.getdoc(LazyEngine) or ""))
    assert described == options.asked | {"busy_wait_seconds"}  # the engine's own


def test_every_parameter_of_the_conductor_is_described() -> None:
    described = set(PARAMETER.findall(inspect.getdoc(LazyConductor) or ""))
    assert described == set(inspect.signature(LazyConductor).parameters)


def test_every_kind_of_znode_is_in_the_reference() -> None:
    paths = {str(path).removeprefix("/app/") for path in vars(Paths("/app")).values()}
    own = {path for path in paths if path.split("/")[0] == "lazy"}
    assert "lazy/due" in own
    described = ZNODE.findall(read(DOC / "reference" / "znodes.rst"))
    assert {"/".join(path.split("/")[:2]) for path in described} == own
