# SPDX-License-Identifier: Apache-2.0
"""A scenario that is killed everywhere; see ``10_crash_everywhere.py``."""

import flows


def order_is_paid(site):
    """Do what the shop does. After a crash the shop does it all again."""
    client = site.client
    client.submit(
        flows.make_order,
        store={"order": "order 7", "amount": 120},
        flow_uuid=site.flow_uuid,
    )
    client.resume(site.flow_uuid)
    for delay in client.delays(flow_uuid=site.flow_uuid):
        token = client.token(delay.flow_uuid, delay.task_name)
        client.complete(token, {"method": "card"})
    assert client.resume(site.flow_uuid) == "SUCCESS"
