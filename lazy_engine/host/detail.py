# SPDX-License-Identifier: Apache-2.0
"""What the engines keep on TaskFlow's details, or mend of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from taskflow.persistence import models

#: Attribute of a flow detail object; see ``HostStorage.known``.
_KNOWN = "_lazy_engine_known"
#: Attribute of a flow detail object; see :func:`unstored_in`.
_UNSTORED = "_lazy_engine_unstored"


def note_known(detail: models.FlowDetail, version: tuple[int, int, int, int] | None) -> None:
    """Note on a flow detail what was read of it; see :attr:`HostStorage.known`.

    :param version: the flow's version that it is at least as new as.
    """
    setattr(detail, _KNOWN, version)


def known_of(detail: models.FlowDetail) -> tuple[int, int, int, int] | None:
    """Return what :func:`note_known` noted."""
    known: tuple[int, int, int, int] | None = getattr(detail, _KNOWN, None)
    return known


def unstored_in(detail: models.FlowDetail) -> dict[str, None]:
    """Return, by uuid, the atoms of a flow detail that its store has not got, for whoever adds or stores some to change.

    Kept on the flow detail itself: one engine may have added them, and another one, made
    with the same flow detail, be the one that runs.
    """
    unstored: dict[str, None] = detail.__dict__.setdefault(_UNSTORED, {})
    return unstored


def mend_history(detail: models.AtomDetail, stored: Iterable[Any] | None) -> models.AtomDetail:
    """Give a retry controller's detail that TaskFlow read its own results back; return it.

    ``RetryDetail.from_dict`` (6.5) uses one name twice: after a reload, each
    result that failures belong to is the last of these failures, as a
    dictionary. A ``ForEach`` would choose a value anew that has failed already.

    :param stored: ``[[result, {atom name: failure}], …]`` as in the store.
    """
    if isinstance(detail, models.RetryDetail):
        detail.results = [
            (result, failures)
            for (result, _), (_, failures) in zip(stored or (), detail.results, strict=True)
        ]
    return detail
