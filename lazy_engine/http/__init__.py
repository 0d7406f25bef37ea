# SPDX-License-Identifier: Apache-2.0
"""Answering delays over HTTP; needs the extra ``http``.

The only room that knows FastAPI and Starlette. :mod:`lazy_engine.http.server`
is the only module that knows uvicorn: whoever mounts the app somewhere else
needs none.
"""

try:
    from lazy_engine.http.app import make_app
except ImportError as error:
    if error.name is None or error.name.partition(".")[0] not in ("fastapi", "starlette"):
        raise
    raise ImportError(
        "lazy_engine.http needs FastAPI: pip install 'lazy_engine[http]'", name=error.name
    ) from error
from lazy_engine.http.limit import Limits
from lazy_engine.http.permission import Signature

__all__ = ["Limits", "Signature", "make_app"]
