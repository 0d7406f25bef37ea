# SPDX-License-Identifier: Apache-2.0
"""Connections and transactions of the SQL ledger, and what their errors mean."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from lazy_engine.ledger import sql_error, sql_pipeline, sqlite_file
from lazy_engine.ledger.sql_fork import ForkGate
from lazy_engine.ledger.sql_kept import KeptConnections
from lazy_engine.ledger.sql_statement import Statement, as_sqlalchemy_would, is_observed, pass_over

T = TypeVar("T")

#: A transaction that may be tried again is, this often in all.
_TRIES: Final = 6

#: What every transaction of the ledger on a server runs under. The row that it
#: writes first makes the transactions of a flow serial; what it reads after that
#: must be what the one before it has committed.
_ISOLATION: Final = "READ COMMITTED"


#: A writing one of SQLite's begins with a lock: one that is taken at the first write
#: instead would let two transactions read before either writes.
_BEGIN_WRITING: Final = Statement(sa.text("BEGIN IMMEDIATE"))
_BEGIN_READING: Final = Statement(sa.text("BEGIN"))
_BEGIN_IN_PIPELINE: Final = Statement(sa.text(f"BEGIN ISOLATION LEVEL {_ISOLATION}"))

#: So many connections are kept for writing, at most; who needs more has the pool's.
_MOST_KEPT: Final = 4


def open_engine(shared: sa.Engine) -> sa.Engine:
    """Return the SQLAlchemy engine to keep a ledger with.

    TaskFlow's own engine serves where it pools connections. For SQLite it
    opens the file for every write, so the ledger keeps connections of its own.
    """
    if shared.dialect.name == "sqlite":
        return sqlite_file.open_engine(shared.url)
    if Transactor(shared).read(_is_isolated_enough):
        return shared
    return shared.execution_options(isolation_level=_ISOLATION)


def _is_isolated_enough(connection: sa.Connection) -> bool:
    """Whether connections come with the isolation that TaskFlow gives them by default.

    Its users may ask for another one: REPEATABLE READ or SERIALIZABLE would
    read what was true before the row was written, and in AUTOCOMMIT there are
    no transactions.
    """
    detects = getattr(connection.dialect, "detect_autocommit_setting", None)  # SQLAlchemy 2.0.43
    raw = connection.connection.dbapi_connection
    if detects is not None and raw is not None and detects(raw):
        return False
    return connection.get_isolation_level() == _ISOLATION


class Transactor:
    """Runs work in transactions and repeats it where that is safe.

    All work of the ledger is safe to repeat: it either finds that it had
    been carried out, or is the same when done twice.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._turns = self._make_turns()
        self._pid = os.getpid()
        self._lasting = KeptConnections(self._connect, self._equip_lasting, most=_MOST_KEPT)
        self._hurried = KeptConnections(self._connect, self._equip_hurried, most=1)
        self._looking = KeptConnections(self._connect, self._equip_looking, most=1)
        self._gate: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._is_sqlite:
            self._gate = ForkGate(self._close_all)

    @property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine, safe to use in this process."""
        if os.getpid() != self._pid:  # a forked child must not use its parent's connections
            self._engine.dispose(close=False)
            self._turns = self._make_turns()
            self._pid = os.getpid()
        return self._engine

    def _make_turns(self) -> contextlib.AbstractContextManager[Any]:
        """Return what threads of this process line up at before they write.

        SQLite has one writer at a time, and whoever finds one sleeps for ever longer
        spells of up to 100 ms, while others overtake it.
        """
        return threading.Lock() if self._is_sqlite else contextlib.nullcontext()

    def write(self, work: Callable[[sa.Connection], T], *, is_lasting: bool = True) -> T:
        """Run *work* in one writing transaction.

        :param is_lasting: whether it must outlast a power failure. If not,
            SQLite does not wait for the disk: should the machine stop before the
            next transaction that does wait, this one was never carried out, nor
            was any that came after it. A server, which others outlive, always waits.
        :raises StoreUnavailable: it could not be carried out.
        """
        kept = self._hurried if self._is_sqlite and not is_lasting else self._lasting

        def attempt() -> T:
            engine = self.engine  # in a forked child the turns begin anew, too
            with self._gate, self._turns:
                if not is_observed(engine):
                    with kept.borrowed() as connection:
                        if connection is not None:
                            return self._carry_out(connection, work)
                # Whoever listens hears of all that there is to hear.
                hurry = sqlite_file.hurried if kept is self._hurried else contextlib.nullcontext
                with engine.connect() as connection, hurry(connection):
                    return self._carry_out(connection, work)

        return self._repeat(attempt)

    def _carry_out(self, connection: sa.Connection, work: Callable[[sa.Connection], T]) -> T:
        pipeline = sql_pipeline.of(connection)
        with _in_transaction(connection):
            if pipeline is None:
                # Not by an event of SQLAlchemy's, for which it would look at each statement.
                if self._is_sqlite:  # whose driver leaves it to us here
                    _BEGIN_WRITING.run(connection)
                return work(connection)
            try:
                _BEGIN_IN_PIPELINE.run(connection)
                answer = work(connection)
                with as_sqlalchemy_would(connection):
                    pipeline.commit()
            except BaseException:
                pipeline.give_up()
                raise
            return answer

    def _connect(self) -> sa.Connection:
        return self.engine.connect()

    def _equip_lasting(self, connection: sa.Connection) -> sa.Connection:
        pass_over(connection)
        if not sql_pipeline.fits(connection):
            return connection
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        sql_pipeline.lay(connection)
        return connection

    @staticmethod
    def _equip_hurried(connection: sa.Connection) -> sa.Connection:
        pass_over(connection)
        return sqlite_file.hurry(connection)

    def _equip_looking(self, connection: sa.Connection) -> sa.Connection:
        if self._is_sqlite:  # which begins no transaction by itself here
            return connection
        return connection.execution_options(isolation_level="AUTOCOMMIT")

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run *work*, which only reads.

        :raises StoreUnavailable: the store cannot be read.
        """

        def attempt() -> T:
            engine = self.engine
            with self._gate:
                if not is_observed(engine):
                    with self._lasting.borrowed() as connection:
                        if connection is not None:
                            return self._read_from(connection, work)
                with engine.connect() as connection:
                    return self._read_from(connection, work)

        return self._repeat(attempt)

    def _read_from(self, connection: sa.Connection, work: Callable[[sa.Connection], T]) -> T:
        pipeline = sql_pipeline.of(connection)
        with _in_transaction(connection):
            if pipeline is None:
                if self._is_sqlite:
                    _BEGIN_READING.run(connection)
                return work(connection)
            # In no transaction: each statement sees what is committed when it begins, as
            # under READ COMMITTED.
            try:
                answer = work(connection)
                with as_sqlalchemy_would(connection):
                    pipeline.settle()
            except BaseException:
                pipeline.give_up()
                raise
            return answer

    def look(self, work: Callable[[sa.Connection], T]) -> T:
        """Run *work*, one statement that only reads, outside of any transaction.

        On a connection that is kept for it, out of the pool: a watchdog that finds
        nothing would otherwise spend most of its time on getting one.

        :raises StoreUnavailable: the store cannot be read.
        """
        with (
            contextlib.suppress(sa_exc.SQLAlchemyError),
            self._gate,
            self._looking.borrowed() as connection,
        ):
            if connection is not None:
                return work(connection)
        return self.read(work)  # as anybody does, and again if that helps

    def _repeat(self, attempt: Callable[[], T]) -> T:
        for pause in _pauses():
            try:
                return attempt()
            except sa_exc.SQLAlchemyError as error:
                if pause is None or not sql_error.may_repeat(error):
                    raise sql_error.unavailable(error) from sql_error.driver_error(error)
            time.sleep(pause)
        raise AssertionError("unreachable")

    def close(self, *, disposes: bool) -> None:
        """Close every connection that no one else uses.

        :param disposes: those in the pool as well.
        """
        for kept in (self._lasting, self._hurried, self._looking):
            kept.close()
        if disposes:
            self._engine.dispose()

    def _close_all(self) -> None:
        self.close(disposes=True)


class _in_transaction:
    """Begins a transaction, and ends it as SQLAlchemy does.

    But for an interrupt on the way out: SQLAlchemy asserts there that the transaction is
    over, and what is raised then is not Ctrl-C any more, but an error that an engine would
    end its flow with.

    A class and no generator, since each transaction passes through it.
    """

    __slots__ = ("_connection", "_transaction")

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._transaction = self._connection.begin()
        self._transaction.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._transaction.__exit__(kind, error, trace)
        except AssertionError as failed:
            cause = failed.__context__
            if cause is None or isinstance(cause, Exception):
                raise
            raise cause from None


def _pauses() -> Iterator[float | None]:
    for number in range(_TRIES - 1):
        yield 0.02 * 3**number * random.uniform(0.5, 1.5)
    yield None
