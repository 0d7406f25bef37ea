# SPDX-License-Identifier: Apache-2.0
"""What is handed in wrong from outside: refused in clear words, the delay open, nothing changed."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import traceback
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import taskflow.engines
from taskflow import states, task
from taskflow.patterns import unordered_flow

import lazy_engine
from lazy_engine import Delay, Disposition
from lazy_engine.outcome import Failed, Result
from lazy_engine.token import Key, sign, verify
from tests.integration.parked import World, make_flow, refused

# -- tokens ----------------------------------------------------------------


def with_another_attempt(world: World) -> str:
    """Return a token for the next attempt, with the signature of this one."""
    key = world.ledger.signing_key()
    later = sign(dataclasses.replace(verify(world.token, key), attempt=2), key)
    return later.rpartition(".")[0] + "." + world.token.rpartition(".")[2]


def forged(world: World) -> str:
    """Return a token signed with the right key's name and a guessed secret."""
    name = verify(world.token, world.ledger.signing_key())
    return sign(name, Key(key_id=world.token.split(".")[1], secret=b"guess" * 8))


def foreign(world: World) -> str:
    name = verify(world.token, world.ledger.signing_key())
    return sign(name, Key(key_id="elsewhere", secret=b"x" * 32))


BAD_TOKENS: dict[str, tuple[Callable[[World], Any], str]] = {
    "empty": (lambda world: "", "does not look like"),
    "nonsense": (lambda world: "hello", "does not look like"),
    "truncated": (lambda world: world.token[:-5], "cut off"),
    "one character short": (lambda world: world.token[:-1], "cut off"),
    "beheaded": (lambda world: world.token[4:], "does not look like"),
    "doubled": (lambda world: world.token + world.token, "does not look like"),
    "altered": (with_another_attempt, "altered"),
    "forged": (forged, "signature"),
    "foreign": (foreign, "another deployment"),
    "not ASCII": (lambda world: world.token + "é", "does not look like"),
    "huge": (lambda world: world.token * 100, "does not look like"),
    "bytes": (lambda world: world.token.encode(), "does not look like"),
    "nothing": (lambda world: None, "does not look like"),
}


def test_bad_token_is_refused_and_changes_nothing(world: World) -> None:
    for make, why in BAD_TOKENS.values():
        text = make(world)
        with refused(world, lazy_engine.InvalidToken, match=f"{why}.*nothing was recorded: "):
            world.client.complete(text, "stolen")
        with refused(world, lazy_engine.InvalidToken, match=why):
            world.client.fail(text, "stolen")
        (answer,) = world.client.deliver_many([(text, Result("stolen"))])
        assert isinstance(answer, lazy_engine.InvalidToken)
    world.assert_goes_on()


def test_token_of_a_flow_that_never_got_here_is_unknown(world: World) -> None:
    name = verify(world.token, world.ledger.signing_key())
    elsewhere = str(uuid.uuid4())
    stranger = sign(dataclasses.replace(name, flow_uuid=elsewhere), world.ledger.signing_key())
    with refused(world, lazy_engine.UnknownDelay, match=elsewhere):
        world.client.complete(stranger, 1)


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_token_of_a_purged_flow_is_unknown(world: World) -> None:
    world.assert_goes_on()
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
    assert world.client.purge(finished_before_at=soon) == 1
    with pytest.raises(lazy_engine.UnknownDelay, match="purged"):
        world.client.complete(world.token, 1)
    with pytest.raises(lazy_engine.UnknownFlow):
        world.client.flow(world.flow_uuid)
    with pytest.raises(lazy_engine.UnknownFlow):
        world.client.resume(world.flow_uuid)


