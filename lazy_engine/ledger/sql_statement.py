# SPDX-License-Identifier: Apache-2.0
"""SQL statements that are put together once, and carried out without a detour.

SQLAlchemy writes them, for every database, and opens the connections and
transactions that they are carried out in. What it does besides, whenever it is
handed a statement, takes several times longer than SQLite takes to carry it
out. So what is done for each task, park, delivery or wake goes to the driver by
itself: text and order of values are worked out once.

Whoever listens to what SQLAlchemy executes, or has it logged, is told of these
statements as of any others: then they go through it.

What stands for the time is worked out when a statement is carried out (see
:meth:`~lazy_engine.ledger.sql_book.SqlBook._clock`).
"""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import interfaces

from lazy_engine.ledger import sql_pipeline

Values = Mapping[str, Any]

#: What the names of bound values begin with: columns have theirs from SQLAlchemy.
_LEAD: Final = "the_"

_STATEMENTS: Final = (
    "before_execute",
    "after_execute",
    "before_cursor_execute",
    "after_cursor_execute",
)
#: Who listens to statements, and to transactions as well.
_LISTENERS: Final = operator.attrgetter(*_STATEMENTS)
_ALL_LISTENERS: Final = operator.attrgetter(*_STATEMENTS, "begin", "commit", "rollback")
_UNOBSERVED: Final = "lazy_engine.unobserved"
_SQL_LOG: Final = logging.getLogger("sqlalchemy.engine.Engine")


