"""Broken JSON, broken HTTP."""

import json
import os
import zlib
from collections.abc import Iterable, Iterator

from tools.attack.case import (
    ANY,
    BAD,
    BOTH,
    COMPLETIONS,
    EITHER,
    REFUSED,
    TOO_LARGE,
    Case,
    Raw,
    Row,
    body,
    crossed,
    once,
    posted,
    wire,
)
from tools.attack.target import Target, head
from tools.attack.wire import Exchange, Manners, Piece

OWN_POSTS = ("/v1/responses", "/v1/messages", "/v1/fim/completions", "/infill", "/tokenize", "/detokenize")
UNSUPPORTED = frozenset({400, 415})
HEADERS_TOO_LARGE = frozenset({400, 413, 431})
NO_SUCH_PATH = frozenset({400, 404, 414})
MEBIBYTE = 1 << 20


def _posts(target: Target) -> tuple[str, ...]:
    return (*BOTH, *OWN_POSTS) if target.ours else BOTH


def _large(target: Target, megabytes: int, *, chunked: bool) -> Iterable[Piece]:
    size = f"{megabytes * MEBIBYTE + 14}"
    framing = {"Transfer_Encoding": "chunked"} if chunked else {"Content_Length": size}
    headers = target.headers(Content_Type="application/json", **framing)
    yield Piece(head("POST", COMPLETIONS, headers))
    for number in range(megabytes):
        part = b"a" * MEBIBYTE
        if number == 0:
            part = b'{"prompt": "' + part
        if number == megabytes - 1:
            part += b'"}'
        yield Piece(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
    if chunked:
        yield Piece(b"0\r\n\r\n")


def large_bodies(target: Target) -> Iterator[Case]:
    for chunked in (False, True):
        name = "40 MiB, chunked" if chunked else "40 MiB, announced"

        def pieces(chunked: bool = chunked) -> Iterable[Piece]:
            return _large(target, 40, chunked=chunked)

        yield Case("H18", name, pieces, TOO_LARGE, COMPLETIONS, plain_error=True)
    tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in body(target, COMPLETIONS, {})) + b"0\r\n\r\n"
    headers = target.headers(Content_Type="application/json", Transfer_Encoding="chunked")
    yield wire("H18", "chunks of a byte", head("POST", COMPLETIONS, headers) + tiny, EITHER, path=COMPLETIONS)


def malformed_json(target: Target) -> Iterator[Case]:
    for path in _posts(target):
        for content in (
            *(b"{'prompt': 'a'}", b'{"prompt": "a"', b'{"prompt": "a"} x', b'{"prompt": "a",}'),
            *(
                b'{"prompt": "a" /* c */}',
                b"// c\n{}",
                b'{"prompt": "a", "x": 01}',
                b'{"prompt": "a", "x": .5}',
            ),
            *(
                b'{"prompt": "a", "x": +1}',
                b'{"prompt": "\n"}',
                b'{"prompt": "a"}{}',
                b'{"a" "b"}',
                b'{"a":}',
            ),
        ):
            yield posted(target, "H32", content.decode(), path, content)
    valid = body(target, COMPLETIONS, {})
    twice = valid.replace(b'"max_tokens":4', b'"max_tokens":-1,"max_tokens":4')
    yield posted(target, "H32", "duplicate key", COMPLETIONS, twice, EITHER)


def other_json(target: Target) -> Iterator[Case]:
    for path in _posts(target):
        for content in (b"[]", b'"x"', b"1", b"null", b"true", b"", b" ", b"{}", b"[[[{}]]]"):
            yield posted(target, "H33", repr(content), path, content)


def amplification(target: Target) -> Iterator[Case]:
    many = Raw("[" + ",".join(["{}"] * 100_000) + "]")
    huge = "x" * 3_000_000
    for path, field in zip(BOTH, ("prompt", "messages"), strict=True):
        for name, value in (("100,000 empty objects", many), ("3 MB of text", {"a": huge}), ("3 MB", huge)):
            fields = {field: value}
            yield from crossed(target, "H34", f"{field}: {name}", fields, TOO_LARGE, apis=(path,))
        yield from crossed(target, "H34", "max_tokens: 3 MB", {"max_tokens": huge}, apis=(path,))
        yield from crossed(target, "H34", "stream: list", {"stream": many}, apis=(path,))


def depth(target: Target) -> Iterator[Case]:
    for path in _posts(target):
        for name, content in (
            ("100,000 [", b"[" * 100_000),
            ("100,000 objects", b'{"a":' * 100_000),
            ("2,000 closed", b'{"prompt": ' + b"[" * 2000 + b"]" * 2000 + b"}"),
            ("900 closed", b'{"messages": ' + b'[{"a":' * 450 + b"1" + b"}]" * 450 + b"}"),
        ):
            yield posted(target, "H35", name, path, content)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


