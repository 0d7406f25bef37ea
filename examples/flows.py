# SPDX-License-Identifier: Apache-2.0
"""Flow factories that any process can import by name, as ``flows.make_order``."""

from taskflow import task
from taskflow.patterns import linear_flow

from lazy_engine import Delay


class AskForPayment(task.Task):
    default_provides = "payment"

    def execute(self, order, amount):
        delay = Delay(details={"order": order, "amount": amount})
        print(f"  payment service: please collect {amount} for {order}")
        # A real task calls the payment service here. It hands over
        # delay.token, for the answer, and delay.id, as idempotency key.
        return delay


class Ship(task.Task):
    default_provides = "parcel"

    def execute(self, order, payment):
        print(f"  warehouse: ship {order}, paid by {payment['method']}")
        return f"parcel of {order}"


def make_order():
    """Return a flow that needs the values ``order`` and ``amount``."""
    return linear_flow.Flow("order").add(AskForPayment("payment"), Ship("shipping"))
