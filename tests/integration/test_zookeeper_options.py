# SPDX-License-Identifier: Apache-2.0
"""Options of a job board's address: authentication on a real ZooKeeper, TLS up to the client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from kazoo import exceptions as kazoo_exceptions
from kazoo.client import KazooClient

from lazy_engine.cli import main, zookeeper
from lazy_engine.cli.exit_code import ExitCode, UsageError
from lazy_engine.cli.output import Output
from lazy_engine.cli.session import Session, board_conf
from tests.servers import ZooKeeper


@contextlib.contextmanager
def kazoo(server: ZooKeeper, **options: Any) -> Iterator[KazooClient]:
    client = KazooClient(server.hosts, **options)
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()


def test_authenticated_board_is_for_nobody_else(
    sqlite_url: str, zookeeper: ZooKeeper, jobboard_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with kazoo(zookeeper) as anybody:
        anybody.ensure_path(jobboard_path)
    path = f"{jobboard_path}/board"
    board = f"zookeeper://{zookeeper.hosts}{path}?auth=digest:app:s3cret"
    shared = ("--persistence", sqlite_url, "--jobboard", board)
    factory = "tests.integration.wake_flows.one_wait"
    try:
        assert main([*shared, "submit", factory]) == ExitCode.DONE
        flow_uuid = capsys.readouterr().out.strip()
        assert main([*shared, "doctor", "--json"]) == ExitCode.DONE
        assert json.loads(capsys.readouterr().out)["doorbells"] == 1
        with kazoo(zookeeper) as anybody:
            for attempt in (
                lambda: anybody.get_children(path),
                lambda: anybody.create(f"{path}/job", b"{}"),
                lambda: anybody.delete(path, recursive=True),
            ):
                with pytest.raises(kazoo_exceptions.NoAuthError):
                    attempt()
        stranger = board.replace("s3cret", "wrong")
        code = main(["--persistence", sqlite_url, "--jobboard", stranger, "doctor"])
        told = capsys.readouterr()
        assert code == ExitCode.UNREACHABLE
        assert "wrong" not in told.err and "s3cret" not in told.err
        assert flow_uuid
    finally:
        with kazoo(zookeeper, auth_data=[("digest", "app:s3cret")]) as owner:
            owner.delete(path, recursive=True)
            for name in ("trash", "entities"):
                owner.delete(f"{jobboard_path}/.{name}", recursive=True)


def test_tls_options_reach_the_client() -> None:
    conf = board_conf(
        "zookeeper://one:2281,two:2281/app?use_ssl=true&ca=/etc/ca.pem&certfile=/etc/me.pem"
        "&keyfile=/etc/me.key&keyfile_password=pw&check_hostname=true"
    )
    client = zookeeper.make_client(conf)
    try:
        assert client is not None
        assert (client.use_ssl, client.verify_certs, client.check_hostname) == (True, True, True)
        assert client.ca == "/etc/ca.pem"
        assert (client.certfile, client.keyfile) == ("/etc/me.pem", "/etc/me.key")
        assert client.keyfile_password == "pw"
        assert client.default_acl is None
        assert "ca" not in conf
    finally:
        zookeeper.close_client(client)


def test_taskflow_makes_the_client_if_it_can() -> None:
    assert zookeeper.make_client(board_conf("zookeeper://one:2281/app?use_ssl=true")) is None


@pytest.mark.parametrize("auth", ["digest", "digest:", ":user:secret"])
def test_wrong_authentication_is_refused(auth: str) -> None:
    with pytest.raises(UsageError, match="auth"):
        zookeeper.make_client(board_conf(f"zookeeper://one/app?auth={auth}"))


def test_secrets_of_the_board_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    address = "zookeeper://one/app?auth=digest:app:s3%2Fcret&keyfile_password=hush"
    Session(None, address, output).close()
    output.error(f"cannot reach {address} with s3/cret, hush, app:s3/cret")
    told = capsys.readouterr().err
    for secret in ("s3%2Fcret", "s3/cret", "hush"):
        assert secret not in told
