# SPDX-License-Identifier: Apache-2.0
"""What only the ZooKeeper ledger has to do: redos, sizes, indexes, an ensemble that goes away."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo import exceptions as kazoo_exceptions
from taskflow import engines, states, task
from taskflow.patterns import linear_flow
from taskflow.persistence import backends, models

from lazy_engine import Client, Delay, errors, ledger
from lazy_engine.access import open_backend
from lazy_engine.delay import DELAYED
from lazy_engine.ledger import record as r
from lazy_engine.ledger import zookeeper, zookeeper_book, zookeeper_connection, zookeeper_redo
from lazy_engine.receipt import Disposition
from tests.contract.test_ledger import PARKS, SUCCEEDS, Flow, Store, make_flow
from tests.servers import ZooKeeper
from tests.waiting import wait_until

#: Three quarters of a packet.
LARGE = "x" * 700_000


@pytest.fixture
def store(zookeeper_url: str) -> Iterator[Store]:
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(contextlib.closing(open_backend(zookeeper_url))) for _ in range(2)
        )
        yield Store("zookeeper", zookeeper_url, first, ledger.beside(first), ledger.beside(second))


@pytest.fixture
def flow(store: Store) -> Flow:
    return make_flow(store)


def large_atoms(flow: Flow, count: int = 2, name: str = "large") -> list[r.AtomChange]:
    changes = []
    for number in range(count):
        atom = models.TaskDetail(f"{name}-{number}", str(uuid.uuid4()))
        atom.state, atom.intention, atom.meta, atom.version = "SUCCESS", "EXECUTE", {}, "1.0"
        atom.results = LARGE
        changes.append(r.AtomChange(detail=atom, columns=frozenset(), is_new=True))
    return changes


def chunks_of(store: Store) -> list[str]:
    return list(store.ledger._connection.children(store.ledger._paths.redo_path))


def names_of(flow: Flow) -> list[str]:
    return sorted(atom.name for atom in flow.other.detail(flow.uuid))


class Crash(BaseException):
    """Stands for the death of the process."""


def crash_before_write(on: Any, wanted: Callable[[Any, Any], bool]) -> None:
    """Let a ledger die when it is about to carry out a transaction that *wanted* accepts."""
    transact = on._connection._transact

    def die(guards: Any, operations: Any) -> Any:
        if wanted(guards, operations):
            raise Crash
        return transact(guards, operations)

    on._connection._transact = die


# -- commits that do not fit into one packet -------------------------------


def test_commit_larger_than_a_packet_is_written_whole(flow: Flow, store: Store) -> None:
    lease = flow.take().lease
    opening = flow.opening()
    done = flow.ledger.commit(
        lease,
        flow.changes(
            flow_state=DELAYED,
            open_delays=1,
            atoms=[*opening.atoms, *large_atoms(flow, 3)],
            opened=opening.opened,
        ),
        PARKS,
    )
    assert done.has_ended
    assert names_of(flow) == ["large-0", "large-1", "large-2", "task"]
    assert {atom.results for atom in flow.other.detail(flow.uuid)} == {None, LARGE}
    assert (flow.record().owner, flow.record().commit_number) == (None, 1)
    assert [d.key for d in flow.other.waiting(r.Page())] == [flow.key()]
    assert chunks_of(store) == []
    assert flow.take().lease.commit_number == 1


def test_crash_before_the_commit_number_leaves_nothing_and_the_next_owner_drops_the_chunks(
    flow: Flow, store: Store
) -> None:
    lease = flow.take(owner="me").lease
    before = flow.snapshot()
    crash_before_write(store.ledger, lambda guards, _operations: bool(guards))
    with pytest.raises(Crash):
        flow.ledger.commit(lease, flow.changes(atoms=large_atoms(flow)))
    assert flow.snapshot() == before
    assert len(chunks_of(store)) == 2
    taken = flow.other.take(flow.request(owner="me"))
    assert isinstance(taken, r.Taken)
    assert chunks_of(store) == []
    assert taken.detail is not None
    assert [atom.name for atom in taken.detail] == ["task"]


@pytest.mark.parametrize("carried_out", [0, 1, 2])
def test_crash_after_the_commit_number_is_carried_out_by_whoever_looks(
    flow: Flow, store: Store, carried_out: int
) -> None:
    lease = flow.take(owner="me").lease
    flow.begin(lease)
    steps = []

    def is_after(guards: Any, operations: Any) -> bool:
        if guards and guards[0].data is None:
            steps.append(True)
        is_last = bool(operations) and bool(guards) and guards[0].data is not None
        return len(steps) > carried_out or is_last

    crash_before_write(store.ledger, is_after)
    with pytest.raises(Crash):
        flow.ledger.commit(
            lease, flow.changes(atoms=[*large_atoms(flow), flow.mark(states.SUCCESS, 1)])
        )
    assert chunks_of(store) != []
    record = flow.record()
    assert (record.commit_number, record.owner) == (2, "me")
    assert chunks_of(store) == []
    assert names_of(flow) == ["large-0", "large-1", "task"]
    assert flow.stored_task().state == states.SUCCESS


def test_redo_is_carried_out_before_a_page_is_listed(flow: Flow, store: Store) -> None:
    lease = flow.take().lease
    crash_before_write(store.ledger, lambda guards, _: bool(guards) and guards[0].data is None)
    opening = flow.opening()
    changes = flow.changes(
        flow_state=DELAYED, open_delays=1, atoms=large_atoms(flow), opened=opening.opened
    )
    with pytest.raises(Crash):
        flow.ledger.commit(lease, changes, PARKS)
    assert [d.key for d in flow.other.waiting(r.Page())] == [flow.key()]


def test_sleeper_over_a_redo_that_others_finished_writes_nothing(flow: Flow, store: Store) -> None:
    lease = flow.take(owner="me").lease
    (change,) = large_atoms(flow, 1)
    crash_before_write(store.ledger, lambda guards, _: bool(guards) and guards[0].data is None)
    with pytest.raises(Crash):
        flow.ledger.commit(lease, flow.changes(atoms=[change, *large_atoms(flow, 1, "more")]))
    del store.ledger._connection._transact
    sleeper = store.ledger._connection
    path = store.ledger._paths.flow(flow.uuid)
    asleep = zookeeper_redo.Redo(sleeper, store.ledger._paths)
    found = zookeeper_book.node.decode_flow(*sleeper.get(path))
    # The others finish it, and go on.
    successor = flow.other.take(flow.request(owner="me")).lease
    change.detail.results = "newer"
    newer = r.AtomChange(detail=change.detail, columns=frozenset(("results",)))
    flow.other.commit(successor, flow.changes(atoms=[newer]))
    with pytest.raises(zookeeper_connection.Changed):
        asleep.carry_out(found)
    with pytest.raises(errors.Fenced):
        flow.begin(lease)
    assert flow.other.detail(flow.uuid).find(change.detail.uuid).results == "newer"


def test_chunks_that_were_dropped_meanwhile_are_written_again(flow: Flow, store: Store) -> None:
    """Whoever takes the lease between two steps of a large delivery takes its chunks for strays."""
    flow.park()
    transact = store.other._connection._transact
    dropped = []

    def drop(guards: Any, operations: Any) -> Any:
        if len(guards) > 1 and not dropped:
            dropped.extend(chunks_of(store))
            store.ledger._connection.discard(
                f"{store.ledger._paths.redo_path}/{name}" for name in dropped
            )
        return transact(guards, operations)

    store.other._connection._transact = drop
    keys = [flow.key(attempt) for attempt in (1, 2, 3, 4, 5)]
    deliveries = [flow.delivery("x" * 250_000, key=key) for key in keys]
    told = flow.other.deliver(flow.uuid, deliveries, rings=True)
    assert dropped
    assert [item.disposition for item in told.items] == [
        Disposition.ACCEPTED,
        *[Disposition.EARLY] * 4,
    ]
    assert len(flow.take().arrivals) == 5
    assert chunks_of(store) == []


def test_purge_larger_than_a_packet_that_crashed_is_finished_by_the_next(
    flow: Flow, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow.ledger.commit(flow.take().lease, flow.opening(), SUCCEEDS)
    for module in (zookeeper_book, zookeeper_redo):
        monkeypatch.setattr(module, "PACKET_BYTES", 1500)
    crash_before_write(store.ledger, lambda guards, _: bool(guards) and guards[0].data is None)
    with pytest.raises(Crash):
        flow.ledger.purge(flow.ledger.now() + 1)
    assert len(chunks_of(store)) > 1
    assert flow.other.flow(flow.uuid) is None
    assert flow.other.detail(flow.uuid) is None
    assert flow.other.purge(flow.other.now() + 1) == 0
    assert left_below(store) == ["/lazy/due/*", "/lazy/ended/*"]


def left_below(store: Store) -> list[str]:
    """Return what there is beside the skeleton of znodes, numbers as ``*``."""
    connection, root = store.ledger._connection, store.backend.path
    found = []

    def walk(path: str) -> None:
        for name in connection.children(path):
            found.append(f"{path}/{'*' if name.isdigit() else name}".removeprefix(root))
            walk(f"{path}/{name}")

    walk(root)
    skeleton = ["/lazy", "/books", "/flow_details", "/atom_details"]
    skeleton += [f"/lazy/{name}" for name in ("flows", "waiting", "ended", "due", "redo", "keys")]
    return sorted(
        {path for path in found if path not in skeleton and not path.startswith("/lazy/keys/")}
    )


def test_result_is_stored_as_it_was_when_it_was_saved(store: Store) -> None:
    """Whoever made it may have changed it since."""
    flow = make_flow(store)
    lease = flow.take().lease
    change = flow.mark(states.SUCCESS, 1)
    result = {"a": 1}
    encoded = store.ledger.encode_result(result)
    result["a"] = 2
    change.detail.results = result
    columns = change.columns | {"results"}
    flow.ledger.commit(
        lease,
        flow.changes(
            atoms=[r.AtomChange(detail=change.detail, columns=columns, encoded_results=encoded)]
        ),
    )
    assert flow.stored_task().results == {"a": 1}
    result["a"] = {1, 2}  # no JSON any more, and not to be written again
    flow.ledger.commit(lease, flow.changes(atoms=[change]))
    assert flow.stored_task().results == {"a": 1}


# -- what is too large -----------------------------------------------------


def test_result_that_zookeeper_cannot_take_fails_its_task(store: Store) -> None:
    class Large(task.Task):
        def execute(self) -> str:
            return "x" * zookeeper.MAX_RESULT_BYTES

    flow = linear_flow.Flow("flow").add(Large("large"))
    engine = engines.load(flow, engine="lazy", backend=store.backend)
    with pytest.raises(errors.ResultNotStorable, match="keep large data elsewhere"):
        engine.run()
    assert store.other.detail(engine.storage.flow_uuid).state == states.REVERTED


def test_atom_that_zookeeper_cannot_take_is_refused_before_anything_is_written(flow: Flow) -> None:
    lease = flow.take().lease
    (change,) = large_atoms(flow, 1)
    change.detail.results = "x" * 1_100_000
    before = flow.snapshot()
    with pytest.raises(errors.ResultNotStorable) as caught:
        flow.ledger.commit(lease, flow.changes(atoms=[change]))
    assert caught.value.flow_uuid == flow.uuid
    assert flow.snapshot() == before
    flow.begin(lease)


def test_outcomes_are_limited_to_a_quarter_of_a_mebibyte(store: Store) -> None:
    assert store.ledger.max_outcome_bytes == 256 * 1024


# -- indexes ---------------------------------------------------------------


def test_listing_a_page_reads_no_more_delays_than_it_shows(store: Store) -> None:
    for _ in range(6):
        make_flow(store).park()
    reads: list[str] = []
    many = store.other._connection._many

    def note(ask: Any, paths: Any) -> Any:
        if ask.__name__ == "get_async":
            reads.extend(paths)
        return many(ask, paths)

    store.other._connection._many = note
    assert len(store.other.waiting(r.Page(limit=2))) == 2
    assert len(reads) == 2
    assert all("/delays/" in path for path in reads)


def test_empty_buckets_of_the_past_are_deleted_by_who_lists(store: Store) -> None:
    connection, path = store.ledger._connection, store.ledger._paths.waiting_path
    for name in ("0000000001", "0000000002"):
        connection.ensure(f"{path}/{name}")
    connection.ensure(f"{path}/0000000002/{70_000_000:016d}.somebody")
    this_minute = f"{store.ledger.now() // 60_000_000:010d}"
    connection.ensure(f"{path}/{this_minute}")
    with contextlib.suppress(ValueError):  # that entry is nobody's
        store.other.waiting(r.Page())
    assert connection.children(path) == ["0000000002", this_minute]


def test_delays_of_one_instant_are_paged_in_the_order_of_their_places(flow: Flow) -> None:
    lease = flow.take().lease
    keys = [flow.key(attempt, atom_uuid="a") for attempt in (2, 10, 1)]
    opened = [r.DelayOpening(key=key, task_name="task") for key in keys]
    flow.ledger.commit(lease, flow.changes(opened=opened, open_delays=3))
    seen, after = [], None
    while page := list(flow.other.waiting(r.Page(limit=1, after=after))):
        seen.extend(d.key.attempt for d in page)
        after = r.place_of(page[-1])
    assert seen == [1, 2, 10]


def test_index_that_was_tampered_with_stops_nobody(flow: Flow, store: Store) -> None:
    flow.park()
    connection = store.ledger._connection
    path = store.ledger._paths.waiting_path
    (bucket,) = connection.children(path)
    (entry,) = connection.children(f"{path}/{bucket}")
    connection.discard([f"{path}/{bucket}/{entry}"])
    assert flow.disposition() is Disposition.ACCEPTED
    assert flow.delay().is_unabsorbed


def test_answered_delay_is_not_in_the_index_any_more(flow: Flow, store: Store) -> None:
    connection, path = store.ledger._connection, store.ledger._paths.waiting_path
    flow.park()
    (bucket,) = connection.children(path)
    assert len(connection.children(f"{path}/{bucket}")) == 1
    flow.deliver()
    assert connection.children(f"{path}/{bucket}") == []


def test_nothing_is_left_of_a_purged_flow(flow: Flow, store: Store) -> None:
    flow.park()
    stray = store.ledger._paths.chunk(flow.uuid, "of-a-delivery-that-died", 0)
    store.ledger._connection.ensure(stray)
    taken = flow.take()
    flow.ledger.release(taken.lease)
    assert chunks_of(store) == []
    flow.deliver()
    lease = flow.take().lease
    flow.absorb(lease, flow.key())
    flow.deliver("late", attempt=2)
    flow.ledger.commit(lease, flow.changes(), SUCCEEDS)
    store.ledger._connection.ensure(stray)
    assert flow.ledger.purge(flow.ledger.now() + 1) == 1
    assert left_below(store) == ["/lazy/due/*", "/lazy/ended/*", "/lazy/waiting/*"]


# -- lost answers and servers that go away ---------------------------------


def test_submission_whose_answer_was_lost_is_known_again_as_new(store: Store) -> None:
    detail = models.FlowDetail("flow", str(uuid.uuid4()))
    detail.meta = {}
    key_id = store.ledger.signing_key().key_id
    wanted = r.Submission(detail=detail, book=models.LogBook("book"), key_id=key_id, is_rung=False)
    with answer_lost_once(store.ledger):
        assert store.ledger.submit(wanted)[1] is True
    assert store.other.submit(wanted)[1] is False


def test_delivery_between_a_lost_commit_and_its_repetition_fences_nobody(
    flow: Flow, store: Store
) -> None:
    lease = flow.take().lease
    delivered: list[Disposition] = []
    with answer_lost_once(store.ledger, meanwhile=lambda: delivered.append(flow.disposition())):
        done = flow.ledger.commit(lease, flow.opening(), PARKS)
    assert delivered == [Disposition.ACCEPTED], "the commit had been carried out"
    assert done.has_ended
    assert flow.record().commit_number == 1


@contextlib.contextmanager
def answer_lost_once(on: Any, meanwhile: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Carry a transaction out, let something happen, and lose the connection instead of answering."""
    transact, lost = on._connection._transact, []

    def lose(*transaction: Any) -> Any:
        answer = transact(*transaction)
        was_carried_out = not any(isinstance(one, Exception) for one in answer)
        if was_carried_out and not lost:
            lost.append(True)
            meanwhile()
            raise kazoo_exceptions.ConnectionLoss
        return answer

    on._connection._transact = lose
    yield
    del on._connection._transact
    assert lost


