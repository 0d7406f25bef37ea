# SPDX-License-Identifier: Apache-2.0
"""An ensemble of three that takes nobody without a certificate, and a board on it that takes nobody without a password."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from taskflow.jobs.backends import impl_zookeeper

from lazy_engine import Client, cli
from lazy_engine.cli import ExitCode
from lazy_engine.cli.output import Output
from lazy_engine.cli.session import Session
from tests.integration.parked import make_flow
from tests.integration.test_conductor import parked, running
from tests.servers import Ensemble
from tests.servers.process import free_port, missing
from tests.waiting import wait_until

# Kazoo (2.11) closes no socket whose TLS handshake has failed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def openssl(directory: pathlib.Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)


def make_certificates(directory: pathlib.Path) -> None:
    """Make ``ca.pem``, another authority's ``other.pem``, and ``server.pem``, ``client.pem`` and ``stranger.pem`` with keys in them."""
    for name in ("ca", "other"):
        subject = ["-subj", f"/CN={name}", "-days", "2", "-nodes", *_NEW_KEY]
        openssl(
            directory, "req", "-x509", *subject, "-keyout", f"{name}.key", "-out", f"{name}.pem"
        )
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client", "stranger"):
        request = ["req", "-subj", f"/CN={name}", "-nodes", *_NEW_KEY]
        openssl(directory, *request, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ["x509", "-req", "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key"]
        sign += ["-CAcreateserial", "-extfile", "names"]
        openssl(directory, *sign, "-in", f"{name}.csr", "-out", f"{name}.crt")
        text = (directory / f"{name}.key").read_text() + (directory / f"{name}.crt").read_text()
        (directory / f"{name}.pem").write_text(text)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    if shutil.which("openssl") is None:
        missing("openssl is not installed: apt-get install openssl")
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    return directory


@pytest.fixture(scope="module")
def ensemble(certificates: pathlib.Path) -> Iterator[tuple[Ensemble, str]]:
    """Three servers, and the addresses at which they speak TLS."""
    made = Ensemble(3, force_sync=False)
    ports = []
    for member in made.members:
        ports.append(free_port())
        member.configure(
            {
                "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
                "secureClientPort": ports[-1],
                "secureClientPortAddress": "127.0.0.1",
                "ssl.clientAuth": "need",
                "ssl.keyStore.location": certificates / "server.pem",
                "ssl.trustStore.location": certificates / "ca.pem",
            }
        )
    with made:
        yield made, ",".join(f"127.0.0.1:{port}" for port in ports)


@pytest.fixture
def address(ensemble: tuple[Ensemble, str], certificates: pathlib.Path) -> str:
    options = {
        "use_ssl": "true",
        "check_hostname": "true",
        "ca": certificates / "ca.pem",
        "certfile": certificates / "client.pem",
        "keyfile": certificates / "client.key",
        "auth": "digest:app:s3cret",
    }
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"zookeeper://{ensemble[1]}/app?{query}"


@contextlib.contextmanager
def open_session(sqlite_url: str, address: str) -> Iterator[tuple[Any, Any]]:
    session = Session(sqlite_url, address, Output())
    try:
        backend = session.open_store(may_create=True)
        yield backend, session.open_board(backend)
    finally:
        session.close()


def test_board_goes_on_over_tls_with_authentication_when_the_leader_is_lost(
    ensemble: tuple[Ensemble, str], address: str, sqlite_url: str
) -> None:
    servers, _ = ensemble
    with (
        open_session(sqlite_url, address) as (backend, board),
        running("lazy", board, backend),
    ):
        client = Client(backend, board)
        (flow_uuid,) = parked(client)
        leader = servers.leader
        assert leader is not None
        leader.kill()
        try:
            wait_until(lambda: servers.leader is not None, timeout_seconds=20)
            # Twice, if its doorbell went while there was no leader: a duplicate rings.
            token = client.token(flow_uuid, "ask")
            wait_until(lambda: client.complete(token, 42).woken, timeout_seconds=20)
            assert client.wait(flow_uuid, timeout_seconds=20) == "SUCCESS"
        finally:
            leader.start()


@pytest.mark.parametrize(
    "wrong",
    [
        # A certificate is as good as a password to ZooKeeper: nodes belong to whoever made them,
        # under each of his names.
        {"digest:app:s3cret": "digest:app:guessed", "/client.": "/stranger."},
        {"/ca.pem": "/other.pem"},
        {"certfile=": "randomize_hosts="},  # in its place one that changes nothing
        {"use_ssl=true": "use_ssl=false"},
    ],
    ids=lambda wrong: next(iter(wrong.values())),
)
def test_whoever_has_not_all_of_it_stays_outside(
    address: str,
    sqlite_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, str],
) -> None:
    with open_session(sqlite_url, address) as (backend, board):
        Client(backend, board).submit(make_flow)
        stranger = address
        for right, other in wrong.items():
            assert right in stranger
            stranger = stranger.replace(right, other)
        # TaskFlow would try for ten seconds.
        connect = impl_zookeeper.ZookeeperJobBoard.connect.__wrapped__
        monkeypatch.setattr(connect, "__defaults__", (2.0,))
        words = ["doctor", "--persistence", sqlite_url, "--jobboard", stranger]
        assert cli.main(words) == ExitCode.UNREACHABLE
        told = capsys.readouterr().err
        assert "s3cret" not in told and "guessed" not in told
