"""API keys: deny by default, whatever the path and the header."""

import asyncio

import pytest

from server.api_keys import ApiKeys
from server.auth import OPEN_PATHS, AuthMiddleware
from tests.server.asgi import Headers, Reply, call, echo

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
