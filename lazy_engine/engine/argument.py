# SPDX-License-Identifier: Apache-2.0
"""Finds the arguments of atoms without looking at all atoms before them.

TaskFlow decides what an argument is; here its answer is found directly where it
is plain: the value was injected, or the nearest atom that provides the name has
succeeded. Whatever else there is (optional arguments, ignored providers, results
that lack what they promised) is answered by TaskFlow's own storage, which is
then shown only those atoms that provide a wanted name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from taskflow import states

from lazy_engine import host
from lazy_engine.engine.scope import Scopes

#: Stands for a value that is not plain to see.
_UNCLEAR: Final = object()


class _Providers:
    """Who provides a name: the atoms by their numbers, or something injected."""

    def __init__(self, found: Iterable[Any], scopes: Scopes, count: int) -> None:
        self.count = count
        self.injected: list[Any] = []
        self.atoms: dict[int, Any] = {}
        for provider in found:
            if host.is_injected(provider):
                self.injected.append(provider)
            elif scopes.knows(provider.name):
                self.atoms[scopes.number(provider.name)] = provider
        self.numbers = sorted(self.atoms)


class ArgumentStorage(host.HostStorage):
    """TaskFlow's storage with its own way of finding arguments.

    :ivar scopes: where the atoms stand, once the flow is compiled.
    """

    scopes: Scopes | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._providers: dict[str, _Providers] = {}
        super().__init__(*args, **kwargs)

    def fetch_unsatisfied_args(
        self,
        atom_name: str,
        args_mapping: Mapping[str, str],
        scope_walker: Any = None,
        optional_args: Any = None,
    ) -> Any:
        """See :meth:`taskflow.storage.Storage.fetch_unsatisfied_args`."""
        scopes = self._scopes_for(atom_name, scope_walker)
        if scopes is not None:
            optional = optional_args or ()
            args_mapping = {
                bound: name
                for bound, name in args_mapping.items()
                if bound not in optional and not self._has_provider(scopes, atom_name, name)
            }
            if not args_mapping:
                return set()
            scope_walker = self._walk(scopes, atom_name, args_mapping.values())
        return super().fetch_unsatisfied_args(atom_name, args_mapping, scope_walker, optional_args)

    def fetch_mapped_args(
        self,
        args_mapping: Mapping[str, str],
        atom_name: str | None = None,
        scope_walker: Any = None,
        optional_args: Any = None,
    ) -> Any:
        """See :meth:`taskflow.storage.Storage.fetch_mapped_args`."""
        scopes = self._scopes_for(atom_name, scope_walker)
        if scopes is not None and atom_name is not None:
            found = {}
            for bound, name in args_mapping.items():
                found[bound] = self._value(scopes, atom_name, name)
                if found[bound] is _UNCLEAR:
                    break
            else:
                return found
            scope_walker = self._walk(scopes, atom_name, args_mapping.values())
        return super().fetch_mapped_args(args_mapping, atom_name, scope_walker, optional_args)

    def _scopes_for(self, atom_name: str | None, scope_walker: Any) -> Scopes | None:
        if scope_walker is not None or self.scopes is None or not atom_name:
            return None
        return self.scopes if self.scopes.knows(atom_name) and self.knows(atom_name) else None

    def _providers_of(self, scopes: Scopes, name: str) -> _Providers:
        all_of_them = self.providers_of(name)
        found = self._providers.get(name)
        if found is None or found.count != len(all_of_them):
            found = _Providers(all_of_them, scopes, len(all_of_them))
            self._providers[name] = found
        return found

    def _has_provider(self, scopes: Scopes, atom_name: str, name: str) -> bool:
        if any(name in source for source in self.injected_into(atom_name)):
            return True
        providers = self._providers_of(scopes, name)
        if any(name in self.injected_by(provider) for provider in providers.injected):
            return True
        return any(True for _ in self._nearest(scopes, atom_name, providers))

    def _value(self, scopes: Scopes, atom_name: str, name: str) -> Any:
        for source in self.injected_into(atom_name):
            if name in source:
                return source[name]
        providers = self._providers_of(scopes, name)
        if providers.injected:
            return self.injected_by(providers.injected[0]).get(name, _UNCLEAR)
        for provider in self._nearest(scopes, atom_name, providers):
            detail = self.atom_detail(provider.name)
            if detail.state == states.SUCCESS and detail.failure is None:
                return host.item_of_result(detail, provider, _UNCLEAR)
            break
        return _UNCLEAR

    @staticmethod
    def _nearest(scopes: Scopes, atom_name: str, providers: _Providers) -> Iterable[Any]:
        for scope in scopes.visible(atom_name, providers.numbers):
            for number in scope:
                yield providers.atoms[number]

    def _walk(self, scopes: Scopes, atom_name: str, names: Iterable[str]) -> list[list[str]]:
        """Return an atom's scopes, with only those atoms in them that provide certain names."""
        atoms: dict[int, Any] = {}
        for name in names:
            atoms.update(self._providers_of(scopes, name).atoms)
        numbers = sorted(atoms)
        return [
            [atoms[number].name for number in scope] for scope in scopes.visible(atom_name, numbers)
        ]
