# SPDX-License-Identifier: Apache-2.0
"""The page itself: files that hold no data, and that everybody may have.

They are read once, when the app is made, and are all that can be asked for.
What the page shows it fetches itself, with the key that its user types in.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lazy_engine.http.answer import Refusal, Word

_KINDS: Final[Mapping[str, str]] = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_INDEX: Final = "index.html"
#: Stands in the page for the version of what it loads.
_VERSION_MARK: Final = b"VERSION"

#: Nothing but its own files and its own server; nobody frames it; no text is ever
#: taken for code, by whatever way it would come into the page.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
#: The page is asked for anew each time; what it loads has its version in the path.
_ASK_ALWAYS: Final = "no-cache"
_KEEP: Final = "public, max-age=31536000, immutable"


@dataclasses.dataclass(frozen=True)
class _File:
    content: bytes
    kind: str
    etag: str

    @classmethod
    def of(cls, name: str, content: bytes) -> _File:
        digest = hashlib.sha256(content).hexdigest()[:32]
        return cls(content, _KINDS[name.rpartition(".")[2]], f'"{digest}"')


def make_router() -> APIRouter:
    """Return what serves the page at ``/`` and its files below ``/page``; needs no key."""
    contents = _read()
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    version = digest.hexdigest()[:16]
    index = contents.pop(_INDEX).replace(_VERSION_MARK, version.encode())
    files = {name: _File.of(name, content) for name, content in contents.items()}
    page = _File.of(_INDEX, index)
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def show(request: Request) -> Response:
        return _give(request, page, _ASK_ALWAYS)

    @router.api_route("/page/{wanted}/{name}", methods=["GET", "HEAD"])
    async def load(request: Request, wanted: str, name: str) -> Response:
        if wanted != version or name not in files:
            raise Refusal(Word.NOT_FOUND, "there is nothing here")
        return _give(request, files[name], _KEEP)

    return router


def _read() -> dict[str, bytes]:
    folder = resources.files("lazy_engine.http") / "asset"
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.name.rpartition(".")[2] in _KINDS
    }


def _give(request: Request, file: _File, cache: str) -> Response:
    headers = {**_HEADERS, "Cache-Control": cache, "ETag": file.etag}
    known = [etag.strip() for etag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.kind, headers=headers)
