# SPDX-License-Identifier: Apache-2.0
"""How to test a flow that parks: in memory, without servers, and without waiting.

Run it in this directory with ``python -m pytest test_order.py``.
"""

import flows
import pytest
import taskflow.engines

from lazy_engine import Client, DelayFailed, DelayTimeout

ORDER = {"order": "order 7", "amount": 120}


@pytest.fixture
def engine():
    return taskflow.engines.load(flows.make_order(), store=ORDER, engine="lazy")


@pytest.fixture
def client(engine):
    return Client(engine.storage.backend)


def answer(client, result):
    """Answer the only delay that is open."""
    (delay,) = client.delays()
    return client.complete(client.token(delay.flow_uuid, delay.task_name), result)


def test_order_waits_for_its_payment(engine, client):
    assert engine.run() == "DELAYED"
    (delay,) = client.delays()
    assert (delay.task_name, delay.details) == ("payment", ORDER)


def test_paid_order_is_shipped(engine, client):
    engine.run()
    assert answer(client, {"method": "card"}).disposition.name == "ACCEPTED"
    assert engine.run() == "SUCCESS"
    assert engine.storage.fetch("parcel") == "parcel of order 7"


def test_order_that_is_not_paid_is_not_shipped(engine, client):
    engine.run()
    (delay,) = client.delays()
    client.fail(client.token(delay.flow_uuid, "payment"), "no money", kind="NoMoney")
    with pytest.raises(DelayFailed, match="no money"):
        engine.run()
    assert client.flow(delay.flow_uuid).tasks == {"payment": "REVERTED", "shipping": "PENDING"}


def test_order_that_nobody_pays_for_is_given_up():
    # An option of the engine's makes deadlines short where tasks name none.
    engine = taskflow.engines.load(
        flows.make_order(), store=ORDER, engine="lazy", default_timeout_seconds=0.01
    )
    client = Client(engine.storage.backend)
    engine.run()
    while not client.sweep():  # a watchdog's round: is anything due?
        pass
    with pytest.raises(DelayTimeout):
        engine.run()
