# SPDX-License-Identifier: Apache-2.0
"""Whatever is handed in as a token or an outcome: documented errors only, nothing changed, and no token ever shown.

``LAZY_ENGINE_PROPERTY_SCALE=50`` tries fifty times as many.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import decimal
import logging
import os
import pickle
import string
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import taskflow.engines
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from taskflow import retry, task
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.persistence import backends

from lazy_engine import Client, Delay, Disposition, errors, ledger
from lazy_engine.outcome import Failed, Result

_SCALE = int(os.environ.get("LAZY_ENGINE_PROPERTY_SCALE", "1"))

many = settings(
    max_examples=100 * _SCALE,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


class Ask(task.Task):
    """Wait, and keep what a test must know of the delay."""

    made: list[Delay]

    def __init__(self, name: str, made: list[Delay], **options: Any) -> None:
        super().__init__(name, **options)
        self.made = made

    def execute(self, **_others: Any) -> Delay:
        delay = Delay(timeout_seconds=None)
        self.made.append(delay)
        return delay


@dataclasses.dataclass
class Parked:
    """A flow that waits, and the token for it."""

    client: Client
    flow_uuid: str
    token: str

    def stored(self) -> Any:
        book = ledger.beside(self.client.backend)
        detail = book.detail(self.flow_uuid)
        assert detail is not None
        flow = book.flow(self.flow_uuid)
        return flow, book.delays_of(self.flow_uuid), [atom.to_dict() for atom in detail]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    if request.param == "memory":
        yield Client(backends.fetch({"connection": "memory"}))
        return
    with contextlib.closing(
        Client({"connection": request.getfixturevalue(f"{request.param}_url")}).backend
    ) as backend:
        yield Client(backend)


def park(client: Client) -> Parked:
    made: list[Delay] = []
    engine = taskflow.engines.load(
        linear_flow.Flow("flow").add(Ask("ask", made)), engine="lazy", backend=client.backend
    )
    assert engine.run() == "DELAYED"
    (delay,) = made
    return Parked(client, engine.storage.flow_uuid, delay.token)


@pytest.fixture
def parked(client: Client) -> Parked:
    return park(client)


# -- tokens -----------------------------------------------------------------------

alphabet = string.ascii_letters + string.digits + "-_.=+/ %\n\0é"
anything = st.one_of(
    st.text(st.characters(codec=None), max_size=300),
    st.text(alphabet, max_size=300),
    st.binary(max_size=300),
    st.none(),
    st.integers(),
    st.lists(st.text(), max_size=3),
    st.from_regex(r"lz[0-9]\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,200}\.[A-Za-z0-9_-]{0,60}"),
)
Change = Callable[[str], str]


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Ways in which a token comes to harm on its way."""
    place, length = draw(st.integers(0, 200)), draw(st.integers(1, 12))
    text = draw(st.text(alphabet, min_size=1, max_size=12))
    kind = draw(st.sampled_from(["put in", "cut out", "overwrite", "swap", "part", "bits"]))

    def change(token: str) -> str:
        at = place % len(token)
        parts = token.split(".")
        if kind == "put in":
            return token[:at] + text + token[at:]
        if kind == "cut out":
            return token[:at] + token[at + length :]
        if kind == "overwrite":
            return token[:at] + text + token[at + len(text) :]
        if kind == "swap":
            parts[place % 4], parts[length % 4] = parts[length % 4], parts[place % 4]
        elif kind == "part":
            parts[place % 4] = text
        else:
            name = bytearray(base64.urlsafe_b64decode(parts[2] + "=" * (-len(parts[2]) % 4)))
            name[place % len(name)] ^= 1 << (length % 8)
            parts[2] = base64.urlsafe_b64encode(name).rstrip(b"=").decode()
        return ".".join(parts)

    return change


def refused(parked: Parked, token: Any) -> None:
    """Deliver under a token that is none, in every way there is."""
    before = parked.stored()
    ways: list[Callable[[], Any]] = [
        lambda: parked.client.complete(token, 1),
        lambda: parked.client.fail(token, "no"),
        lambda: parked.client.heartbeat(token),
    ]
    for way in ways:
        with pytest.raises(errors.InvalidToken) as caught:
            way()
        shown = str(caught.value) + repr(caught.value)
        assert not isinstance(token, str) or len(token) < 8 or token not in shown
        assert parked.token not in "".join(traceback.format_exception(caught.value))
    (answer,) = parked.client.deliver_many([(token, Result(1))])
    assert isinstance(answer, errors.InvalidToken)
    assert parked.stored() == before