def compressed(target: Target) -> Iterator[Case]:
    valid = body(target, COMPLETIONS, {})
    bomb = _gzip(b'{"prompt":"' + b"a" * (64 << 20) + b'"}')
    nested = valid
    for _ in range(20):
        nested = _gzip(nested)
    for name, coding, content in (
        ("gzip", "gzip", _gzip(valid)),
        ("gzip bomb", "gzip", bomb),
        ("twenty gzips", ", ".join(["gzip"] * 20), nested),
        ("br", "br", valid),
        ("zstd", "zstd", b"\x28\xb5\x2f\xfd" + valid),
        ("deflate", "deflate", zlib.compress(valid)),
        ("unknown", "x" * 500, valid),
    ):
        yield posted(target, "H36", name, COMPLETIONS, content, UNSUPPORTED, Content_Encoding=coding)
    for kind in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        yield posted(target, "H36", f"type {kind}", COMPLETIONS, valid, UNSUPPORTED, Content_Type=kind)


def large_heads(target: Target) -> Iterator[Case]:
    for name, more in (
        ("64 KB header", {"X_Large": "x" * 65_536}),
        ("1 MB header", {"X_Large": "x" * MEBIBYTE}),
        ("20 MB header", {"X_Large": "x" * (20 << 20)}),
        ("2,000 headers", {f"X_{number}": "y" for number in range(2000)}),
        ("20,000 headers", {f"X_{number}": "y" for number in range(20_000)}),
        ("1 MB header name", {"X" * MEBIBYTE: "y"}),
    ):
        # A request line that never ends is refused as soon as there is too much of it: it may be closed on.
        yield wire("H37", name, target.get("/v1/models", **more), HEADERS_TOO_LARGE)
    yield wire(
        "H37",
        "300 headers",
        target.get("/v1/models", **{f"X_{i}": "y" for i in range(300)}),
        frozenset({431}),
    )
    for name, line in (
        ("NUL", b"X-A: a\0b"),
        ("CR", b"X-A: a\rb"),
        ("no colon", b"X-A"),
        ("space before colon", b"X-A : b"),
        ("empty name", b": b"),
    ):
        request = target.get("/v1/models").replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n")
        yield wire("H37", name, request)
    folded = target.get("/v1/models").replace(b"\r\n\r\n", b"\r\nX-A: a\r\n b\r\n\r\n")
    yield wire("H37", "folded line", folded, EITHER)


def paths(target: Target) -> Iterator[Case]:
    yield wire("H38", "1 MB path", target.get("/" + "a" * MEBIBYTE), NO_SUCH_PATH | HEADERS_TOO_LARGE)
    query = "&".join(f"a{number}=b" for number in range(10_000))
    yield wire("H38", "10,000 parameters", target.get(f"/v1/models?{query}"), ANY)
    for path in (
        *("//v1//completions", "/v1/../secret", "/v1/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/../../etc/passwd"),
        *("/v1/models/..%2f..%2fetc%2fpasswd", "/v1/completions/", "/v1/completions%00", "/V1/COMPLETIONS"),
        *("/%", "/%zz", "/\x7f", "/v1/completions;x", "/*", "/~root", "/.git/config", "/.env"),
    ):
        yield wire("H38", path, target.get(path), REFUSED, may_close=False)
    yield wire("H38", "space in the path", target.get("/v1/models /x"), may_close=True)
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "x" * 10_000, "get", "PROPFIND"):
        request = head(method, COMPLETIONS, target.headers())
        yield wire("H38", f"method {method[:10]}", request, REFUSED | {501})


def broken_lengths(target: Target) -> Iterator[Case]:
    for name, length in (
        ("10^12", str(10**12)),
        ("10^30", "1" + "0" * 30),
        ("negative", "-1"),
        ("plus", "+5"),
        ("hex", "0x10"),
        ("two values", "5, 6"),
        ("text", "abc"),
        ("empty", ""),
        ("5,000 digits", "9" * 5000),
    ):
        headers = target.headers(Content_Type="application/json", Content_Length=length)
        yield wire("H40", name, head("POST", COMPLETIONS, headers))
    headers = [
        *target.headers(Content_Type="application/json"),
        ("Content-Length", "2"),
        ("Content-Length", "3"),
    ]
    yield wire("H40", "two lengths", head("POST", COMPLETIONS, headers) + b"{} ")


def hosts(target: Target) -> Iterator[Case]:
    yield wire("H41", "no Host", target.get("/v1/models", Host=None), BAD)
    two = head("GET", "/v1/models", [*target.headers(), ("Host", "other")])
    yield wire("H41", "two Hosts", two, BAD)
    for host in ("a/?x=", "a@b", "a b", "a\\b", "[::1", "a:99999999", "", "x" * 5000):
        yield wire("H41", f"Host {host[:12]}", target.get("/v1/models", Host=host), EITHER | {421, 431})
    for path in ("@google.com", "http://google.com/v1/models", "google.com:443", "//google.com/v1/models"):
        yield wire("H41", f"path {path}", target.get(path), REFUSED | {200, 501})