def test_one_bad_item_does_not_touch_the_others(json_world: World) -> None:
    world = json_world
    items = [
        ("garbage", Result(1)),
        (world.token, Result({1})),
        (world.token, "no outcome"),
        (world.token, Result("x" * (world.ledger.max_outcome_bytes + 1))),
        (world.token, Result("good")),
        (world.token, Failed("bad")),
    ]
    answers = world.client.deliver_many(items)  # type: ignore[arg-type]  # one is wrong on purpose
    assert [type(answer) for answer in answers[:4]] == [
        lazy_engine.InvalidToken,
        lazy_engine.OutcomeNotStorable,
        lazy_engine.OutcomeNotStorable,
        lazy_engine.OutcomeTooLarge,
    ]
    assert [answer.disposition for answer in answers[4:]] == [  # type: ignore[union-attr]
        Disposition.ACCEPTED,
        Disposition.CONFLICT,
    ]


def test_tokens_are_not_issued_for_what_does_not_wait(world: World) -> None:
    for name in ("echo", "nobody"):
        with refused(world, lazy_engine.UnknownDelay, match=f"'{name}' of flow {world.flow_uuid}"):
            world.client.token(world.flow_uuid, name)
    with refused(world, lazy_engine.UnknownFlow):
        world.client.token(str(uuid.uuid4()), "waits")


# -- outcomes --------------------------------------------------------------


NOT_JSON: dict[str, Any] = {
    "result is nan": math.nan,
    r"result\[0\] is inf": [math.inf],
    "result is a set": {1, 2},
    "result is a bytes": b"x",
    "result is a object": object(),
    "the key 1": {1: "one"},
    r"result\.a has the key": {"a": {("t",): 1}},
    "result is a complex": 1j,
}


def test_result_that_is_not_json_is_refused_where_json_is_needed(json_world: World) -> None:
    world = json_world
    for why, value in NOT_JSON.items():
        with refused(world, lazy_engine.OutcomeNotStorable, match=why) as caught:
            world.client.complete(world.token, value)
        assert world.flow_uuid in str(caught.value)
        assert caught.value.flow_uuid == world.flow_uuid
        with refused(world, lazy_engine.OutcomeNotStorable):
            world.client.fail(world.token, "x", details=value)
    world.assert_goes_on()


def test_outcome_over_the_limit_is_refused(world: World) -> None:
    limit = world.ledger.max_outcome_bytes
    with refused(world, lazy_engine.OutcomeTooLarge, match=rf"{limit + 1}.*{limit}.*reference"):
        world.client.complete(world.token, "x" * (limit - 1))
    with refused(world, lazy_engine.OutcomeTooLarge, match=world.flow_uuid):
        world.client.fail(world.token, "x" * limit)
    world.assert_goes_on("x" * (limit - 2))


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_failure_that_is_none_is_refused(world: World) -> None:
    wrong: Any
    for wrong in (None, 5, ["message"], KeyboardInterrupt()):
        with refused(world, TypeError, match="an error must be"):
            world.client.fail(world.token, wrong)
    for wrong in ("", "k" * 256, 5):
        with refused(world, lazy_engine.OutcomeNotStorable, match="kind of a failure"):
            world.client.fail(world.token, "x", kind=wrong)


ODD_TEXTS = ("\x00", "a\x00b", "\ud800", "\U0001f600", "'; DROP TABLE lazy_flows; --", "%s %(x)s")
ODD_NUMBERS = (2**63, -(2**70), 1e308, 5e-324, 0.1, -0.0)


def test_odd_values_pass_through_every_store(world: World) -> None:
    texts = {text: [text] for text in ODD_TEXTS}
    world.assert_goes_on({"texts": texts, "numbers": list(ODD_NUMBERS)})


def test_odd_text_passes_through_every_store_as_a_failure(world: World) -> None:
    text = "".join(ODD_TEXTS)
    world.client.fail(world.token, text, kind="Odd", details=text)
    assert world.client.resume(world.flow_uuid) == states.REVERTED