@many
@given(made_up=anything)
@example(made_up="")
@example(made_up="...")
@example(made_up="lz1...")
@example(made_up="lz1.\ud800.a.b")
def test_made_up_token_is_invalid_and_changes_nothing(parked: Parked, made_up: Any) -> None:
    refused(parked, made_up)


@many
@given(change=changes())
def test_altered_token_is_invalid_and_changes_nothing(parked: Parked, change: Change) -> None:
    altered = change(parked.token)
    if altered != parked.token:
        refused(parked, altered)


# -- outcomes ---------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None), max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec=None), max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
odd_values = st.sampled_from(
    [float("nan"), float("inf"), b"bytes", {1}, object(), 1j, decimal.Decimal(1), len, Ask, ...]
)


@st.composite
def values_not_json(draw: st.DrawFn) -> Any:
    """Something that is not JSON, at some depth."""
    value = draw(odd_values | st.dictionaries(st.integers(), json_values, min_size=1, max_size=2))
    for wrap in draw(st.lists(st.sampled_from(["list", "dict", "tuple"]), max_size=4)):
        value = {"list": [0, value], "dict": {"k": value}, "tuple": (value, None)}[wrap]
    return value


@settings(many, max_examples=25 * _SCALE)
@given(value=json_values)
@example(value="\0")
@example(value="\ud800")
@example(value={"\0": ["\udfff", "é"]})
@example(value=-0.0)
@example(value=1e308)
@example(value="x" * 100_000)
def test_any_json_is_accepted_and_comes_back(client: Client, value: Any) -> None:
    flow = linear_flow.Flow("flow").add(Ask("ask", made := []))
    engine = taskflow.engines.load(flow, engine="lazy", backend=client.backend)
    assert engine.run() == "DELAYED"
    (delay,) = made
    assert client.complete(delay.token, value).disposition is Disposition.ACCEPTED
    assert client.complete(delay.token, value).disposition is Disposition.DUPLICATE
    flow_uuid = engine.storage.flow_uuid
    made.clear()
    assert client.resume(flow_uuid, flow=flow) == "SUCCESS"
    assert made == [], "executed again"
    assert client.flow(flow_uuid).results["ask"] == value


@many
@given(value=values_not_json(), details=st.booleans())
def test_what_is_not_json_is_refused_and_changes_nothing(
    parked: Parked, value: Any, details: bool
) -> None:
    if not ledger.beside(parked.client.backend).guarantees.needs_json:
        pytest.skip("a memory store takes any object")
    before = parked.stored()
    ways: dict[bool, Callable[[], Any]] = {
        True: lambda: parked.client.fail(parked.token, "no", details=value),
        False: lambda: parked.client.complete(parked.token, value),
    }
    with pytest.raises(errors.OutcomeNotStorable) as caught:
        ways[details]()
    assert parked.token not in "".join(traceback.format_exception(caught.value))
    (answer,) = parked.client.deliver_many([(parked.token, Result(value))])
    assert isinstance(answer, errors.OutcomeNotStorable)
    assert parked.stored() == before


@many
@given(
    error=st.one_of(st.none(), st.integers(), st.binary(), st.lists(st.text()), st.text()),
    kind=st.one_of(st.none(), st.integers(), st.text(max_size=300), st.binary()),
)
def test_odd_failures_are_refused_and_change_nothing(parked: Parked, error: Any, kind: Any) -> None:
    is_good = isinstance(error, str) and (
        kind is None or (isinstance(kind, str) and 0 < len(kind) < 256)
    )
    if is_good:
        return
    before = parked.stored()
    with pytest.raises((errors.OutcomeNotStorable, TypeError)):
        parked.client.fail(parked.token, error, kind=kind)
    assert parked.stored() == before


def test_too_large_an_outcome_is_refused_and_changes_nothing(parked: Parked) -> None:
    before = parked.stored()
    with pytest.raises(errors.OutcomeTooLarge) as caught:
        parked.client.complete(parked.token, "x" * (2 * 1024 * 1024))
    assert parked.token not in "".join(traceback.format_exception(caught.value))
    assert parked.stored() == before


# -- secrets ----------------------------------------------------------------------


def secrets_of(tokens: list[str]) -> list[str]:
    """Return what must not be seen: whole tokens, and their signatures alone."""
    return [*tokens, *(token.rpartition(".")[2] for token in tokens)]


