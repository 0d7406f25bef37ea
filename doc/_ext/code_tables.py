# SPDX-License-Identifier: Apache-2.0
"""Directives that read tables out of the package, so that no page retypes them.

Where a table needs words of its own (what a column means) the page gives
them, and the build fails if they do not fit the code any more.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from lazy_engine import checkup, cli, incident, rules
from lazy_engine.cli import exit_code
from lazy_engine.ledger import GUARANTEES, record, sql_schema, zookeeper_node
from lazy_engine.ledger.directory_detail import redo_table
from lazy_engine.token import DelayKey

#: Widest column, in characters, for builders that care.
_WIDEST = 60


def load(dotted_name: str) -> Any:
    """Return the object with that dotted name.

    :raises ImportError, AttributeError: there is none.
    """
    module, _, name = dotted_name.rpartition(".")
    return getattr(importlib.import_module(module), name)


class CodeDirective(SphinxDirective):
    """A directive whose source is the package's code."""


def table(heads: Sequence[str], rows: Iterable[Sequence[nodes.Node | str]]) -> nodes.table:
    """Return a table; a cell is text or one inline node (or several, in a paragraph)."""
    rows = list(rows)
    group = nodes.tgroup(cols=len(heads))
    columns = zip(heads, *rows, strict=True)
    group += [nodes.colspec(colwidth=max(map(_width, cells))) for cells in columns]
    head, body = nodes.thead(), nodes.tbody()
    head += _row(heads)
    body += [_row(row) for row in rows]
    group += [head, body]
    whole = nodes.table(classes=["colwidths-auto"])
    whole += group
    return whole


def _width(cell: nodes.Node | str) -> int:
    return min(_WIDEST, len(cell if isinstance(cell, str) else cell.astext()) + 4)


