"""Who a request is addressed to: one Host, a known one; browsers of other sites get nothing."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from server.errors import SettingsError
from server.host_check import HostMiddleware
from server.settings import load_settings
from tests.server.asgi import call, echo
from tests.server.played import Played

Make = Callable[..., Played]


def status(*hosts: bytes, allowed: tuple[str, ...] = (), path: str = "/v1/models") -> int:
    headers = [(b"host", host) for host in hosts]
    reply = asyncio.run(call(HostMiddleware(echo, allowed), path, headers))
    if reply.status != 200:
        assert (reply.status, reply.error["code"]) == (400, "invalid_host")
        assert len(reply.body) < 300
    return reply.status


GOOD = [
    b"a",
    b"a.b:80",
    b"A.B",
    b"127.0.0.1:8000",
    b"[::1]",
    b"[::1]:8000",
    b"a_b",
    b"xn--a-b.example",
    b"a:",
]
BAD = [
    b"",
    b" ",
    b"a b",
    b"a/?x=",
    b"a@b",
    b"a\x00",
    b"a,b",
    b"a#",
    b"a?x",
    b"a\\b",
    b"http://a",
    b"a:80:80",
    b"a:x",
]
BAD += [
    b"[::1",
    b"::1",
    b"[]",
    b"%61",
    b"a\xff",
    b"-a",
    b".a",
    b"a:123456",
    b"[::1]a",
    b"a\n",
    b"x" * 100_000 + b"/",
]


@pytest.mark.parametrize("host", GOOD)
def test_any_well_formed_host_is_fine_by_default(host: bytes) -> None:
    assert status(host) == 200


@pytest.mark.parametrize("host", BAD, ids=lambda host: repr(host[:20]))
def test_a_malformed_host_never_is(host: bytes) -> None:
    assert status(host) == 400
    assert status(host, allowed=("a", "*.a")) == 400


def test_there_must_be_one() -> None:
    assert status() == 400
    assert status(b"a", b"a") == 400
    assert status(b"a", b"b", allowed=("a", "b")) == 400


@pytest.mark.parametrize(
    ("allowed", "good", "bad"),
    [
        ("api.example.com", [b"api.example.com", b"API.Example.COM:8000"], [b"example.com", b"xapi.example.com"]),
        ("*.ex.com", [b"a.ex.com", b"a.B.ex.com:1"], [b"ex.com", b"xex.com", b"a.ex.com.x"]),
        ("[::1]", [b"[::1]", b"[::1]:80"], [b"[::2]", b"127.0.0.1"]),
        ("127.0.0.1", [b"127.0.0.1:9"], [b"127.0.0.1.evil", b"evil", b"1.127.0.0.1"]),
    ],
)  # fmt: skip
def test_with_a_list_only_what_is_on_it(allowed: str, good: list[bytes], bad: list[bytes]) -> None:
    [host] = load_settings({"model": "m", "allowed_hosts": [allowed]}).allowed_hosts
    assert [status(one, allowed=(host,)) for one in good] == [200] * len(good)
    assert [status(one, allowed=(host,)) for one in bad] == [400] * len(bad)


def test_probes_come_with_any_host_or_none() -> None:
    for path in ("/health", "/ready"):
        assert status(path=path, allowed=("a",)) == status(b"10.0.0.7:8000", path=path, allowed=("a",)) == 200
        assert status(b"10.0.0.7:8000", path=path + "/", allowed=("a",)) == 400


def test_hosts_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPSERVE_ALLOWED_HOSTS", "API.example.com, *.example.org")
    assert load_settings({"model": "m"}).allowed_hosts == ("api.example.com", "*.example.org")


@pytest.mark.parametrize("host", ["", "a:80", "http://a", "a/b", "*", "*a", "a.*.b", "::1", "a b"])
def test_what_is_no_host_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(SettingsError, match="--allowed-host: must be names or addresses without port"):
        load_settings({"model": "m", "allowed_hosts": [host]})


def test_the_refusal_comes_through_the_application_in_the_shape_of_the_path(played: Make) -> None:
    server = played(settings={"allowed_hosts": ("api.example.com",)})
    body = {"prompt": "a"}
    evil = server.ask("/v1/completions", body, headers={"host": "evil.example"})
    assert (evil.status_code, evil.json()["error"]["code"]) == (400, "invalid_host")
    assert "x-request-id" in evil.headers
    fine = server.ask("/v1/completions", body, headers={"host": "api.example.com:8000"})
    assert fine.status_code == 200
    other = server.ask("/v1/messages", body, headers={"host": "evil.example"})
    assert (other.status_code, other.json()["type"]) == (400, "error")
    assert server.ask("/health", method="GET", headers={"host": "10.0.0.1"}).status_code == 200


def cors_headers(response: httpx.Response) -> list[str]:
    return [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/v1/models", "/metrics", "/health"]
)
def test_no_other_site_is_let_in(played: Make, path: str) -> None:
    server = played()
    origin = {"Origin": "https://evil.example"}
    preflight = server.ask(
        path,
        method="OPTIONS",
        headers={**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"},
    )  # fmt: skip
    assert preflight.status_code == 405
    assert cors_headers(preflight) == []
    for method in ("GET", "POST"):
        assert cors_headers(server.ask(path, {"prompt": "a"}, method=method, headers=origin)) == []


def test_what_a_page_may_send_without_asking_is_refused_everywhere(played: Make) -> None:
    """A form or a simple request has one of three content types; no route that takes a body takes those."""
    server = played()
    paths = [
        path
        for path, methods in server.ask("/openapi.json", method="GET").json()["paths"].items()
        if "post" in methods
    ]
    assert len(paths) >= 8
    for path in paths:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            answer = server.ask(path, content=b'{"prompt": "a"}', headers={"content-type": kind})
            assert answer.status_code == 415, path
