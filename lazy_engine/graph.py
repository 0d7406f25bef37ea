# SPDX-License-Identifier: Apache-2.0
"""A stored flow as a picture: who comes after whom, and where each stands.

Drawn from what the store says of the flow's shape (:mod:`lazy_engine.shape`),
so nobody's code is loaded for it. Of an atom that comes after more than eight
others only a digest of their names is stored; which ones they are is guessed
from the rest of the graph, and the digest proves the guess.

Places are those of a layered drawing: a node's layer is the length of the
longest way to it, and within their layers nodes stand near those that they
come after (the barycentre heuristic of Sugiyama, Tagawa and Toda, 1981).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from lazy_engine import shape

#: How often the nodes of all layers are put in order, there and back.
_SWEEPS: Final = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A place in the picture.

    :ivar name: of the atom; ``None`` of a join, through which all edges from
        some atoms to some others go.
    :ivar layer: 0 is where the flow begins.
    :ivar place: among the nodes of its layer, from 0.
    :ivar is_loose: it comes after more than eight others, and which is not known.
    """

    name: str | None
    layer: int
    place: int
    is_loose: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes, and pairs of their numbers: the second comes after the first."""

    nodes: Sequence[Node]
    edges: Sequence[tuple[int, int]]


def draw(atoms: Sequence[shape.StoredAtom]) -> Graph:
    """Draw the atoms of a flow. All is linear in atoms and edges, but for the order of layers."""
    before = _resolve(atoms)
    loose = {name for name, names in before.items() if names is None}
    names, edges = _connect(before)
    layers = _layers(len(names), edges, {number for number, n in enumerate(names) if n in loose})
    places = _places(layers, edges)
    return Graph(
        nodes=[
            Node(name=name, layer=layers[number], place=places[number], is_loose=name in loose)
            for number, name in enumerate(names)
        ],
        edges=edges,
    )


# -- who comes after whom -----------------------------------------------------


def _resolve(atoms: Sequence[shape.StoredAtom]) -> dict[str, frozenset[str] | None]:
    """Return the names of the nearest atoms before each atom, ``None`` if they are not known."""
    known = {atom.name for atom in atoms}
    before: dict[str, frozenset[str] | None] = {}
    digests: dict[str, list[str]] = collections.defaultdict(list)
    for atom in atoms:
        stored = atom.shape or {}
        names, digest = stored.get("names"), stored.get("after")
        before[atom.name] = None if names is None else frozenset(names) & known
        if isinstance(digest, str):
            digests[digest].append(atom.name)
    unknown = [digest for digest, names in digests.items() if before[names[0]] is None]
    while unknown:
        left = [digest for digest in unknown if not _guess(digest, digests, before)]
        if len(left) == len(unknown):
            break
        unknown = left
    return before


def _guess(
    digest: str,
    digests: Mapping[str, Sequence[str]],
    before: dict[str, frozenset[str] | None],
) -> bool:
    for guessed in _guesses(digests, before):
        if shape.digest_of(guessed) == digest:
            before.update(dict.fromkeys(digests[digest], frozenset(guessed)))
            return True
    return False


def _guesses(
    digests: Mapping[str, Sequence[str]], before: Mapping[str, frozenset[str] | None]
) -> Iterator[Sequence[str]]:
    """Yield sets of atoms that something may come after.

    The ends of all that is known; and of all that begins at the same point, as
    the parts of an unordered flow do, themselves and their ends.
    """
    after: dict[str, list[str]] = collections.defaultdict(list)
    for name, names in before.items():
        for other in names or ():
            after[other].append(name)
    placed = _downstream([name for name, names in before.items() if names == frozenset()], after)
    yield [name for name in placed if not after[name]]
    for group in digests.values():
        if len(group) > 1:
            yield group
            yield [name for name in _downstream(group, after) if not after[name]]


def _downstream(names: Iterable[str], after: Mapping[str, Sequence[str]]) -> list[str]:
    found = dict.fromkeys(names)
    left = list(found)
    while left:
        for name in after.get(left.pop(), ()):
            if name not in found:
                found[name] = None
                left.append(name)
    return list(found)


def _connect(
    before: Mapping[str, frozenset[str] | None],
) -> tuple[list[str | None], list[tuple[int, int]]]:
    """Return the nodes' names and the edges; many edges from all to all go through a join."""
    names: list[str | None] = list(before)
    numbers = {name: number for number, name in enumerate(before)}
    targets: dict[frozenset[str], list[str]] = collections.defaultdict(list)
    for name, others in before.items():
        if others:
            targets[others].append(name)
    edges = []
    for others, group in targets.items():
        sources = sorted(numbers[name] for name in others)
        if len(sources) * len(group) > len(sources) + len(group) + 2:
            names.append(None)
            join = len(names) - 1
            edges += [(source, join) for source in sources]
            sources = [join]
        edges += [(source, numbers[name]) for name in group for source in sources]
    return names, edges


# -- where each stands --------------------------------------------------------


def _layers(count: int, edges: Sequence[tuple[int, int]], loose: set[int]) -> list[int]:
    """Return the layer of each node; what is loose stands below all that does not wait for it."""
    layers = [0] * count
    after, missing = _neighbours(count, edges)
    ready = [number for number in range(count) if not missing[number] and number not in loose]
    placed: set[int] = set()
    while True:
        while ready:
            number = ready.pop()
            placed.add(number)
            for other in after[number]:
                layers[other] = max(layers[other], layers[number] + 1)
                missing[other] -= 1
                if not missing[other]:
                    ready.append(other)
        rest = sorted(loose - placed) or sorted(set(range(count)) - placed)[:1]
        if not rest:
            return layers
        # Loose, or in a circle, as code that changed while it was parked may leave behind.
        below = max((layers[number] for number in placed), default=-1) + 1
        for number in rest:
            layers[number] = max(layers[number], below)
            missing[number] = 0
        ready = rest


def _neighbours(count: int, edges: Sequence[tuple[int, int]]) -> tuple[list[list[int]], list[int]]:
    after: list[list[int]] = [[] for _ in range(count)]
    missing = [0] * count
    for source, target in edges:
        after[source].append(target)
        missing[target] += 1
    return after, missing


def _places(layers: Sequence[int], edges: Sequence[tuple[int, int]]) -> list[int]:
    rows: dict[int, list[int]] = collections.defaultdict(list)
    for number, layer in enumerate(layers):
        rows[layer].append(number)
    near: dict[bool, dict[int, list[int]]] = {
        True: collections.defaultdict(list),
        False: collections.defaultdict(list),
    }
    for source, target in edges:
        near[True][target].append(source)
        near[False][source].append(target)
    at: dict[int, float] = {}
    for row in rows.values():
        _stand(row, at)
    for _ in range(_SWEEPS):
        for is_down in (True, False):
            for layer in sorted(rows, reverse=not is_down):
                wanted = {
                    number: _mean([at[other] for other in near[is_down][number]], at[number])
                    for number in rows[layer]
                }
                rows[layer].sort(key=wanted.__getitem__)
                _stand(rows[layer], at)
    places = [0] * len(layers)
    for row in rows.values():
        for place, number in enumerate(row):
            places[number] = place
    return places


def _stand(row: Sequence[int], at: dict[int, float]) -> None:
    # Every layer is centred on the same line.
    for place, number in enumerate(row):
        at[number] = place - (len(row) - 1) / 2


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