def asking(made: list[Delay]) -> Any:
    both = unordered_flow.Flow("both").add(Ask("a", made, provides="a"), Ask("b", made))
    tried = linear_flow.Flow("tried", retry=retry.Times(2, "times")).add(Ask("c", made))
    return linear_flow.Flow("asking").add(both, tried)


def live(client: Client, made: list[Delay], seen: list[Any]) -> None:
    """Let flows end well and badly, and hand in all that can be handed in; collect what is answered."""
    for ends_well in (True, False):
        start = len(made)
        flow = asking(made)
        engine = taskflow.engines.load(
            flow, engine="lazy", backend=client.backend, executor="threads"
        )
        seen += [*engine.run_iter(), engine, engine.storage]
        flow_uuid = engine.storage.flow_uuid
        while (state := client.flow(flow_uuid).state) == "DELAYED":
            seen += [*client.delays(flow_uuid=flow_uuid), client.flow(flow_uuid)]
            for delay in made[start:]:
                seen += deliver_all(client, delay, ends_well)
            seen.append(client.resume(flow_uuid, flow=flow))
        assert state == ("SUCCESS" if ends_well else "REVERTED")
        for delay in made[start:]:
            seen += deliver_all(client, delay, ends_well)
        seen += ledger.beside(client.backend).delays_of(flow_uuid)
        seen.append(client.flow(flow_uuid))


def deliver_all(client: Client, delay: Delay, ends_well: bool) -> Iterator[Any]:
    yield delay
    is_bad = repr(delay).startswith("<Delay of 'c'") and (not ends_well or delay.attempt == 1)
    first = Failed("no luck", kind="Luck") if is_bad else Result("well")
    yield from client.deliver_many([(delay.token, first), (delay.token, Result("other"))])
    for attempt in (
        lambda: client.complete(delay.token, {1, 2}),
        lambda: client.complete(delay.token, "x" * (2 * 1024 * 1024)),
        lambda: client.complete(delay.token[:-1], 1),
        lambda: client.fail(delay.token + "A", "x"),
        lambda: client.heartbeat(delay.token, progress=0.5, details={"at": 1}),
        lambda: pickle.dumps(delay),
    ):
        try:
            yield attempt()
        except Exception as error:
            yield error


@pytest.fixture
def all_logging(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that any logger says, SQLAlchemy's statements too; ask for it before the client."""
    caplog.set_level(logging.DEBUG)
    for name in (*logging.root.manager.loggerDict, "sqlalchemy.engine"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def test_no_token_and_no_signing_key_is_ever_shown(
    all_logging: pytest.LogCaptureFixture, client: Client
) -> None:
    made: list[Delay] = []
    seen: list[Any] = [client]
    live(client, made, seen)
    assert len(made) == 8, "two flows of three tasks, of which one is tried twice"
    secrets = secrets_of([delay.token for delay in made])
    logged = [*all_logging.get_records("setup"), *all_logging.records]
    key = ledger.beside(client.backend).signing_key()
    secrets += [base64.b64encode(key.secret).decode(), repr(key.secret)]
    shown = {f"log {number}": record.getMessage() for number, record in enumerate(logged)}
    formatter = logging.Formatter()
    for number, record in enumerate(logged):
        shown[f"log {number}, formatted"] = formatter.format(record)
        shown[f"log {number}, arguments"] = repr(record.args)
    for number, item in enumerate(seen):
        shown[f"{type(item).__name__} {number}"] = f"{item!r}\n{item!s}"
        if isinstance(item, BaseException):
            lines = traceback.TracebackException.from_exception(item, capture_locals=False).format()
            shown[f"traceback {number}"] = "".join(lines)
            shown[f"attributes {number}"] = repr((item.args, vars(item)))
    assert {record.name.partition(".")[0] for record in logged} >= {"lazy_engine", "taskflow"}
    found = [where for where, text in shown.items() for secret in secrets if secret in text]
    assert not found, {where: shown[where][:500] for where in found[:5]}


def test_what_shows_a_token_would_be_found(caplog: pytest.LogCaptureFixture) -> None:
    """The search above can fail: a log line with a token is seen by it."""
    made_up = "lz1.key.name.signature"  # a real one would make any test fail that logs it
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("anywhere").debug("got %s", made_up)
    assert any(
        secret in record.getMessage()
        for secret in secrets_of([made_up])
        for record in caplog.records
    )
