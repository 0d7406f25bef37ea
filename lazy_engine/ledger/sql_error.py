# SPDX-License-Identifier: Apache-2.0
"""What the errors of databases mean: whether to try again, and what to tell."""

from __future__ import annotations

from typing import Final

from sqlalchemy import exc as sa_exc

from lazy_engine import errors

#: SQLSTATEs after which the whole transaction may simply be tried again:
#: serialization failure, deadlock, and a unique violation, after which the
#: next try finds the row that somebody else made first (PostgreSQL, appendix A).
_RETRY_STATES: Final = ("40001", "40P01", "23505")

#: MySQL's numbers for the same: deadlock, lock wait timeout (which undoes the
#: statement alone; leaving the transaction undoes the rest), record changed
#: since last read, duplicate entry. A Galera cluster says deadlock at the commit.
_RETRY_NUMBERS: Final = (1213, 1205, 1020, 1062)

#: Server states in which a connection is refused for the moment
#: (PostgreSQL: admin shutdown, crash shutdown, cannot connect now).
_GONE_STATES: Final = ("57P01", "57P02", "57P03")

#: The same in MySQL: shutdown in progress, node of a cluster not ready.
_GONE_NUMBERS: Final = (1053, 1047)


def driver_error(error: sa_exc.SQLAlchemyError) -> BaseException | None:
    """Return what the driver raised, if it was the driver."""
    return getattr(error, "orig", None)


def may_repeat(error: sa_exc.SQLAlchemyError) -> bool:
    """Whether a transaction that failed so may go well when it is tried again."""
    if isinstance(error, sa_exc.IntegrityError):
        # Two transactions made the same row; the second one finds it next time.
        return True
    if isinstance(error, sa_exc.DBAPIError):
        if error.connection_invalidated:
            return True
        original = error.orig
        state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
        if state in _RETRY_STATES or state in _GONE_STATES:
            return True
        number = original.args[0] if original is not None and original.args else None
        if number in _RETRY_NUMBERS or number in _GONE_NUMBERS:
            return True
        return "database is locked" in str(original)
    return isinstance(error, sa_exc.DisconnectionError)


def unavailable(error: sa_exc.SQLAlchemyError) -> errors.StoreUnavailable:
    """Return the error to raise instead of SQLAlchemy's.

    SQLAlchemy's message holds the statement's parameters; results and
    outcomes do not belong into logs.
    """
    original = driver_error(error) or error
    text = str(original).strip().splitlines()[0] if str(original).strip() else ""
    return errors.StoreUnavailable(f"the store failed: {type(original).__name__}: {text}")
