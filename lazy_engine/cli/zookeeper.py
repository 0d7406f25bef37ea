# SPDX-License-Identifier: Apache-2.0
"""ZooKeeper clients for options of a job board's address that TaskFlow passes to none.

TaskFlow (6.5, ``utils/kazoo_utils.py``) passes ``use_ssl``, ``certfile``, ``keyfile``,
``keyfile_password`` and ``verify_certs`` on, but neither the certificate authority
nor anything to authenticate with.
"""

from __future__ import annotations

from typing import Any, Final

from kazoo import security
from oslo_utils import strutils
from taskflow.utils import kazoo_utils

from lazy_engine.cli.exit_code import UsageError

#: Options that are read here.
_AUTH: Final = "auth"
_CA: Final = "ca"
_CHECK_HOSTNAME: Final = "check_hostname"


def make_client(conf: dict[str, Any]) -> Any | None:
    """Return a client that is not connected, or ``None`` if TaskFlow can make it itself.

    :param conf: of the job board; the options that are read here are taken out.
    :raises UsageError: an option cannot be read.
    """
    auth, ca = conf.pop(_AUTH, None), conf.pop(_CA, None)
    checks_hostname = conf.pop(_CHECK_HOSTNAME, None)
    if auth is None and ca is None and checks_hostname is None:
        return None
    scheme, separator, credential = (auth or "").partition(":")
    if auth is not None and not (scheme and separator and credential):
        raise UsageError(
            "the job board's option 'auth' takes SCHEME:CREDENTIAL, digest:user:secret"
        )
    client = kazoo_utils.make_client(conf)
    client.ca = ca
    if checks_hostname is not None:
        client.check_hostname = strutils.bool_from_string(checks_hostname)
    if auth is not None:
        client.auth_data = {(scheme, credential)}
        # What nobody else may do with the nodes is the point of it.
        client.default_acl = security.CREATOR_ALL_ACL
    return client


def close_client(client: Any) -> None:
    """Stop a client and let go of its connection."""
    kazoo_utils.finalize_client(client)
