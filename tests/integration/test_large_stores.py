# SPDX-License-Identifier: Apache-2.0
"""Stores with very many flows: what is asked of them is found by an index, and no more than a page of it is read."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from lazy_engine import Client, overview, view
from lazy_engine.ledger import protocol
from lazy_engine.ledger import record as r
from lazy_engine.overview import Overview, Search
from tests.integration.parked import World, opened, park

_FLOWS = 1500
_PAGE = 10
#: Closed attempts of the flow that is looked at, as a task leaves that is retried for weeks.
_ATTEMPTS = 40


#: Of a table; what else is scanned has come out of one.
_SCANS = tuple(f"SCAN {name}" for name in ("lazy_", "flowdetails", "atomdetails", "logbooks"))


@dataclasses.dataclass
class Reading:
    """What a statement read, and how the database found it."""

    text: str
    rows: int
    plan: str


class Large:
    """A parked flow among very many, parked and ended."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = world.client
        self._engine = world.ledger._transactor.engine
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        self._tables = world.ledger._tables
        self._fill()

    def _fill(self) -> None:
        host = (self._tables.logbooks, self._tables.flowdetails, self._tables.atomdetails)
        with self._engine.begin() as connection:
            rows = {
                table: dict(connection.execute(sa.select(table)).first()._mapping)  # type: ignore[union-attr]  # there is one
                for table in (
                    self._tables.flows,
                    self._tables.delays,
                    *host,
                )
            }
            made: dict[sa.Table, list[dict[str, Any]]] = {table: [] for table in rows}
            flow, delay, book, detail, atom = rows.values()
            self.ended_at = flow["created_at"]
            for number in range(_FLOWS):
                names = {name: str(uuid.uuid4()) for name in ("flow", "book", "atom")}
                is_over = number % 3 == 0
                for table, row in zip(
                    made,
                    (
                        {
                            **flow,
                            "flow_uuid": names["flow"],
                            "book_uuid": names["book"],
                            "created_at": flow["created_at"] + number,
                            "state": "SUCCESS" if is_over else flow["state"],
                            "ended_at": self.ended_at + number if is_over else None,
                        },
                        {
                            **delay,
                            "flow_uuid": names["flow"],
                            "atom_uuid": names["atom"],
                            "opened_at": delay["opened_at"] + number,
                            "waiting_at": None if is_over else delay["opened_at"] + number,
                            "closed_at": 1 if is_over else None,
                            "due_at": None if is_over else delay["due_at"] + number,
                        },
                        {**book, "uuid": names["book"]},
                        {**detail, "uuid": names["flow"], "parent_uuid": names["book"]},
                        {**atom, "uuid": names["atom"], "parent_uuid": names["flow"]},
                    ),
                    strict=True,
                ):
                    made[table].append(row)
            for attempt in range(_ATTEMPTS):
                closed = {"attempt": 1000 + attempt, "closed_at": 1, "waiting_at": None}
                made[self._tables.delays].append({**delay, **closed, "due_at": None})
            for table in (*host, self._tables.flows, self._tables.delays):
                connection.execute(sa.insert(table), made[table])
        with self._engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
            connection.commit()

    @contextlib.contextmanager
    def reading(self) -> Iterator[list[Reading]]:
        """Note what each statement reads, by asking each of them twice more."""
        found: list[Reading] = []

        def note(connection: Any, _c: Any, text: str, values: Any, _x: Any, is_many: bool) -> None:
            if is_many or not text.lstrip().startswith(("SELECT", "DELETE", "UPDATE")):
                return
            cursor = connection.connection.cursor()
            explain = "EXPLAIN QUERY PLAN " if self._is_sqlite else "EXPLAIN "
            cursor.execute(explain + text, values)
            plan = "; ".join(str(row[3 if self._is_sqlite else 0]) for row in cursor.fetchall())
            rows = 0
            if text.lstrip().startswith("SELECT"):
                cursor.execute(f"SELECT count(*) FROM ({text}) AS found", values)
                rows = cursor.fetchone()[0]
            found.append(Reading(" ".join(text.split()), rows, plan))

        sa.event.listen(self._engine, "before_cursor_execute", note)
        try:
            yield found
        finally:
            sa.event.remove(self._engine, "before_cursor_execute", note)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def large(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Large]:
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('large') / 'flows.db'}"
        else:
            server = request.getfixturevalue("postgresql")
            url = server.create_database()
            stack.callback(server.drop_database, url)
        yield Large(park(stack.enter_context(opened(url))))


def later() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365)