# -- names, pages and instants ---------------------------------------------


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_flow_that_is_not_there_is_unknown(world: World) -> None:
    stranger = str(uuid.uuid4())
    for call in (
        world.client.flow,
        world.client.resume,
        world.client.suspend,
        lambda found: world.client.wait(found, timeout_seconds=0),
    ):
        with refused(world, lazy_engine.UnknownFlow, match=stranger) as caught:
            call(stranger)
        assert caught.value.flow_uuid == stranger


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_question_that_cannot_be_answered_is_refused(world: World) -> None:
    for limit in (0, -1, 1001):
        with refused(world, ValueError, match="limit must be between"):
            world.client.delays(limit=limit)
    for place in ("nonsense", "é", "e30=", "W10=", "WzEsMl0="):
        with refused(world, ValueError, match="place"):
            world.client.delays(after=place)
    with refused(world, ValueError, match="timezone"):
        world.client.purge(finished_before_at=datetime.datetime(2030, 1, 1))


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_what_is_not_json_is_not_submitted(world: World) -> None:
    not_json: Any
    for not_json in ({"store": {"x": {1}}}, {"args": [object()]}, {"kwargs": {"a": math.nan}}):
        (what,) = not_json
        with refused(world, lazy_engine.OutcomeNotStorable, match=rf"^{what}"):
            world.client.submit(make_flow, **not_json)


# -- secrets ---------------------------------------------------------------


class Asks(task.Task):
    """Makes a delay, shows it in every way there is, and does with it what it was told."""

    def __init__(self, name: str, delays: list[Delay], shown: list[str], *, fails: bool) -> None:
        super().__init__(name)
        self._delays, self._shown, self._fails = delays, shown, fails

    def execute(self) -> Delay:
        delay = Delay(details={"no": "secret"})
        self._delays.append(delay)
        self._shown += [repr(delay), str(delay), f"{delay}", f"{delay!r}", repr(delay._attempt)]
        if not self._fails:
            return delay
        try:
            raise delay
        except Delay:
            self._shown.append(traceback.format_exc())
            raise ValueError("after it") from None


def test_token_is_in_no_repr_text_log_or_traceback(
    json_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world = json_world
    caplog.set_level(logging.DEBUG)
    delays: list[Delay] = []
    shown: list[str] = []
    flow = unordered_flow.Flow("flow").add(
        Asks("one", delays, shown, fails=False), Asks("other", delays, shown, fails=True)
    )
    engine = taskflow.engines.load(flow, engine="lazy", backend=world.backend)
    with pytest.raises(ValueError, match="after it") as caught:
        engine.run()
    shown.append("".join(traceback.format_exception(caught.value)))
    tokens = [world.token, *(delay.token for delay in delays)]
    assert len(set(tokens)) == 3
    for text in (*tokens, world.token + "x", world.token[:-1]):
        for call in (world.client.complete, world.client.fail):
            try:
                shown.append(repr(call(text, "x")))
            except lazy_engine.LazyEngineError as error:
                shown.append("".join(traceback.format_exception(error)))
                shown.append(repr(vars(error)))
    shown.append(repr(world.client.flow(world.flow_uuid)))
    shown += [repr(world.client.delays()), str(world.ledger.delays_of(world.flow_uuid))]
    shown.append(caplog.text)
    shown.extend(str(record.__dict__) for record in caplog.records)
    everything = "\n".join(shown)
    assert "after it" in everything
    for text in tokens:
        assert text.rpartition(".")[2] not in everything
    assert world.ledger.signing_key().secret.hex() not in everything


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_database_errors_show_no_parameters(world: World) -> None:
    def execute(statement: str) -> None:
        world.ledger._transactor.write(lambda c: c.exec_driver_sql(statement))

    answer = "-".join(("a", "secret", "answer"))  # not as one text in this very source line
    execute("ALTER TABLE lazy_delays RENAME TO elsewhere")
    with pytest.raises(lazy_engine.StoreUnavailable, match="no such table: lazy_delays") as caught:
        world.client.complete(world.token, answer)
    text = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert answer not in text
    execute("ALTER TABLE elsewhere RENAME TO lazy_delays")
    world.assert_goes_on()
