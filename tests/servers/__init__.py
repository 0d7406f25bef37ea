# SPDX-License-Identifier: Apache-2.0
"""Real servers for tests: each on free ports of 127.0.0.1, in a directory of its own, gone when the tests are.

Every server is a context manager::

    with ZooKeeper(whitelist="srvr") as server:
        client = KazooClient(server.hosts)
"""

from tests.servers.chromium import Chromium
from tests.servers.etcd import Etcd
from tests.servers.mysql import MySQL
from tests.servers.postgresql import PostgreSQL
from tests.servers.process import Server, owned_pids
from tests.servers.redis import Redis
from tests.servers.zookeeper import Ensemble, ZooKeeper

__all__ = [
    "Chromium",
    "Ensemble",
    "Etcd",
    "MySQL",
    "PostgreSQL",
    "Redis",
    "Server",
    "ZooKeeper",
    "owned_pids",
]
