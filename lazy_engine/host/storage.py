# SPDX-License-Identifier: Apache-2.0
"""TaskFlow's storage, opened up."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taskflow import exceptions as taskflow_exceptions
from taskflow import states as taskflow_states
from taskflow import storage as taskflow_storage
from taskflow.persistence import models
from taskflow.types import failure as taskflow_failure

from lazy_engine.host.detail import known_of, note_known
from lazy_engine.host.name import Atom

#: Columns of an atom detail that its results change.
RESULT_COLUMNS = ("state", "results", "failure", "revert_results", "revert_failure")
_RESULT_COLUMNS = operator.attrgetter(*RESULT_COLUMNS)


class _Lock:
    """One re-entrant lock where TaskFlow's storage has one for readers and one for writers.

    TaskFlow's is written in Python and taken some thirty times for a task; what
    it guards here is never slow, so that readers need not be let in together.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def read_lock(self) -> threading.RLock:
        """Return what is held while reading."""
        return self._lock

    def write_lock(self) -> threading.RLock:
        """Return what is held while writing."""
        return self._lock


class HostStorage(taskflow_storage.Storage):  # type: ignore[misc]  # TaskFlow has no types
    """TaskFlow's storage with its writes diverted.

    Subclasses say what to do with them by :meth:`note_flow` and
    :meth:`note_atom`; the details in memory change as TaskFlow has them change.
    """

    _reverse_mapping: dict[str, list[Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = _Lock()
        self._reverse_mapping = _Index(
            (name, _Providers(found)) for name, found in self._reverse_mapping.items()
        )

    def note_flow(self, before: models.FlowDetail, after: models.FlowDetail) -> None:
        """Told of every change to the flow detail, before it is made."""
        raise NotImplementedError

    def note_atom(self, before: models.AtomDetail, after: models.AtomDetail) -> None:
        """Told of every change to an atom detail, before it is made."""
        raise NotImplementedError

    def note_columns(self, detail: models.AtomDetail, columns: set[str]) -> None:
        """Told of changes to certain columns of an atom detail, after they were made."""
        raise NotImplementedError

    # What a task's start and end need, without copying its detail for each step.

    def get_atom_state(self, atom_name: str) -> str:
        """See :meth:`taskflow.storage.Storage.get_atom_state`."""
        state: str = self.atom_detail(atom_name).state
        return state

    def get_atom_intention(self, atom_name: str) -> str:
        """See :meth:`taskflow.storage.Storage.get_atom_intention`."""
        intention: str = self.atom_detail(atom_name).intention
        return intention

    def get_atom_uuid(self, atom_name: str) -> str:
        """See :meth:`taskflow.storage.Storage.get_atom_uuid`."""
        uuid: str = self.atom_detail(atom_name).uuid
        return uuid

    def get_flow_state(self) -> str:
        """See :meth:`taskflow.storage.Storage.get_flow_state`."""
        state: str | None = self._flowdetail.state
        return taskflow_states.PENDING if state is None else state

    def set_atom_state(self, atom_name: str, state: str) -> None:
        """See :meth:`taskflow.storage.Storage.set_atom_state`."""
        with self._lock.write_lock():
            detail = self.atom_detail(atom_name)
            if detail.state != state:
                detail.state = state
                self.note_columns(detail, {"state"})

    def _update_atom_metadata(
        self, atom_name: str, update_with: Any, expected_type: type | None = None
    ) -> None:
        with self._lock.write_lock():
            detail, _ = self._atomdetail_by_name(atom_name, expected_type=expected_type)
            meta = dict(detail.meta)
            meta.update(update_with)
            if meta != detail.meta:
                detail.meta = meta
                self.note_columns(detail, {"meta"})

    def save_result(self, atom_name: str, result: Any) -> None:
        """Put the result of a task that succeeded; see :meth:`taskflow.storage.Storage.save`."""
        with self._lock.write_lock():
            detail = self.atom_detail(atom_name)
            before = _RESULT_COLUMNS(detail)
            if detail.put(taskflow_states.SUCCESS, result):
                after = _RESULT_COLUMNS(detail)
                self.note_columns(
                    detail,
                    {
                        name
                        for name, old, new in zip(RESULT_COLUMNS, before, after, strict=True)
                        if old is not new
                    },
                )
            if detail.intention == taskflow_states.EXECUTE:
                self._check_all_results_provided(atom_name, result)

    def _with_connection(self, functor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return functor(None, *args, **kwargs)

    def _save_flow_detail(
        self, _connection: None, before: models.FlowDetail, after: models.FlowDetail
    ) -> models.FlowDetail:
        self.note_flow(before, after)
        before.update(after)
        return before

    def _save_atom_detail(
        self, _connection: None, before: models.AtomDetail, after: models.AtomDetail
    ) -> models.AtomDetail:
        self.note_atom(before, after)
        before.update(after)
        return before

    def ensure_atoms(self, atoms: Iterable[Atom]) -> list[str]:
        """Make sure that every atom has a detail; return their uuids.

        Another engine may have added some to the same flow detail since this
        storage was made.
        """
        with self.lock.write_lock():
            for detail in self._flowdetail:
                if self._atom_name_to_uuid.setdefault(detail.name, detail.uuid) == detail.uuid:
                    self._failures.setdefault(detail.name, {})
        uuids: list[str] = super().ensure_atoms(atoms)
        return uuids

    @property
    def flow_detail(self) -> models.FlowDetail:
        """The flow detail in memory."""
        return self._flowdetail

    @property
    def known(self) -> tuple[int, int, int, int] | None:
        """The flow's version at which the details in memory equal the stored ones.

        Kept on the flow detail itself, since engines may share one.
        """
        return known_of(self._flowdetail)

    @known.setter
    def known(self, version: tuple[int, int, int, int] | None) -> None:
        note_known(self._flowdetail, version)

    def atom_detail(self, atom_name: str) -> models.AtomDetail:
        """Return an atom's detail in memory, by name."""
        try:
            detail: models.AtomDetail = self._flowdetail.find(self._atom_name_to_uuid[atom_name])
        except KeyError:
            return self._atomdetail_by_name(atom_name)[0]  # which says what is wrong
        return detail

    def providers_of(self, name: str) -> list[Any]:
        """Return what provides a name: atoms by name, and where in their results it is."""
        found: list[Any] = self._reverse_mapping.get(name, [])
        return found

    def injected_into(self, atom_name: str) -> list[Mapping[str, Any]]:
        """Return the values that an atom brings along, in the order in which they count."""
        stored = self.atom_detail(atom_name).meta.get(taskflow_storage.META_INJECTED)
        sources = (self._injected_args.get(atom_name), stored)
        return [source for source in sources if source]

    def injected_by(self, provider: Any) -> Mapping[str, Any]:
        """Return the values of a provider that is no atom (see :func:`is_injected`)."""
        if provider.name == self.injector_name:
            return self.atom_detail(self.injector_name).results or {}
        transients: Mapping[str, Any] = self._transients
        return transients

    def knows(self, atom_name: str) -> bool:
        """Whether there is an atom of that name in the details."""
        return atom_name in self._atom_name_to_uuid

    def put_failure_aside(
        self, atom_name: str, state: str, failure: taskflow_failure.Failure
    ) -> None:
        """Store a failure as an atom's result only.

        It is not counted among the flow's failures: it is neither raised nor
        shown to other atoms.
        """
        with self.lock.write_lock():
            before, after = self._atomdetail_by_name(atom_name, clone=True)
            after.put(state, failure)
            self._save_atom_detail(None, before, after)
            self._failures[atom_name].clear()

    def replace_details(
        self,
        fresh: models.FlowDetail,
        is_aside: Callable[[taskflow_failure.Failure], bool],
    ) -> None:
        """Put other details in place of those in memory and rebuild what hangs on them.

        :param is_aside: says of a stored failure that it was put aside.
        """
        with self.lock.write_lock():
            self._flowdetail.update(fresh)
            self._atom_name_to_uuid = {atom.name: atom.uuid for atom in fresh}
            self._failures = {atom.name: _failures_of(atom, is_aside) for atom in fresh}
            if self.injector_name in self._atom_name_to_uuid:
                injected = self.atom_detail(self.injector_name)
                names = {name: name for name in injected.results or ()}
                self._set_result_mapping(self.injector_name, names)

    def set_failures_aside(self, is_aside: Callable[[taskflow_failure.Failure], bool]) -> None:
        """Stop counting failures that were put aside when the details were stored."""
        self._failures = {atom.name: _failures_of(atom, is_aside) for atom in self._flowdetail}


class _Providers(list[Any]):
    """Providers of one name; TaskFlow asks of each new one whether it is among them."""

    def __init__(self, found: Iterable[Any] = ()) -> None:
        super().__init__(found)
        self._known = set(self)

    def __contains__(self, provider: object) -> bool:
        return provider in self._known

    def append(self, provider: Any) -> None:
        super().append(provider)
        self._known.add(provider)


class _Index(dict[str, list[Any]]):
    """Providers by name."""

    def setdefault(self, name: str, _default: object = None) -> list[Any]:
        if name not in self:
            self[name] = _Providers()
        return self[name]


def is_injected(provider: Any) -> bool:
    """Whether a provider is no atom but something injected into the flow."""
    return provider.name is taskflow_storage._TRANSIENT_PROVIDER or (
        provider.name == HostStorage.injector_name
    )


def item_of_result(detail: models.AtomDetail, provider: Any, missing: Any) -> Any:
    """Return what a provider provides of its atom's last result, if it is there."""
    try:
        return taskflow_storage._item_from(detail.last_results, provider.index)
    except (taskflow_exceptions.NotFound, *taskflow_storage._EXTRACTION_EXCEPTIONS):
        return missing


def _failures_of(
    atom: models.AtomDetail, is_aside: Callable[[taskflow_failure.Failure], bool]
) -> dict[str, taskflow_failure.Failure]:
    found = {}
    if atom.failure is not None and not is_aside(atom.failure):
        found[taskflow_storage.states.EXECUTE] = atom.failure
    if atom.revert_failure is not None and not is_aside(atom.revert_failure):
        found[taskflow_storage.states.REVERT] = atom.revert_failure
    return found
