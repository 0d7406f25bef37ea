# SPDX-License-Identifier: Apache-2.0
"""SQL statements that are put together once.

SQLAlchemy takes several times longer to put a statement together, and to find
that it has compiled it before, than SQLite takes to carry it out. So whatever
is done for each task, park, delivery or wake is made once and kept, with its
values left open. What stands for the time is worked out when a statement is
executed (see :meth:`~lazy_engine.ledger.sql_book.SqlBook._clock`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

#: What the names of bound values begin with: columns have theirs from SQLAlchemy.
_LEAD = "the_"


class Statements:
    """Statements by what they are for."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the statement for *key*, made when it is first asked for."""
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
        return found


def open_value(name: str, **options: Any) -> sa.BindParameter[Any]:
    """Return a value that is given when the statement is executed; see :func:`values`."""
    return sa.bindparam(_LEAD + name, **options)


def open_values(names: Iterable[str]) -> dict[str, sa.BindParameter[Any]]:
    """Return open values for columns."""
    return {name: open_value(name) for name in names}


def values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to execute a statement with, for open values by their names."""
    return {_LEAD + name: value for name, value in given.items()}
