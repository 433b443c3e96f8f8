"""The page at ``/``: a playground and live panels. Static files, read once, under a strict content security policy.

The files hold no secret, so they are open without an API key: they have to be there before the browser can ask for one.
Everything that the page shows it gets from the API, with the key that its user types.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from server.error_catalogue import NOT_FOUND
from server.openai.errors import ApiError

DIRECTORY = Path(__file__).resolve().parent / "page"
INDEX = "index.html"
PREFIX = "/page/"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # What a model writes can't become markup even by mistake: browsers that know this refuse `innerHTML`.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, so that no two versions are mixed; mostly a 304
}


@dataclass(frozen=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    media_type: str
    etag: str


def load_page(directory: Path = DIRECTORY) -> dict[str, PageFile]:
    """The page's files by the path at which they are served."""
    files = sorted(path for path in directory.iterdir() if path.suffix in MEDIA_TYPES)
    return {"/" if path.name == INDEX else PREFIX + path.name: _load(path) for path in files}


def _load(path: Path) -> PageFile:
    content = path.read_bytes()
    etag = hashlib.blake2b(content, digest_size=16).hexdigest()
    return PageFile(content, MEDIA_TYPES[path.suffix], f'"{etag}"')


def page_router(files: Mapping[str, PageFile]) -> APIRouter:
    """Routes for the files of `load_page`; they are no part of the API's description."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    @router.api_route(PREFIX + "{name}", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        file = files.get(request.scope["path"])
        if file is None:
            raise ApiError.of(NOT_FOUND, headers=HEADERS)
        return _answer(request, file)

    return router


def _answer(request: Request, file: PageFile) -> Response:
    headers = {**HEADERS, "ETag": file.etag}
    if _has(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(len(file.content))
    body = b"" if request.method == "HEAD" else file.content
    return Response(body, headers=headers, media_type=file.media_type)


def _has(if_none_match: str, etag: str) -> bool:
    """Whether the browser's copy is the same; a proxy that compresses may have made the tag a weak one."""
    return any(tag.strip().removeprefix("W/") == etag for tag in if_none_match.split(","))