def _row(cells: Sequence[nodes.Node | str]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        if isinstance(cell, nodes.paragraph):
            entry += cell
        else:
            entry += nodes.paragraph("", "", nodes.Text(cell) if isinstance(cell, str) else cell)
        row += entry
    return row


class FlowTransitions(CodeDirective):
    """List what lazy_engine adds to TaskFlow's own table of flow states."""

    def run(self) -> list[nodes.Node]:
        rows = [
            (
                nodes.literal("", start),
                nodes.literal("", end),
                "is made" if is_made else "is left out, silently",
            )
            for (start, end), is_made in rules.FLOW_TRANSITIONS.items()
        ]
        return [table(("From", "To", "The change"), rows)]


class FinalStates(CodeDirective):
    """List the states in which a flow is over."""

    def run(self) -> list[nodes.Node]:
        items = nodes.bullet_list()
        for state in sorted(rules.FINAL_STATES):
            items += nodes.list_item("", nodes.paragraph("", "", nodes.literal("", state)))
        return [items]


class MeaningsDirective(CodeDirective):
    """A directive whose content has a line ``name: meaning`` for every name."""

    required_arguments = 1
    has_content = True

    def meanings(self, names: Iterable[str]) -> dict[str, str]:
        """Return the meanings by name; missing or surplus ones fail the build."""
        pairs = (line.partition(":") for line in self.content if line.strip())
        found = {name.strip(): meaning.strip() for name, _, meaning in pairs}
        if wrong := set(names) ^ set(found):
            about = " ".join([self.name, *self.arguments])
            raise self.error(f"{about}: names and meanings differ in {sorted(wrong)}")
        return found

    def paragraph(self, meaning: str) -> nodes.paragraph:
        """Return a meaning as a paragraph."""
        parsed, messages = self.parse_inline(meaning)
        return nodes.paragraph("", "", *parsed, *messages)


class IncidentKinds(MeaningsDirective):
    """List the kinds of incidents. Content as for a table."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        kinds = [
            value
            for name, value in vars(incident).items()
            if name.isupper() and isinstance(value, str)
        ]
        meanings = self.meanings(kinds)
        rows = [(nodes.literal("", kind), self.paragraph(meanings[kind])) for kind in kinds]
        return [table(("Kind", "What is wrong"), rows)]


class LedgerNode(MeaningsDirective):
    """List the fields of a znode: ``flow`` or ``delay``. Content as for a table."""

    def run(self) -> list[nodes.Node]:
        key = DelayKey(flow_uuid="", atom_uuid="", kind="", attempt=1)
        samples = {
            "flow": zookeeper_node.encode_flow(
                zookeeper_node.FlowNode(record=record.FlowRecord(flow_uuid="", flow_name=""))
            ),
            "delay": zookeeper_node.encode_delay(record.DelayRecord(key=key, task_name="")),
        }
        if self.arguments[0] not in samples:
            raise self.error(f"the ledger has no znode {self.arguments[0]!r}")
        names = list(json.loads(samples[self.arguments[0]]))
        meanings = self.meanings(names)
        rows = [(nodes.literal("", name), self.paragraph(meanings[name])) for name in names]
        return [table(("Field", "Meaning"), rows)]


class ZookeeperLayout(CodeDirective):
    """Say which version the znodes have."""

    def run(self) -> list[nodes.Node]:
        return [nodes.paragraph("", f"This is layout {zookeeper_node.LAYOUT}.")]


class LedgerTable(MeaningsDirective):
    """List the columns of one ``lazy_*`` table.

    Argument: the table's name. Content: a line ``column: meaning`` for every
    column; a missing or surplus one fails the build.
    """

    def run(self) -> list[nodes.Node]:
        own = sql_schema.build("sqlite").own
        redo_table(own)  # of directories alone
        found = own.tables.get(self.arguments[0])
        if found is None:
            raise self.error(f"the ledger has no table {self.arguments[0]!r}")
        meanings = self.meanings(column.name for column in found.columns)
        rows = [self._cells(column, meanings[column.name]) for column in found.columns]
        return [table(("Column", "Type", "Null", "Meaning"), rows), *self._indexes(found)]

    def _cells(self, column: sa.Column[Any], meaning: str) -> list[nodes.Node | str]:
        name = nodes.literal("", column.name)
        return [
            nodes.strong("", "", name) if column.primary_key else name,
            nodes.literal("", str(column.type)),
            "yes" if column.nullable else "",
            self.paragraph(meaning),
        ]

    def _indexes(self, found: sa.Table) -> list[nodes.Node]:
        indexes = sorted(found.indexes, key=lambda index: str(index.name))
        words = [
            f"{index.name} ({', '.join(column.name for column in index.columns)})"
            for index in indexes
        ]
        key = ", ".join(column.name for column in found.primary_key.columns)
        text = f"Primary key: {key}." + (f" Indexes: {'; '.join(words)}." if words else "")
        return [nodes.paragraph("", text)]


class HostIndexes(CodeDirective):
    """List the indexes added to TaskFlow's own tables."""

    def run(self) -> list[nodes.Node]:
        rows = [
            (nodes.literal("", name), nodes.literal("", host), nodes.literal("", column))
            for name, (host, column) in sql_schema.HOST_INDEXES.items()
        ]
        return [table(("Index", "Table", "Column"), rows)]


class SchemaVersion(CodeDirective):
    """Say which version the tables have."""

    def run(self) -> list[nodes.Node]:
        return [nodes.paragraph("", f"These are the tables of version {sql_schema.VERSION}.")]


class StoreGuarantees(CodeDirective):
    """List what each kind of store promises.

    Content: a line ``store: words`` for every one, its scheme in an address.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        pairs = (line.partition(":") for line in self.content if line.strip())
        schemes = {name.strip(): words.strip() for name, _, words in pairs}
        if wrong := set(GUARANTEES) ^ set(schemes):
            raise self.error(f"stores and addresses differ in {sorted(wrong)}")
        rows = []
        for name, promised in GUARANTEES.items():
            facts = (
                promised.is_durable,
                promised.is_shared,
                promised.needs_json,
                promised.has_clock,
            )
            parsed, messages = self.parse_inline(schemes[name])
            words = nodes.paragraph("", "", *parsed, *messages)
            rows.append(
                (nodes.literal("", name), words, *("yes" if fact else "no" for fact in facts))
            )
        heads = (
            "Store",
            "Address",
            "Outlives the process",
            "Other processes see it",
            "JSON alone",
            "One clock for all",
        )
        return [table(heads, rows)]


class ExitCodes(CodeDirective):
    """List what ``lazy-engine`` exits with."""

    def run(self) -> list[nodes.Node]:
        rows = [
            (nodes.literal("", str(int(code))), meaning)
            for code, meaning in exit_code.MEANINGS.items()
        ]
        return [table(("Code", "Meaning"), rows)]


class Sizes(CodeDirective):
    """List limits: a line ``dotted.name: of what`` for each constant."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        rows = []
        for line in filter(str.strip, self.content):
            name, _, meaning = line.partition(":")
            parsed, messages = self.parse_inline(meaning.strip())
            words = nodes.paragraph("", "", *parsed, *messages)
            rows.append((words, _size(name.strip(), load(name.strip()))))
        return [table(("Of what", "Largest"), rows)]


def _size(name: str, value: int) -> str:
    if not name.endswith("_BYTES"):
        return f"{value} characters" if name.endswith("_LENGTH") else str(value)
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10), ("kB", 1000)):
        if value % size == 0:
            return f"{value // size} {unit}"
    return f"{value} bytes"


