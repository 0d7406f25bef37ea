# SPDX-License-Identifier: Apache-2.0
"""Which atoms can run next.

TaskFlow's selector asks, for every atom that it looks at, about *all* that
comes before it (to execute) or after it (to revert), and it looks at all that
comes after the atom which has just ended: a flow of a thousand tasks in a row
costs half a million looks. The answers are the same here, from what changed:

- A node is *cleared* when it has been executed or ignored (flow nodes always
  count as executed) and every node before it is cleared. An atom may execute
  when every node directly before it is cleared, for then all its ancestors are.
- A node is *settled* when it is pending, reverted or ignored, and every node
  after it is settled. An atom may revert when every node directly after it is.

For each node the number of its uncleared predecessors and unsettled successors
is kept. A change of an atom's state or intention changes these numbers around
it, and goes on from there only while nodes become cleared or settled, or stop
to be. So a run costs in all what its state changes cost, and not what the flow's
paths are long.

Where a decider ignores less than all that comes after it, the order in which
TaskFlow looks at atoms decides in which turn it finds one; such flows are left
to TaskFlow's own selector.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from taskflow import states

from lazy_engine import host
from lazy_engine.engine.storage import LazyStorage

if TYPE_CHECKING:
    from lazy_engine.engine.runtime import LazyRuntime

_EXECUTED: Final = frozenset((states.SUCCESS, states.IGNORE))
_WENT_ON: Final = frozenset((states.EXECUTE, states.IGNORE))
_UNDONE: Final = frozenset((states.PENDING, states.REVERTED, states.IGNORE))
_TO_REVERT: Final = frozenset((states.REVERT, states.RETRY))

Node = Any


class _Front:
    """Which nodes have a property that they have only if all nodes before them have it.

    :param before: the nodes directly before each node.
    :param after: the nodes directly after each node.
    """

    def __init__(self, before: Mapping[Node, list[Node]], after: Mapping[Node, list[Node]]) -> None:
        self._after = after
        self._missing = {node: len(nodes) for node, nodes in before.items()}
        self._fits: set[Node] = set()
        self._passed: set[Node] = set()
        #: The nodes that lack the property though all nodes before them have it.
        self.edge = {node for node, missing in self._missing.items() if missing == 0}

    def is_open(self, node: Node) -> bool:
        """Whether all nodes before it have the property."""
        return self._missing[node] == 0

    def has_passed(self, node: Node) -> bool:
        """Whether it has the property itself."""
        return node in self._passed

    def set(self, node: Node, fits: bool) -> None:
        """Say whether a node would have the property if those before it had it."""
        if fits == (node in self._fits):
            return
        if fits:
            self._fits.add(node)
            if self._missing[node] == 0:
                self._advance(node)
        else:
            self._fits.discard(node)
            if node in self._passed:
                self._retreat(node)

    def _advance(self, first: Node) -> None:
        todo = [first]
        while todo:
            node = todo.pop()
            self._passed.add(node)
            self.edge.discard(node)
            for follower in self._after[node]:
                self._missing[follower] -= 1
                if self._missing[follower] == 0:
                    self.edge.add(follower)
                    if follower in self._fits:
                        todo.append(follower)

    def _retreat(self, first: Node) -> None:
        todo = [first]
        while todo:
            node = todo.pop()
            self._passed.discard(node)
            if self._missing[node] == 0:
                self.edge.add(node)
            for follower in self._after[node]:
                self._missing[follower] += 1
                self.edge.discard(follower)
                if follower in self._passed and self._missing[follower] == 1:
                    todo.append(follower)


class LazySelector:
    """Finds the atoms that can run next; see :class:`taskflow…selector.Selector`.

    :param runtime: the engine's runtime, compiled.
    """

    def __init__(self, runtime: LazyRuntime) -> None:
        self._runtime = runtime
        self._storage: LazyStorage = runtime.storage
        self._graph = host.Graph(runtime.compilation)
        self._atoms = {atom.name: atom for atom in self._graph.atoms}
        self._places = {atom: place for place, atom in enumerate(self._graph.atoms)}
        self._state: dict[str, str] = {}
        self._intention: dict[str, str] = {}
        self._cleared: _Front
        self._settled: _Front
        self._storage.on_structure = self._forget
        self._storage.on_state = self._note
        self._is_known = False

    def _forget(self) -> None:
        self._is_known = False

    def _learn(self) -> None:
        """Go by what is in the storage."""
        graph = self._graph
        self._cleared = _Front(graph.before, graph.after)
        self._settled = _Front(graph.after, graph.before)
        for node in graph.flow_nodes:
            self._cleared.set(node, True)
            self._settled.set(node, True)
        self._is_known = True
        for name in self._atoms:
            detail = self._storage.atom_detail(name)
            self._note(name, detail.state, detail.intention)

    def _note(self, name: str, state: str, intention: str) -> None:
        if not self._is_known:
            return
        atom = self._atoms.get(name)
        if atom is None:
            return  # stored, and no longer in the flow's code
        self._state[name] = state
        self._intention[name] = intention
        self._cleared.set(atom, state in _EXECUTED and intention in _WENT_ON)
        self._settled.set(atom, state in _UNDONE)

    # -- asking -----------------------------------------------------------

    def iter_next_atoms(self, atom: host.Atom | None = None) -> Iterator[tuple[host.Atom, Any]]:
        """Yield what may run after an atom has ended, or all that may run.

        :returns: atoms, each with what decides, when it is asked, whether it
            is to be ignored after all.
        """
        if not self._is_known:
            self._learn()
        if atom is None:
            return self._all()
        state, intention = self._state[atom.name], self._intention[atom.name]
        if state == states.SUCCESS and intention == states.REVERT:
            return iter([(atom, host.goes_ahead())])
        if state == states.SUCCESS and intention == states.EXECUTE:
            return self._from(atom, self._graph.after, self._cleared, self._to_execute)
        if state == states.REVERTED:
            return self._from(
                atom,
                self._graph.before,
                self._settled,
                self._to_revert,
                stops_at=self._graph.retries,
            )
        if state == states.FAILURE:
            return self._those(self._to_revert, self._settled)
        return iter(())

    def _all(self) -> Iterator[tuple[host.Atom, Any]]:
        seen = set()
        for find, front in (
            (self._to_execute, self._cleared),
            (self._to_revert, self._settled),
        ):
            for atom, decider in self._those(find, front):
                if atom not in seen:
                    seen.add(atom)
                    yield atom, decider

    def _those(
        self, find: Callable[[host.Atom], Any], front: _Front
    ) -> Iterator[tuple[host.Atom, Any]]:
        """Yield what can run at the edge of what has passed, in the order of the flow."""
        wanted = _TO_REVERT if front is self._settled else (states.EXECUTE,)
        places = self._places
        at_edge = [
            node for node in front.edge if node in places and self._intention[node.name] in wanted
        ]
        for atom in sorted(at_edge, key=places.__getitem__):
            decider = find(atom)
            if decider is not None:
                yield atom, decider

    def _from(
        self,
        start: Node,
        following: Mapping[Node, Iterable[Node]],
        front: _Front,
        find: Callable[[host.Atom], Any],
        stops_at: frozenset[Node] = frozenset(),
    ) -> Iterator[tuple[host.Atom, Any]]:
        """Walk from a node along what has passed, and yield what can run at its edge.

        Whoever is yielded an atom may have it ignored before asking for the
        next; so whether it has passed is looked at after that.
        """
        todo = deque(following[start])
        done: set[Node] = set()
        while todo:
            node = todo.popleft()
            if node in done:
                continue
            done.add(node)
            if node in self._graph.atom_set and not front.has_passed(node):
                decider = find(node)
                if decider is not None:
                    yield node, decider
            if front.has_passed(node) and node not in stops_at:
                todo.extend(following[node])

    def _to_execute(self, atom: host.Atom) -> Any:
        name = atom.name
        if self._intention[name] != states.EXECUTE or not self._cleared.is_open(atom):
            return None
        if not self._runtime.check_atom_transition(atom, self._state[name], states.RUNNING):
            return None
        return host.decider_of(self._runtime, atom)

    def _to_revert(self, atom: host.Atom) -> Any:
        name = atom.name
        if self._intention[name] not in _TO_REVERT or not self._settled.is_open(atom):
            return None
        if not self._runtime.check_atom_transition(atom, self._state[name], states.REVERTING):
            return None
        return host.goes_ahead()
