# SPDX-License-Identifier: Apache-2.0
"""The shape of a flow's code, and how it differs from the one that was run.

A flow may be parked for weeks, and be resumed by code that has changed since.
When a flow first runs, each of its atoms is stored with what it comes after
and with its version; on resume the code is compared with that. What has not
begun may change at will: the changed flow is as good as a new one there. What
has begun may not: a finished task that is gone cannot be reverted, one that is
moved has seen other values than its place promises.

The comparison goes by names, as TaskFlow does when it resumes, and not by what
the code of a task says. Names of nested flows mean nothing to it, nor does
nesting itself: only which atoms are the nearest before an atom. All is linear
in the atoms and edges of the compiled flow.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import networkx
from taskflow import states
from taskflow.persistence import models

from lazy_engine import host

#: Version of what is stored of a shape.
FORMAT: Final = 1

#: Key of a flow detail's and an atom detail's ``meta`` under which its shape is
#: kept. Flow: ``{"format", "digest"}``; atom: ``{"format", "after", "names"}``,
#: and ``"arguments"`` if it has any.
META_SHAPE: Final = "lazy_shape"

#: Key of a flow detail's ``meta`` under which the last accepted drift is kept:
#: ``{"format", "at", "count", "changes": [{…}, …]}``, with at most 100 changes.
META_DRIFT: Final = "lazy_drift"

_MOST_NOTED: Final = 100

#: What may have become of an atom.
GONE: Final = "gone"
ADDED: Final = "added"
MOVED: Final = "moved"
VERSION: Final = "version"

#: Nearest atoms before an atom are kept by name if they are not more than this,
#: and only as a digest otherwise.
_MOST_NAMES: Final = 8

#: How many arguments of an atom are kept by name.
_MOST_ARGUMENTS: Final = 32

#: How many changes a message names.
_MOST_SAID: Final = 10

_MASK: Final = 2**64 - 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AtomShape:
    """One atom's place in a flow.

    :ivar after: digest of the names of the nearest atoms before it.
    :ivar names: these names, sorted, or ``None`` if they are too many.
    :ivar arguments: names of the arguments that it is given; for people only.
    """

    name: str
    kind: str
    version: str | None
    after: str
    names: tuple[str, ...] | None
    arguments: tuple[str, ...] = ()

    def to_meta(self) -> dict[str, Any]:
        """Return what is stored with the atom."""
        names = None if self.names is None else list(self.names)
        meta = {"format": FORMAT, "after": self.after, "names": names}
        return {**meta, "arguments": list(self.arguments)} if self.arguments else meta


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A compiled flow's shape.

    :ivar atoms: by name.
    :ivar graph: TaskFlow's execution graph, which it was read from.
    """

    atoms: Mapping[str, AtomShape]
    graph: Any

    @functools.cached_property
    def digest(self) -> str:
        """Equal for flows of the same atoms in the same places and versions."""
        return _text(
            sum(
                _number(f"{atom.name}\0{atom.kind}\0{atom.version}\0{atom.after}")
                for atom in self.atoms.values()
            )
        )

    def to_meta(self) -> dict[str, Any]:
        """Return what is stored with the flow."""
        return {"format": FORMAT, "digest": self.digest}

    def is_stored_in(self, meta: Mapping[str, Any] | None) -> bool:
        """Whether a flow detail's meta says that this very shape was run."""
        return bool((meta or {}).get(META_SHAPE) == self.to_meta())

    def before(self, names: Iterable[str]) -> set[str]:
        """Return the names of all atoms that come before any of these."""
        wanted = set(names)
        found: set[str] = set()
        left = [node for node in self.graph if node.name in wanted and self._is_atom(node)]
        seen = set(left)
        while left:
            for node in self.graph.predecessors(left.pop()):
                if node not in seen:
                    seen.add(node)
                    left.append(node)
                    if self._is_atom(node):
                        found.add(node.name)
        return found

    def _is_atom(self, node: object) -> bool:
        return self.graph.nodes[node]["kind"] in host.ATOMS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredAtom:
    """What the store says of an atom.

    :ivar shape: what :meth:`AtomShape.to_meta` made when the atom was last
        found in the code, or ``None`` if that is not known.
    """

    name: str
    state: str
    version: str | None
    shape: Mapping[str, Any] | None

    @property
    def has_begun(self) -> bool:
        """Whether it is finished, at work, or waiting; what was reverted is as if it never ran."""
        return self.state not in (states.PENDING, states.IGNORE, states.REVERTED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between the code and what is stored.

    :ivar what: :data:`GONE`, :data:`ADDED`, :data:`MOVED` or :data:`VERSION`.
    :ivar is_harmful: it touches a task that is finished, at work or waiting.
    :ivar state: the atom's stored state, or ``None`` if it is not stored.
    """

    what: str
    name: str
    is_harmful: bool
    state: str | None = None
    was: str | None = None
    now: str | None = None

    def __str__(self) -> str:
        state = f" ({self.state})" if self.state else ""
        subject = f"'{self.name}'{state}"
        if self.what == GONE:
            return f"{subject} is gone"
        if self.what == ADDED:
            place = ", before tasks that have begun" if self.is_harmful else ""
            return f"{subject} is added{place}"
        if self.what == MOVED:
            return f"{subject} is moved: it came after {self.was} and comes after {self.now}"
        return f"{subject} had version {self.was} and has {self.now}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """All differences between the code and what is stored, harmful ones first."""

    changes: Sequence[Change] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    @property
    def harmful(self) -> Sequence[Change]:
        """The changes that keep the flow from being resumed."""
        return [change for change in self.changes if change.is_harmful]

    def __str__(self) -> str:
        return sentence(self.changes)

    def to_meta(self, now: int) -> dict[str, Any]:
        """Return what is stored with the flow when the drift is accepted."""
        changes = [dataclasses.asdict(change) for change in self.changes[:_MOST_NOTED]]
        return {"format": FORMAT, "at": now, "count": len(self.changes), "changes": changes}


def sentence(changes: Sequence[Change]) -> str:
    """Return changes in words; the first few of many."""
    said = [str(change) for change in changes[:_MOST_SAID]]
    if len(changes) > len(said):
        said.append(f"and {len(changes) - len(said)} more")
    return "; ".join(said)


def read(graph: Any) -> Shape:
    """Return the shape of a compiled flow.

    :param graph: TaskFlow's execution graph. Its nodes are atoms and the
        begins and ends of flows; the latter only pass on what is before them.
    """
    passed: dict[Any, _Before] = {}
    atoms: dict[str, AtomShape] = {}
    kinds = dict(graph.nodes(data="kind"))  # asked for one by one, they make a view each
    predecessors = graph.pred
    for node in networkx.topological_sort(graph):
        before = _NOTHING
        for other in predecessors[node]:
            before = before.join(passed[other]) if before is not _NOTHING else passed[other]
        kind = kinds[node]
        if kind in host.ATOMS:
            passed[node] = _Before(_number(node.name), (node.name,))
            atoms[node.name] = AtomShape(
                name=node.name,
                kind=kind,
                version=host.version_of(node),
                after=_text(before.number),
                names=None if before.names is None else tuple(sorted(before.names)),
                arguments=tuple(node.rebind)[:_MOST_ARGUMENTS],
            )
        else:
            passed[node] = before
    return Shape(atoms=atoms, graph=graph)


def compare(shape: Shape, stored: Sequence[StoredAtom]) -> Drift:
    """Say how the code differs from what is stored of a flow that has run.

    :param stored: every atom that the store has a detail of.
    """
    by_name = {atom.name: atom for atom in stored}
    begun = [atom.name for atom in stored if atom.has_begun]
    new = [name for name in shape.atoms if name not in by_name]
    before_begun = shape.before(begun) if new else set()
    changes = [
        Change(what=ADDED, name=name, is_harmful=name in before_begun, now="") for name in new
    ]
    for atom in stored:
        found = shape.atoms.get(atom.name)
        if found is not None:
            changes.extend(_changes_of(atom, found))
        elif atom.shape != _GONE_META:
            changes.append(
                Change(what=GONE, name=atom.name, is_harmful=atom.has_begun, state=atom.state)
            )
    changes.sort(key=lambda change: (not change.is_harmful, change.what != GONE))
    return Drift(changes=changes)


#: Stored with an atom that was found gone before it had begun, so that this is
#: not found out again at every resume.
_GONE_META: Final[Mapping[str, Any]] = {"format": FORMAT, "gone": True}


def digest_of(names: Iterable[str]) -> str:
    """Return the digest of a set of names, as :attr:`AtomShape.after` has it."""
    return _text(sum(_number(name) for name in names))


def meta_of(name: str, shape: Shape) -> dict[str, Any]:
    """Return what is to be stored with an atom from now on."""
    found = shape.atoms.get(name)
    return dict(_GONE_META) if found is None else found.to_meta()


def version_of(detail: models.AtomDetail, shape: Shape) -> str | None:
    """Return the version that is to be stored with an atom from now on."""
    found = shape.atoms.get(detail.name)
    version: str | None = detail.version if found is None else found.version
    return version


def stored_atom(detail: models.AtomDetail) -> StoredAtom:
    """Return what an atom's detail says of it."""
    return StoredAtom(
        name=detail.name,
        state=detail.state or states.PENDING,
        version=detail.version,
        shape=(detail.meta or {}).get(META_SHAPE),
    )


def _changes_of(stored: StoredAtom, found: AtomShape) -> Iterable[Change]:
    shape = stored.shape or {}
    if shape.get("format") == FORMAT and "after" in shape and shape["after"] != found.after:
        yield Change(
            what=MOVED,
            name=stored.name,
            is_harmful=stored.has_begun,
            state=stored.state,
            was=_listed(shape.get("names")),
            now=_listed(found.names),
        )
    # No version is stored with details that were made by hand.
    if stored.version is not None and stored.version != found.version:
        yield Change(
            what=VERSION,
            name=stored.name,
            # TaskFlow's versions are (major, minor); only the first promises to fit.
            is_harmful=stored.has_begun and _major(stored.version) != _major(found.version),
            state=stored.state,
            was=str(stored.version),
            now=str(found.version),
        )


def _major(version: str | None) -> str:
    return (version or "").partition(".")[0]


def _listed(names: Sequence[str] | None) -> str:
    if names is None:
        return f"more than {_MOST_NAMES} others"
    return ", ".join(f"'{name}'" for name in names) or "nothing"


class _Before(NamedTuple):
    """The nearest atoms before a place: a number of their names, and the names of few."""

    number: int
    names: tuple[str, ...] | None

    def join(self, other: _Before) -> _Before:
        names = None
        if self.names is not None and other.names is not None:
            joined = (*self.names, *(name for name in other.names if name not in self.names))
            names = joined if len(joined) <= _MOST_NAMES else None
        return _Before((self.number + other.number) & _MASK, names)


_NOTHING: Final = _Before(0, ())


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _text(number: int) -> str:
    return f"{number & _MASK:016x}"