class DoctorChecks(CodeDirective):
    """List what ``lazy-engine doctor`` looks for."""

    def run(self) -> list[nodes.Node]:
        rows = [
            (
                nodes.literal("", check.name),
                check.says,
                str(int(_DOCTORS_CODES[check.level])),
            )
            for check in (*checkup.CHECKS, checkup.DOORBELL)
        ]
        return [table(("Check", "What must be true", "If not, exits with"), rows)]


_DOCTORS_CODES = {
    checkup.WRONG: exit_code.ExitCode.UNSOUND,
    checkup.STALLED: exit_code.ExitCode.STALLED,
}


class CommandHelp(CodeDirective):
    """Show what ``lazy-engine --help`` prints."""

    def run(self) -> list[nodes.Node]:
        return [_help([])]


class AllCommands(CodeDirective):
    """Show what ``--help`` prints for every command, a section for each."""

    def run(self) -> list[nodes.Node]:
        sections: list[nodes.Node] = []
        for name in _COMMAND.findall(_help([]).astext()):
            section = nodes.section("", nodes.title("", name), ids=[f"command-{name}"])
            section += _help([name])
            sections.append(section)
        if not sections:
            raise self.error("lazy-engine --help lists no command")
        return sections


#: A command in what ``lazy-engine --help`` prints.
_COMMAND = re.compile(r"^    ([a-z]+)  ", re.MULTILINE)


def _help(words: Sequence[str]) -> nodes.literal_block:
    """Return what ``lazy-engine WORDS --help`` prints."""
    printed = io.StringIO()
    plain = {"COLUMNS": "88", "NO_COLOR": "1"}
    before = {name: os.environ.get(name) for name in plain}
    os.environ.update(plain)
    try:
        with contextlib.redirect_stdout(printed):
            status = cli.main([*words, "--help"])
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    if status != 0 or not printed.getvalue():
        raise ExtensionError(f"lazy-engine {' '.join(words)} --help failed")
    return nodes.literal_block(printed.getvalue(), printed.getvalue(), language="text")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("lazy-flow-transitions", FlowTransitions)
    app.add_directive("lazy-final-states", FinalStates)
    app.add_directive("lazy-ledger-table", LedgerTable)
    app.add_directive("lazy-ledger-node", LedgerNode)
    app.add_directive("lazy-znode-layout", ZookeeperLayout)
    app.add_directive("lazy-host-indexes", HostIndexes)
    app.add_directive("lazy-schema-version", SchemaVersion)
    app.add_directive("lazy-store-guarantees", StoreGuarantees)
    app.add_directive("lazy-exit-codes", ExitCodes)
    app.add_directive("lazy-incident-kinds", IncidentKinds)
    app.add_directive("lazy-doctor-checks", DoctorChecks)
    app.add_directive("lazy-sizes", Sizes)
    app.add_directive("lazy-help", CommandHelp)
    app.add_directive("lazy-commands", AllCommands)
    return {"parallel_read_safe": True}