@pytest.mark.fault
def test_server_that_dies_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ZooKeeper's own whitelist, which TaskFlow's check of the version does not get past."""
    with ZooKeeper(whitelist="srvr") as server, contextlib.ExitStack() as stack:
        backend = stack.enter_context(
            contextlib.closing(open_backend(f"zookeeper://{server.hosts}/a/b"))
        )
        one = ledger.beside(backend)
        flow = make_flow(Store("zookeeper", None, backend, one, one))
        lease = flow.take().lease
        server.kill()
        with monkeypatch.context() as patch:
            patch.setattr(zookeeper_connection, "_REQUEST_SECONDS", 0.5)
            with pytest.raises(errors.StoreUnavailable):
                flow.begin(lease)
            assert lease.is_unsure
            with pytest.raises(errors.StoreUnavailable):
                flow.deliver()
        server.start()
        wait_until(lambda: backend._client.connected, timeout_seconds=30)
        flow.begin(lease)
        assert not lease.is_unsure
        assert flow.stored_task().state == states.RUNNING
        assert flow.disposition() is Disposition.EARLY
        done = flow.ledger.commit(lease, flow.opening(), PARKS)
        assert [one.decode(d.outcome) for d in done.arrivals] == ["answer"]


def test_session_that_expires_costs_nothing(flow: Flow, store: Store) -> None:
    """The ledger keeps nothing that goes with a session."""
    lease = flow.take().lease
    client = store.backend._client
    session_id = client.client_id[0]
    twin = type(client)(hosts=hosts_of(store), client_id=client.client_id)
    twin.start()
    twin.stop()  # closes the session for both
    twin.close()
    wait_until(lambda: client.connected and client.client_id[0] != session_id, timeout_seconds=30)
    flow.begin(lease)
    assert flow.record().owner == lease.owner


# -- opening ---------------------------------------------------------------


def test_another_layout_is_refused(store: Store) -> None:
    client = store.backend._client
    path = store.ledger._paths.ledger_path
    client.set(path, json.dumps({"layout": 999}).encode())
    with (
        contextlib.closing(open_fresh(store)) as backend,
        pytest.raises(errors.StoreUnavailable, match="version 999"),
    ):
        ledger.beside(backend)


def hosts_of(store: Store) -> str:
    return ",".join(f"{host}:{port}" for host, port in store.backend._client.hosts)


def open_fresh(store: Store, path: str | None = None) -> Any:
    return backends.fetch(
        {
            "connection": "zookeeper",
            "hosts": hosts_of(store),
            "path": path or store.backend.path,
            "check_compatible": False,
        }
    )


def test_missing_znodes_of_taskflow_are_named(store: Store) -> None:
    with (
        contextlib.closing(open_fresh(store, "/nothing/here")) as backend,
        pytest.raises(errors.StoreUnavailable, match="init"),
    ):
        ledger.beside(backend)


def test_store_is_connected_to_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """TaskFlow takes 15 seconds over a server that is not there; four times that is a minute."""
    from taskflow import exceptions

    tries = []

    class ZkBackend:  # goes by its name
        def get_connection(self) -> Any:
            tries.append(True)
            raise exceptions.StorageFailure("Storage backend timeout")

    with pytest.raises(errors.StoreUnavailable, match="timeout"):
        ledger.upgrade(ZkBackend())
    assert len(tries) == 1


class Waits(task.Task):
    default_provides = "answer"

    def execute(self) -> Any:
        return Delay(timeout_seconds=None)


def test_client_takes_an_address_of_zookeeper(zookeeper_url: str) -> None:
    client = Client(zookeeper_url)
    with contextlib.closing(client.backend):
        flow = linear_flow.Flow("flow").add(Waits("ask"))
        engine = engines.load(flow, engine="lazy", backend=client.backend)
        assert engine.run() == DELAYED
        flow_uuid = engine.storage.flow_uuid
        (delay,) = client.delays()
        token = client.token(delay.flow_uuid, "ask")
        assert client.complete(token, {"n": 1}).disposition is Disposition.ACCEPTED
        assert client.resume(flow_uuid, flow=flow) == states.SUCCESS
        assert dict(client.flow(flow_uuid).results) == {"ask": {"n": 1}}


# -- death at every write ----------------------------------------------------


class Counts(task.Task):
    default_provides = "counted"

    def execute(self) -> str:
        return "counted"


def waiting_flow() -> Any:
    return linear_flow.Flow("flow").add(Counts("first"), Waits("ask"), Counts("last", provides="z"))


class Mortal:
    """Lets a ledger die at its n-th transaction, before or after it is carried out, and stay dead."""

    def __init__(self, on: Any, number: int, *, is_before: bool) -> None:
        self._transact = on._connection._transact
        self._left = number
        self._is_before = is_before
        on._connection._transact = self

    @property
    def is_dead(self) -> bool:
        return self._left <= 0

    def __call__(self, *transaction: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise errors.StoreUnavailable("the keeper has no part in this")
        if self.is_dead:
            raise Crash
        self._left -= 1
        if not self.is_dead:
            return self._transact(*transaction)
        if not self._is_before:
            self._transact(*transaction)
        raise Crash


def one_life(store: Store, flow_uuid: str) -> None:
    """Do all that is to be done to a flow, from wherever it stands."""
    stored = store.ledger.detail(flow_uuid)
    client = Client(store.backend)
    if client.flow(flow_uuid).state != DELAYED or not client.delays(flow_uuid=flow_uuid):
        run_on(store, stored)
    if client.delays(flow_uuid=flow_uuid):
        assert client.complete(client.token(flow_uuid, "ask"), "yes").disposition in (
            Disposition.ACCEPTED,
            Disposition.DUPLICATE,
        )
    run_on(store, store.ledger.detail(flow_uuid))


def run_on(store: Store, detail: Any) -> None:
    engines.load(
        waiting_flow(),
        flow_detail=detail,
        backend=store.backend,
        engine="lazy",
        lease_seconds=0.2,
        busy_wait_seconds=30,
    ).run()


@pytest.mark.fault
@pytest.mark.parametrize(("packet", "step"), [("large", 1), ("small", 3)])
def test_death_at_any_write_is_survived(
    packet: str, step: int, zookeeper_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if packet == "small":  # so that nearly every commit is a redo
        for module in (zookeeper_book, zookeeper_redo):
            monkeypatch.setattr(module, "PACKET_BYTES", 1300)
    deaths = 0
    with contextlib.closing(open_backend(zookeeper_url)) as second:
        survivor = Store("zookeeper", zookeeper_url, second, ledger.beside(second), None)
        for number in range(1, 100, step):
            flow_uuid = stored_flow(second)
            with contextlib.closing(open_backend(zookeeper_url)) as first:
                mortal = Store("zookeeper", zookeeper_url, first, ledger.beside(first), None)
                mortal.ledger.signing_key()
                death = Mortal(mortal.ledger, number, is_before=bool(deaths % 2))
                with contextlib.suppress(Crash):
                    one_life(mortal, flow_uuid)
            one_life(survivor, flow_uuid)
            seen = Client(second).flow(flow_uuid)
            assert seen.state == states.SUCCESS, number
            assert dict(seen.results) == {"first": "counted", "ask": "yes", "last": "counted"}
            (delay,) = survivor.ledger.delays_of(flow_uuid)
            assert delay.absorbed_at is not None
            if not death.is_dead:
                break
            deaths += 1
        assert survivor.ledger.purge(survivor.ledger.now() + 1) == deaths + 1
        assert left_below(survivor) == ["/lazy/due/*", "/lazy/ended/*", "/lazy/waiting/*"]
    assert deaths > 5


def stored_flow(backend: Any) -> str:
    book, detail = models.LogBook("book"), models.FlowDetail("flow", str(uuid.uuid4()))
    detail.meta = {}
    book.add(detail)
    with contextlib.closing(backend.get_connection()) as connection:
        connection.save_logbook(book)
    return str(detail.uuid)