def other_protocols(target: Target) -> Iterator[Case]:
    hello = bytes.fromhex("16030100c8010000c40303") + os.urandom(32) + bytes(160)
    for name, data in (
        ("HTTP/0.9", b"GET /v1/models\r\n\r\n"),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("HTTP/9.9", b"GET / HTTP/9.9\r\nHost: a\r\n\r\n"),
        ("TLS hello", hello),
        ("1 MB of noise", bytes((number * 7919 + number // 251) % 256 for number in range(MEBIBYTE))),
        ("NULs", bytes(100_000)),
        ("blank lines", b"\r\n" * 50_000),
        ("line feeds only", target.get("/v1/models").replace(b"\r\n", b"\n")),
    ):
        yield wire("H42", name, data, ANY | {501, 505})
    old = target.get("/v1/models").replace(b"HTTP/1.1", b"HTTP/1.0")
    yield wire("H42", "HTTP/1.0", old, ANY, path="/v1/models")
    upgrade = target.get(
        "/v1/models", Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AA"
    )
    yield wire("H42", "h2c upgrade", upgrade, ANY, path="/v1/models")
    socket = target.get("/v1/models", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Version="13")
    yield wire("H42", "websocket upgrade", socket, ANY, path="/v1/models")


def smuggling(target: Target) -> Iterator[Case]:
    hidden = target.get("/v1/models?smuggled")

    def one_answer(done: Exchange) -> str | None:
        return "the hidden request was answered" if len(done.answers) > 1 else None

    chunked = b"0\r\n\r\n" + hidden
    for name, framing, content in (
        (
            "length and chunked",
            [("Content-Length", str(len(chunked))), ("Transfer-Encoding", "chunked")],
            chunked,
        ),
        (
            "chunked and length",
            [("Transfer-Encoding", "chunked"), ("Content-Length", "4")],
            b"0\r\n\r\n" + hidden,
        ),
        ("chunked, spelled oddly", [("Transfer-Encoding", "xchunked"), ("Content-Length", "2")], b"{}"),
        ("chunked twice", [("Transfer-Encoding", "chunked, chunked")], chunked),
        ("identity", [("Transfer-Encoding", "identity"), ("Content-Length", "2")], b"{}"),
        ("broken chunk", [("Transfer-Encoding", "chunked")], b"zz\r\n{}\r\n0\r\n\r\n"),
        ("negative chunk", [("Transfer-Encoding", "chunked")], b"-1\r\n{}\r\n0\r\n\r\n"),
        ("huge chunk", [("Transfer-Encoding", "chunked")], b"f" * 16 + b"\r\n{}"),
        (
            "chunk extension",
            [("Transfer-Encoding", "chunked")],
            b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
        ),
    ):
        headers = [*target.headers(Content_Type="application/json"), *framing]
        request = head("POST", COMPLETIONS, headers) + content
        manners = Manners(answers=2, deadline=3.0)
        yield Case(
            "H43", name, once(request), REFUSED | {501}, "", manners, True, plain_error=True, check=one_answer
        )


def pipelined(target: Target) -> Iterator[Case]:
    request = target.get("/v1/models")

    def check(done: Exchange) -> str | None:
        bodies = {answer.body for answer in done.answers if answer.status == 200 and answer.complete}
        return "answers to the same request differ" if len(bodies) > 1 else None

    yield wire("H45", "1,000 requests", request * 1000, ANY, answers=1000, check=check, path="/v1/models")
    posts = b"".join(
        target.post(COMPLETIONS, json.dumps({"prompt": f"{number}", "max_tokens": 1}).encode())
        for number in range(20)
    )
    yield wire("H45", "20 completions", posts, ANY, answers=20, path=COMPLETIONS)


ROWS = (
    Row("H18", "40 MiB bodies, announced or chunked; chunks of one byte", large_bodies),
    Row("H32", "malformed JSON, duplicate keys", malformed_json),
    Row("H33", "JSON that is no object, empty bodies", other_json),
    Row("H34", "bodies made to blow up the error", amplification),
    Row("H35", "nesting", depth),
    Row("H36", "compressed bodies, bombs, other content types", compressed),
    Row("H37", "large, many and malformed headers", large_heads),
    Row("H38", "paths that climb, repeat, don't decode; other methods", paths),
    Row("H40", "content lengths that are wrong", broken_lengths),
    Row("H41", "missing, double and malformed Host; absolute paths", hosts),
    Row("H42", "other protocols on the port", other_protocols),
    Row("H43", "request smuggling: length against chunks", smuggling),
    Row("H45", "pipelined requests", pipelined),
)
