# SPDX-License-Identifier: Apache-2.0
"""``lazy-state-diagram``: draws a table of transitions, read from the code.

States stand in a column. Arrows on the right lead down it, arrows on the left
back up. Needs no program but Sphinx; builders other than HTML get the
table alone.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from code_tables import CodeDirective, load, table
from docutils import nodes
from sphinx.application import Sphinx

Transition = tuple[str, str, str]

_ROW = 46
_BOX_WIDTH, _BOX_HEIGHT = 130, 28
_FIRST_LANE, _LANE = 130, 16
_LEFT_ROOM = _RIGHT_ROOM = 230
_ASIDE = 7


class StateDiagram(CodeDirective):
    """Draw and list the transitions under a dotted name.

    Argument: the dotted name of a sequence of ``(from, event, to)``.
    Option ``ends``: the dotted name of a collection of final states.
    """

    required_arguments = 1
    option_spec = {"ends": str}  # noqa: RUF012  # docutils' interface

    def run(self) -> list[nodes.Node]:
        transitions: Sequence[Transition] = load(self.arguments[0])
        ends = frozenset(load(self.options["ends"])) if "ends" in self.options else frozenset()
        drawing = nodes.raw("", svg(transitions, ends), format="html")
        rows = [[nodes.literal("", cell) for cell in row] for row in transitions]
        return [drawing, table(("From", "Event", "To"), rows)]


def svg(transitions: Sequence[Transition], ends: frozenset[str]) -> str:
    """Return the drawing as SVG text, in the colour of the page's own text."""
    states = list(dict.fromkeys(state for row in transitions for state in (row[0], row[2])))
    at = {state: index * _ROW + _ROW // 2 for index, state in enumerate(states)}
    middle = _LEFT_ROOM + _BOX_WIDTH // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0'
        f' {_LEFT_ROOM + _BOX_WIDTH + _RIGHT_ROOM} {len(states) * _ROW}"'
        ' style="max-width:100%;font:12px monospace;color:inherit">',
        "<title>State diagram; the table below says the same</title>",
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="currentColor"/></marker></defs>',
    ]
    for state in states:
        stroke = 2.5 if state in ends else 1
        parts.append(
            f'<rect x="{_LEFT_ROOM}" y="{at[state] - _BOX_HEIGHT // 2}" width="{_BOX_WIDTH}"'
            f' height="{_BOX_HEIGHT}" rx="6" fill="none" stroke="currentColor"'
            f' stroke-width="{stroke}"/>'
            f'<text x="{middle}" y="{at[state] + 4}" text-anchor="middle"'
            f' fill="currentColor">{html.escape(state)}</text>'
        )
    for start, event, end in transitions:
        parts.append(_arrow(at[start], at[end], event))
    return "".join([*parts, "</svg>"])


def _arrow(start: int, end: int, event: str) -> str:
    steps = abs(end - start) // _ROW
    side = 1 if end > start else -1  # down on the right, up on the left
    edge = _LEFT_ROOM + (_BOX_WIDTH if side > 0 else 0)
    # The further an arrow leads, the further out its lane: so none crosses another's label.
    lane = edge + side * (_FIRST_LANE + _LANE * (steps - 1))
    # Leaving on the far side of the middle and arriving on the near side keeps the two apart.
    first, last = start + side * _ASIDE, end - side * _ASIDE
    return (
        f'<path d="M{edge},{first} H{lane} V{last} H{edge}" fill="none" stroke="currentColor"'
        ' marker-end="url(#tip)"/>'
        f'<text x="{edge + side * 12}" y="{last - 4}" text-anchor="{"start" if side > 0 else "end"}"'
        f' fill="currentColor" font-size="11">{html.escape(event)}</text>'
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("lazy-state-diagram", StateDiagram)
    return {"parallel_read_safe": True}
