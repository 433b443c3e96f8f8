"""API keys: deny by default, whatever the path and the header."""

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI

from server.api_keys import ApiKeys
from server.app import create_app
from server.auth import OPEN_PATHS, AuthMiddleware
from server.metrics import ServerMetrics
from server.state import AppState
from tests.server.asgi import Headers, Reply, call, echo
from tests.server.played import Played

Make = Callable[..., Played]

KEYS = ("first-key", "sécond", "third")


def ask(path: str, headers: Headers) -> Reply:
    return asyncio.run(call(AuthMiddleware(echo, ApiKeys(KEYS)), path, headers))


def bearer(key: bytes, scheme: bytes = b"Bearer ") -> Headers:
    return [(b"authorization", scheme + key)]


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens_by_either_header(key: str) -> None:
    assert ask("/v1/models", bearer(key.encode())).status == 200
    assert ask("/v1/models", bearer(key.encode(), b"bEARER  ")).status == 200
    assert ask("/v1/models", [(b"x-api-key", key.encode())]).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer(b""),
        bearer(b"wrong"),
        bearer(b"first-ke"),
        bearer(b"first-keyy"),
        bearer(b"first-key\x00"),
        bearer(b"FIRST-KEY"),
        bearer(b"first-key", b"Basic "),
        bearer(b"first-key", b""),
        bearer(b"\xff" * 10),
        bearer(b"x" * 1_000_000),
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"wrong")],
        [*bearer(b"first-key"), *bearer(b"wrong")],
        [*bearer(b"wrong"), (b"x-api-key", b"third")],
        [(b"cookie", b"first-key")],
    ],
)
def test_anything_else_is_401_in_openai_shape(headers: Headers) -> None:
    reply = ask("/v1/models", headers)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.error["code"] == "invalid_api_key"
    assert len(reply.body) < 1000, "nothing of the request is echoed"


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v1/completions", "/metrics", "/version", "/tokenize", "/docs", "/nowhere", ""),
        *("/health/", "//health", "/Health", "/health/../v1/models", "/v1/models?/health", "/ready;x"),
        *("/health%2f", "/./health", "health", "/health\x00", "@/health"),
    ],
)
def test_every_path_but_the_probes_needs_a_key(path: str) -> None:
    assert ask(path, []).status == 401


def test_probes_are_open() -> None:
    assert {path: ask(path, []).status for path in OPEN_PATHS} == {"/health": 200, "/ready": 200}


def test_without_any_key_nothing_opens() -> None:
    assert asyncio.run(call(AuthMiddleware(echo, ApiKeys(())), "/v1/models", bearer(b""))).status == 401


def test_websockets_are_refused() -> None:
    sent = []

    async def main() -> None:
        async def send(message: dict[str, object]) -> None:
            sent.append(message["type"])

        scope = {"type": "websocket", "path": "/health", "headers": bearer(b"first-key")}
        await AuthMiddleware(echo, ApiKeys(KEYS))(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(main())
    assert sent
    assert "websocket.accept" not in sent


def test_two_known_keys_at_once_are_nobody() -> None:
    assert ask("/v1/models", [*bearer(b"first-key"), (b"x-api-key", b"third")]).status == 401
    assert ask("/v1/models", [*bearer(b"third"), (b"x-api-key", b"third")]).status == 200


class Guarded:
    """The whole application behind keys."""

    def __init__(self, state: AppState, keys: ApiKeys) -> None:
        self.app = create_app(replace(state, metrics=ServerMetrics("0")), keys)

    async def status(
        self, path: str, method: str = "POST", headers: Headers | None = None, host: bytes = b"x"
    ) -> int:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", host), (b"content-type", b"application/json"), *(headers or [])],
            "asgi": {"version": "3.0"},
        }
        statuses: list[int] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"{}"}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])  # type: ignore[arg-type]

        await self.app(scope, receive, send)  # type: ignore[arg-type]
        return statuses[0]


def guarded(played: Make, work: Callable[[Guarded], Awaitable[None]], keys: ApiKeys | None = None) -> None:
    async def main(_: FastAPI, state: AppState) -> None:
        await work(Guarded(state, keys or ApiKeys(KEYS)))

    played().run(main)


