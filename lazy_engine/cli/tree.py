# SPDX-License-Identifier: Apache-2.0
"""A flow drawn as a tree, for people."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Final

from taskflow import states

from lazy_engine.cli.output import Output, age, compact, printable, shorten, times
from lazy_engine.cli.structure import RETRY, TASK, Node, Structure
from lazy_engine.delay import DELAYED
from lazy_engine.view import FlowView, TaskView

_DETAILS_WIDTH: Final = 60
_FAILURE_WIDTH: Final = 100
_CHANGES_SHOWN: Final = 10

#: state → (glyph, the same in ASCII, style)
_MARKS: Final[Mapping[str, tuple[str, str, str]]] = {
    states.SUCCESS: ("✔", "+", "good"),
    DELAYED: ("◷", "?", "waiting"),
    states.SUSPENDED: ("◷", "?", "waiting"),
    states.RUNNING: ("▶", ">", "working"),
    states.REVERTING: ("↺", "<", "working"),
    states.RETRYING: ("↺", "<", "working"),
    states.FAILURE: ("✘", "x", "bad"),
    states.REVERT_FAILURE: ("✘", "x", "bad"),
    states.REVERTED: ("↺", "<", "bad"),
}
_OTHER: Final = ("·", ".", "faint")

_BRANCHES: Final = (("├─ ", "└─ ", "│  ", "   "), ("|- ", "`- ", "|  ", "   "))


class Tree:
    """Draws one flow.

    :param flow: how it stands.
    :param structure: how it is put together, or ``None`` for a flat list.
    :param now: by the store's clock.
    """

    def __init__(
        self, output: Output, flow: FlowView, structure: Structure | None, now: datetime.datetime
    ) -> None:
        self._output = output
        self._flow = flow
        self._structure = structure
        self._now = now
        self._atoms = {atom.name: atom for atom in flow.atoms}
        self._delays = {delay.task_name: delay for delay in flow.delays}
        self._branches = _BRANCHES[0 if output.has_unicode else 1]
        self._width = max((len(text) for text in self._labels()), default=0)

    def lines(self) -> Iterator[str]:
        """Yield the lines: the incident, changes of the code, the flow, its parts."""
        yield from self._incident()
        yield from self._drift()
        yield self._headline()
        yield from self._below(self._root(), "")

    def _root(self) -> Node:
        listed = set(self._structure.root.atom_names()) if self._structure else set()
        others = [
            Node(name=atom.name, kind=RETRY if atom.is_retry else TASK)
            for atom in self._flow.atoms
            if atom.name not in listed
        ]
        if self._structure is None:
            return Node(name=self._flow.name, kind="flat", children=others)
        if not others:
            return self._structure.root
        # Stored, but no longer in the flow's code: shown all the same.
        gone = Node(name="no longer in the flow's code", kind="flat", children=others)
        root = self._structure.root
        return Node(name=root.name, kind=root.kind, children=[*root.children, gone])

    def _incident(self) -> Iterator[str]:
        found = self._flow.incident
        if found is None:
            return
        since = age((self._now - found.first_at).total_seconds())
        text = f"INCIDENT ({found.kind}, seen {times(found.count)}, first {since} ago): "
        yield self._output.style(text + printable(found.message), "bad")
        when = "it is not tried again by itself"
        if found.next_try_at is not None:
            left = (found.next_try_at - self._now).total_seconds()
            when = (
                f"it is tried again in {age(left)}" if left > 0 else "it is due to be tried again"
            )
        yield f"  nothing is lost, and {when}: mend it, then 'lazy-engine resume {self._flow.uuid}'"

    def _drift(self) -> Iterator[str]:
        found = self._flow.drift
        if found is None:
            return
        words = "; ".join(found.changes[:_CHANGES_SHOWN])
        more = found.count - _CHANGES_SHOWN
        words += f"; and {more} more" if more > 0 else ""
        text = f"resumed by changed code {self._ago(found.noted_at)} ago: {printable(words)}"
        yield self._output.style(text, "faint")

    def _headline(self) -> str:
        flow = self._flow
        parts = [
            self._output.style(printable(flow.name), "strong"),
            self._mark(flow.state),
            self._output.style(flow.uuid, "faint"),
            f"submitted {self._ago(flow.created_at)} ago",
        ]
        if flow.ended_at is not None:
            parts.append(f"ended {self._ago(flow.ended_at)} ago")
        if flow.owner is not None and flow.state == states.RUNNING:
            parts.append(f"run by {printable(_process(flow.owner))}")
        if flow.owner is None and flow.state == states.RUNNING:
            # Whoever ran it was interrupted, or died.
            parts.append(
                "run by nobody any more: a watchdog sees to it, or"
                f" 'lazy-engine resume {printable(flow.uuid)}'"
            )
        if flow.wish_reason:
            parts.append(f"({printable(flow.wish_reason)})")
        return "  ".join(parts)

    def _below(self, node: Node, indent: str) -> Iterator[str]:
        fork, last_fork, pipe, blank = self._branches
        for number, child in enumerate(node.children, start=1):
            is_last = number == len(node.children)
            lead = indent + (last_fork if is_last else fork)
            if child.kind in (TASK, RETRY):
                yield self._leaf(child, lead)
            else:
                kind = "" if child.kind == "flat" else f" ({child.kind})"
                text = f"{printable(child.name)}{kind}"
                yield lead + self._output.style(text, "strong")
            yield from self._below(child, indent + (blank if is_last else pipe))

    def _leaf(self, node: Node, lead: str) -> str:
        atom = self._atoms.get(node.name)
        state = atom.state if atom else states.PENDING
        label = (lead + self._label(node)).ljust(self._width)
        return f"{label}  {self._mark(state)}  {self._remark(node.name, atom, state)}".rstrip()

    def _remark(self, name: str, atom: TaskView | None, state: str) -> str:
        delay = self._delays.get(name)
        if delay is not None:
            details = shorten(printable(compact(delay.details)), _DETAILS_WIDTH)
            words = [f"for {self._ago(delay.opened_at)}"]
            words += [f"attempt {delay.attempt}"] if delay.attempt > 1 else []
            words += [f"waits for {details}"] if details else ["waits for an answer"]
            return ", ".join(words)
        if state == DELAYED:
            return "answered; the next resume takes the answer"
        if atom is not None and atom.failure:
            return shorten(printable(atom.failure), _FAILURE_WIDTH)
        if state == states.RUNNING and atom is not None and atom.progress:
            return f"{atom.progress:.0%}"
        if state == states.PENDING and self._flow.ended_at is None:
            return self._after(name)
        return f"attempt {atom.attempt}" if atom is not None and atom.attempt > 1 else ""

    def _after(self, name: str) -> str:
        before = self._structure.before.get(name, ()) if self._structure else ()
        left = [other for other in before if self._flow.tasks.get(other) != states.SUCCESS]
        return f"after {', '.join(map(printable, left))}" if left else ""

    def _label(self, node: Node) -> str:
        return printable(node.name) + (" (retry)" if node.kind == RETRY else "")

    def _labels(self) -> Iterator[str]:
        def walk(node: Node, depth: int) -> Iterator[str]:
            for child in node.children:
                if child.kind in (TASK, RETRY):
                    yield " " * 3 * (depth + 1) + self._label(child)
                yield from walk(child, depth + 1)

        return walk(self._root(), 0)

    def _mark(self, state: str) -> str:
        glyph, ascii_glyph, style = _MARKS.get(state, _OTHER)
        return self._output.style(
            f"{glyph if self._output.has_unicode else ascii_glyph} {state}", style
        )

    def _ago(self, instant: datetime.datetime) -> str:
        return age((self._now - instant).total_seconds())


def _process(owner: str) -> str:
    """Return host and process of a lease's owner, as people name them."""
    parts = owner.split("/")
    return f"process {parts[2]} on {parts[0]}" if len(parts) == 5 else owner