class Answer:
    """What the database answered.

    In a pipeline it may still be on its way: whoever reads it first waits for it,
    and is raised what the statement has failed with.

    :param names: of the columns that it has.
    :param come: returns all rows, as tuples, and how many rows were written, or matched.
    """

    __slots__ = ("_come", "_names", "_told")

    def __init__(self, names: Sequence[str], come: Callable[[], tuple[Sequence[Any], int]]) -> None:
        self._names = names
        self._come = come
        self._told: tuple[Sequence[Any], int] | None = None

    def _tell(self) -> tuple[Sequence[Any], int]:
        if self._told is None:
            self._told = self._come()
        return self._told

    @property
    def rows(self) -> Sequence[Any]:
        """All rows, as tuples."""
        return self._tell()[0]

    @property
    def count(self) -> int:
        """How many rows were written, or matched."""
        return self._tell()[1]

    def first(self) -> Any | None:
        """Return the first row, as a tuple, or ``None``."""
        return self.rows[0] if self.rows else None

    def mappings(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as dictionaries by the names of their columns."""
        for row in self.rows:
            yield dict(zip(self._names, row, strict=True))


class Statement:
    """A statement that is carried out again and again, with other values."""

    def __init__(self, clause: Any) -> None:
        self._clause = clause
        self._is_insert = isinstance(clause, sa.Insert)
        self._plans: dict[Hashable, _Plan | None] = {}

    def run(self, connection: sa.Connection, given: Values | None = None) -> Answer:
        """Carry it out in the transaction of *connection*.

        :param given: its open values by their names, or a new row.
        :raises sqlalchemy.exc.DBAPIError: as SQLAlchemy would raise it.
        """
        given = given or {}
        plan = self._plan(connection, given)
        if plan is None:
            return self._through_sqlalchemy(connection, self._named(given))
        return plan.run(connection, plan.bind(given), is_many=False)

    def run_many(self, connection: sa.Connection, given: Sequence[Values]) -> None:
        """Carry it out for each of *given*, which all name the same values.

        :raises sqlalchemy.exc.DBAPIError: as SQLAlchemy would raise it.
        """
        if len(given) == 1:
            self.run(connection, given[0])
            return
        plan = self._plan(connection, given[0])
        if plan is None:
            self._through_sqlalchemy(connection, [self._named(each) for each in given])
            return
        plan.run(connection, [plan.bind(each) for each in given], is_many=True)

    def _plan(self, connection: sa.Connection, given: Values) -> _Plan | None:
        if _UNOBSERVED not in connection.info and _is_observed(connection.engine):
            return None
        # What a new row holds decides on what an INSERT says.
        key = tuple(given) if self._is_insert else ()
        if key not in self._plans:
            self._plans[key] = _plan(self._clause, connection.dialect, key)
        return self._plans[key]

    def _named(self, given: Values) -> Values:
        if self._is_insert:
            return given
        return {_LEAD + name: value for name, value in given.items()}

    def _through_sqlalchemy(self, connection: sa.Connection, given: Any) -> Answer:
        result = connection.execute(self._clause, given)
        names: Sequence[str] = ()
        told: tuple[Sequence[Any], int] = ((), result.rowcount)
        if result.returns_rows:
            names = tuple(result.keys())
            told = ([tuple(row) for row in result], -1)
        return Answer(names, lambda: told)


class Statements:
    """Statements by what they are for."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Statement] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Statement:
        """Return the statement for *key*, made when it is first asked for."""
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = Statement(make())
        return found


def open_value(name: str, **options: Any) -> sa.BindParameter[Any]:
    """Return a value that is given when the statement is carried out."""
    return sa.bindparam(_LEAD + name, **options)


def open_values(names: Iterable[str]) -> dict[str, sa.BindParameter[Any]]:
    """Return open values for columns."""
    return {name: open_value(name) for name in names}


class _Slot(NamedTuple):
    """Where a value goes.

    :ivar name: its name in the statement's text.
    :ivar given_name: its name among the values that are given.
    :ivar stand_in: makes it if it is not given.
    :ivar encode: makes of it what the driver takes; ``None``: it takes it as it is.
    """

    name: str
    given_name: str
    stand_in: Callable[[], Any] | None
    encode: Callable[[Any], Any] | None


class _Plan:
    """A statement as one driver takes it."""

    def __init__(
        self,
        text: str,
        slots: Sequence[_Slot],
        columns: Sequence[tuple[str, Any]],
        *,
        is_positional: bool,
    ) -> None:
        self._text = text
        self._slots = slots
        self._names = tuple(name for name, _kind in columns)
        self._kinds = [kind for _name, kind in columns]
        self._decoders: list[tuple[int, Callable[[Any], Any]]] | None = None
        self._is_positional = is_positional

    def bind(self, given: Values) -> Any:
        found = []
        for _name, given_name, stand_in, encode in self._slots:
            value = given[given_name] if stand_in is None else stand_in()
            found.append(value if encode is None else encode(value))
        if self._is_positional:
            return found
        return {slot.name: value for slot, value in zip(self._slots, found, strict=True)}

    def run(self, connection: sa.Connection, values: Any, *, is_many: bool) -> Answer:
        raw: Any = connection.connection.dbapi_connection
        pipeline = sql_pipeline.of(connection)
        with as_sqlalchemy_would(connection):
            cursor = raw.cursor() if pipeline is None else pipeline.cursor()
            (cursor.executemany if is_many else cursor.execute)(self._text, values)
            if pipeline is None:
                told = self._take_in(connection.dialect, cursor)
                return Answer(self._names, lambda: told)

        def come() -> tuple[Sequence[Any], int]:
            with as_sqlalchemy_would(connection):
                pipeline.settle()
                return self._take_in(connection.dialect, cursor)

        return Answer(self._names, come)

    def _take_in(self, dialect: sa.Dialect, cursor: Any) -> tuple[Sequence[Any], int]:
        rows = self._fetch(dialect, cursor) if self._names else ()
        count = cursor.rowcount
        cursor.close()
        return rows, count

    def _fetch(self, dialect: sa.Dialect, cursor: Any) -> Sequence[Any]:
        rows: Sequence[Any] = cursor.fetchall()
        if self._decoders is None:
            self._decoders = [
                (number, decode)
                for number, (kind, told) in enumerate(
                    zip(self._kinds, cursor.description, strict=True)
                )
                if (decode := kind.dialect_impl(dialect).result_processor(dialect, told[1]))
            ]
        if not self._decoders:
            return rows
        decoded = []
        for row in rows:
            values = list(row)
            for number, decode in self._decoders:
                values[number] = decode(values[number])
            decoded.append(tuple(values))
        return decoded


def is_observed(engine: sa.Engine) -> bool:
    """Whether somebody wants to be told of each statement or transaction."""
    return _is_observed(engine, _ALL_LISTENERS)


def pass_over(connection: sa.Connection) -> None:
    """Let statements on a connection no longer ask whether they are observed.

    For one of which it is known, whenever it is used, that nobody does: to ask takes
    longer than a small statement.
    """
    connection.info[_UNOBSERVED] = True


def _is_observed(
    engine: sa.Engine, listeners: Callable[[Any], Iterable[object]] = _LISTENERS
) -> bool:
    return (
        any(listeners(engine.dispatch))  # each of them false while nobody listens
        or bool(engine.dialect.dispatch.handle_error)
        or _SQL_LOG.isEnabledFor(logging.INFO)
        or bool(engine.echo)
    )


def _plan(clause: Any, dialect: sa.Dialect, columns: Sequence[str]) -> _Plan | None:
    """Return how the driver of *dialect* takes a statement.

    :param columns: of a new row, for an INSERT.
    :returns: ``None`` if SQLAlchemy has to do something to it each time: write out a
        list of values, or tell the driver their types.
    """
    made = clause.compile(
        dialect=dialect,
        **({"column_keys": list(columns), "for_executemany": True} if columns else {}),
    )
    binds = {name: bind for bind, name in made.bind_names.items()}
    if any(bind.expanding or bind.literal_execute for bind in binds.values()) or (
        dialect.bind_typing is interfaces.BindTyping.SETINPUTSIZES
    ):
        return None
    slots = []
    for name in made.positiontup if made.positional else binds:
        bind = binds[name]
        encode = bind.type.dialect_impl(dialect).bind_processor(dialect)
        slots.append(_Slot(name, name.removeprefix(_LEAD), _stand_in(bind), encode))
    return _Plan(
        made.string,
        slots,
        _returned(clause),
        is_positional=made.positional,
    )


def _returned(clause: Any) -> list[tuple[str, Any]]:
    """Return name and type of each column that a statement answers with."""
    if isinstance(clause, sa.UpdateBase):
        return [(each["name"], each["type"]) for each in clause.returning_column_descriptions]
    if isinstance(clause, sa.SelectBase):
        return [(column.name, column.type) for column in clause.selected_columns]
    return []


def _stand_in(bind: sa.BindParameter[Any]) -> Callable[[], Any] | None:
    if bind.required:
        return None
    value = bind.value
    return bind.callable or (lambda: value)


class as_sqlalchemy_would:
    """Turns a driver's error into the one that SQLAlchemy makes of it, and lets go of what is broken.

    A class and no generator, since each statement passes through it.
    """

    __slots__ = ("_connection", "_raw")

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._raw: Any = connection.connection.dbapi_connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception):
            raise _translated(self._connection, self._raw, error) from error
        if error is not None:
            # Ctrl-C: nobody knows what of the answer has been read.
            self._connection.invalidate()


def _translated(connection: sa.Connection, raw: Any, error: Exception) -> Exception:
    dialect = connection.dialect
    driver: Any = dialect.dbapi
    if not isinstance(error, driver.Error):
        return error
    is_gone = dialect.is_disconnect(error, raw, None)
    if is_gone:
        # SQLAlchemy finds out by itself, and then trusts none of the connections in its
        # pool, which were opened to the same server.
        with contextlib.suppress(sa_exc.SQLAlchemyError):
            connection.exec_driver_sql("SELECT 1")
        connection.invalidate(error)
    wrapped: Exception = sa_exc.DBAPIError.instance(
        None,
        None,
        error,
        driver.Error,
        hide_parameters=True,
        connection_invalidated=is_gone,
        dialect=dialect,
    )
    return wrapped