_CALLS: dict[str, Callable[[Client, World], Any]] = {
    "delays": lambda client, _: client.delays(limit=_PAGE),
    "delays of a task": lambda client, _: client.delays(task_name="waits", limit=_PAGE),
    "delays of a flow": lambda client, world: client.delays(flow_uuid=world.flow_uuid),
    "delays that are due": lambda client, _: client.delays(due_before_at=later(), limit=_PAGE),
    "delays, another page": lambda client, _: client.delays(
        after=client.delays(limit=_PAGE)[-1].place, limit=_PAGE
    ),
    "flows": lambda client, _: client.flows(limit=_PAGE),
    "flows that wait": lambda client, _: client.flows(state="DELAYED", limit=_PAGE),
    "flows that run": lambda client, _: client.flows(state="RUNNING", limit=_PAGE),
    "flows that rest": lambda client, _: client.flows(state="SUSPENDED", limit=_PAGE),
    "flows, another page": lambda client, _: client.flows(
        after=client.flows(limit=_PAGE)[-1].place, limit=_PAGE
    ),
    "a token": lambda client, world: client.token(world.flow_uuid, "waits"),
    "a flow": lambda client, world: client.flow(world.flow_uuid),
    "delays by what is due": lambda client, _: find_delays(client, order=r.BY_DUE),
    "delays by what is due, another page": lambda client, _: find_delays(
        client, order=r.BY_DUE, after=find_delays(client, order=r.BY_DUE)[1]
    ),
    "a summary": lambda client, _: Overview(client.backend).summary(),
    "a flow as a picture": lambda client, world: Overview(client.backend).picture(world.flow_uuid),
    "whether a flow has changed": lambda client, world: Overview(client.backend).stamp(
        world.flow_uuid
    ),
    "a sweep": lambda client, _: client.sweep(),
}


def find_delays(client: Client, *, after: str | None = None, **asked: Any) -> Any:
    place = view.read_place(after) if after else None
    return Overview(client.backend).find_delays(r.Page(limit=_PAGE, after=place, **asked), Search())


@pytest.mark.parametrize("name", _CALLS)
def test_no_more_than_a_page_is_read_and_an_index_finds_it(
    large: Large, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST_COUNTED", _PAGE)
    with large.reading() as found:
        _CALLS[name](large.client, large.world)
    # Of what a picture shows of a flow's past, as much is read as there is.
    check(found, most=_ATTEMPTS + 1 if "picture" in name else _PAGE)
    assert 1 <= len(found) <= 9


def test_incidents_among_flows_of_a_state_are_found_by_their_own_index(large: Large) -> None:
    with large.reading() as found:
        large.client.flows(state="DELAYED", limit=_PAGE)
    # Of which there are none, among a thousand flows of that state.
    assert "lazy_flows_incident" in found[1].plan, found


def test_flows_that_rest_are_found_by_their_own_index(large: Large) -> None:
    with large.reading() as found:
        large.client.flows(state="SUSPENDED", limit=_PAGE)
    # Of which there are none, among a thousand flows that wait.
    assert "lazy_flows_wish" in found[-1].plan, found


def test_search_reads_so_many_and_goes_on_from_there(
    large: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "_BATCH", _PAGE)
    monkeypatch.setattr(overview, "_SEARCHED", 3 * _PAGE)
    everything, after = Overview(large.client.backend), None
    with large.reading() as found:
        none, after = everything.find_delays(r.Page(limit=_PAGE), Search(text="nobody"))
    assert (none, len(found)) == ([], 4)  # three of them, and what time it is
    check(found)
    assert after is not None
    wanted, after = large.world.flow_uuid, None
    for _ in range(_FLOWS // (3 * _PAGE) + 1):
        page = r.FlowPage(limit=_PAGE, after=view.read_flow_place(after) if after else None)
        hits, after = everything.find_flows(page, Search(text=wanted.upper()))
        if hits or after is None:
            break
    assert [flow.uuid for flow in hits] == [wanted]


def test_what_is_counted_is_counted_up_to_a_limit(large: Large) -> None:
    ledger = large.world.ledger
    over = _FLOWS // 3
    tally = ledger.tally(10_000)
    assert tally.states == {"DELAYED": 1 + _FLOWS - over, "SUCCESS": over}
    assert (tally.waiting, tally.incidents, tally.at_least) == (1 + _FLOWS - over, 0, frozenset())
    assert ledger.tally(7).states == {"DELAYED": 7, "SUCCESS": 7}
    assert ledger.tally(7).at_least == {"DELAYED", "SUCCESS"}


def check(found: list[Reading], most: int = _PAGE) -> None:
    for reading in found:
        assert reading.rows <= most, reading
        for step in reading.plan.split("; "):
            # SQLite: a scan in the order of an index, ended by its LIMIT, is none of the table.
            is_scan = step.startswith(_SCANS) and "INDEX" not in step
            assert not is_scan, reading
            if "Seq Scan" in step:
                pytest.fail(str(reading))


def test_pages_follow_one_another_to_the_end(large: Large) -> None:
    seen: list[str] = []
    after = None
    while page := large.client.delays(after=after, limit=400):
        seen += [delay.flow_uuid for delay in page]
        after = page[-1].place
    assert len(seen) == len(set(seen)) == 1 + _FLOWS - _FLOWS // 3


def test_purge_deletes_flow_by_flow_from_one_page_after_the_other(
    large: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PURGE_PAGE", _PAGE)
    told: list[int] = []
    # Those that end first, of which every third number is one: 25 of them.
    before_at = datetime.datetime.fromtimestamp((large.ended_at + 75) / 1e6, tz=datetime.UTC)
    with large.reading() as found:
        count = large.client.purge(finished_before_at=before_at, progress=told.append)
    assert abs(count - 25) <= 1  # an instant has less precision than a microsecond there
    assert told == [10, 20, count]
    check(found)
    # Four readings to find them, the last of which finds none, and as many statements for each.
    each = (len(found) - 4) / count
    assert each == int(each) <= 8