BAD_CREDENTIALS: dict[str, Headers] = {
    "none": [],
    "wrong": bearer(b"wrong"),
    "empty": bearer(b""),
    "no scheme": [(b"authorization", b"first-key")],
    "basic": [(b"authorization", b"Basic " + b64encode(b"user:first-key"))],
    "two": [*bearer(b"first-key"), *bearer(b"wrong")],
    "NUL behind": bearer(b"first-key\x00"),
    "other case": bearer(b"First-Key"),
    "long": bearer(b"x" * 15_000),
    "not ASCII": bearer("sécond".encode("latin-1")),
    "cookie": [(b"cookie", b"api_key=first-key")],
    "other header": [(b"api-key", b"first-key"), (b"proxy-authorization", b"Bearer first-key")],
}


def test_every_route_refuses_every_bad_credential(played: Make) -> None:
    """Whatever route is added later is in here by itself."""

    async def work(server: Guarded) -> None:
        routes = [(path, methods) for path, methods in routes_of(server.app) if path not in OPEN_PATHS]
        assert len(routes) >= 12
        for path, methods in routes:
            for method in [*methods, "OPTIONS", "HEAD", "DELETE"]:
                for name, headers in BAD_CREDENTIALS.items():
                    assert await server.status(path, method, headers) == 401, (method, path, name)
                assert await server.status(path, method, bearer(b"third")) != 401, (method, path)

    guarded(played, work)


def routes_of(app: FastAPI) -> list[tuple[str, list[str]]]:
    paths = app.openapi()["paths"]
    routes = [(path, [method.upper() for method in methods]) for path, methods in paths.items()]
    return [*routes, ("/openapi.json", ["GET"])]


def test_the_document_lists_every_route(played: Make) -> None:
    """So that the test above misses none."""

    async def work(server: Guarded) -> None:
        listed = {path for path, _ in routes_of(server.app)}
        page = {"/", "/page/{name}"}  # tests/server/test_page.py
        assert {route.path_format for route in flat(server.app.routes)} - page == listed

    guarded(played, work)


def flat(routes: Iterable[Any]) -> Iterator[Any]:
    """Routes, and those of included routers, of which FastAPI makes one entry each."""
    for route in routes:
        router = getattr(route, "original_router", None)
        yield from [route] if router is None else flat(router.routes)


@pytest.mark.parametrize(
    ("path", "headers", "host"),
    [
        *((path, [], b"x") for path in ("/V1/models", "//v1/models", "/v1%2fmodels", "/v1/models;x", "/./v1/models")),
        *((path, [], b"x") for path in ("/health/../v1/models", "/health/v1/models", "http://x/health", "*", "@x")),
        ("/v1/models", [(b"x-forwarded-prefix", b"/health")], b"x"),
        ("/v1/models", [(b"x-original-url", b"/health"), (b"x-rewrite-url", b"/health")], b"x"),
        ("/v1/models", [(b"x-forwarded-for", b"127.0.0.1"), (b"forwarded", b"for=127.0.0.1")], b"x"),
        ("/v1/models", [], b"127.0.0.1"),
    ],
)  # fmt: skip
def test_no_trick_with_the_address_opens(played: Make, path: str, headers: Headers, host: bytes) -> None:
    async def work(server: Guarded) -> None:
        for method in ("GET", "POST"):
            assert await server.status(path, method, headers, host) == 401

    guarded(played, work)


@pytest.mark.parametrize("host", [b"x/health?", b"x/?x=", b"a@b", b"/health", b"", b"x#"])
def test_a_strange_host_is_refused_before_anything(played: Make, host: bytes) -> None:
    async def work(server: Guarded) -> None:
        assert await server.status("/v1/models", "GET", [], host) == 400
        assert await server.status("/v1/models", "GET", bearer(b"third"), host) == 400

    guarded(played, work)


@pytest.mark.parametrize(
    "path",
    ["/docs", "/redoc", "/docs/oauth2-redirect", "/debug", "/pause", "/abort", "/update_weights", "/flush_cache",
     "/start_profile", "/server_info", "/pprof", "/debug/pprof", "/shutdown", "/v1/load_lora_adapter"],
)  # fmt: skip
def test_what_other_servers_leave_open_is_not_there(played: Make, path: str) -> None:
    async def work(server: Guarded) -> None:
        for method in ("GET", "POST"):
            assert await server.status(path, method, []) == 401
            assert await server.status(path, method, bearer(b"third")) == 404

    guarded(played, work)


def test_keys_can_be_replaced_under_a_running_application(played: Make) -> None:
    keys = ApiKeys(["old", "both"])

    async def work(server: Guarded) -> None:
        keys.replace(["both", "new"])
        answers = [await server.status("/v1/models", "GET", bearer(key)) for key in (b"old", b"both", b"new")]
        assert answers == [401, 200, 200]

    guarded(played, work, keys)
