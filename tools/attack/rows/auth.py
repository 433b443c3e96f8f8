"""Access without the key, and what browsers may do."""

from collections.abc import Iterator

from tools.attack.case import (
    BOTH,
    COMPLETIONS,
    GOOD,
    REFUSED,
    Case,
    Row,
    body,
    once,
    posted,
    wire,
)
from tools.attack.target import Target, head
from tools.attack.wire import Exchange

DENIED = frozenset({401})
NOT_SERVED = REFUSED | {301, 302, 307, 308}
OPEN = ("/health", "/ready")
PEERS_ROUTES = (
    ("POST", COMPLETIONS),
    ("POST", "/v1/chat/completions"),
    ("POST", "/tokenize"),
    ("GET", "/metrics"),
)


def _credentials(key: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Wrong ways to show a key."""
    yield "none", []
    yield "wrong", [("Authorization", "Bearer wrong")]
    yield "empty", [("Authorization", "Bearer ")]
    yield "no scheme", [("Authorization", key)]
    yield "Basic", [("Authorization", f"Basic {key}")]
    yield "one letter less", [("Authorization", f"Bearer {key[:-1]}")]
    yield "one letter more", [("Authorization", f"Bearer {key}x")]
    yield "upper case", [("Authorization", f"Bearer {key.upper()}")]
    yield "NUL", [("Authorization", f"Bearer {key}\0")]
    yield "two headers", [("Authorization", f"Bearer {key}"), ("Authorization", "Bearer wrong")]
    yield "a list", [("Authorization", f"Bearer {key}, Bearer wrong")]
    yield "not ASCII", [("Authorization", "Bearer kéy\xff")]
    yield "10 KB", [("Authorization", "Bearer " + "x" * 10_000)]
    yield "another header", [("X-Authorization", f"Bearer {key}"), ("Cookie", f"key={key}")]


def _challenge(done: Exchange) -> str | None:
    answer = done.answers[0] if done.answers else None
    if answer is None or answer.status != 401 or "www-authenticate" in answer.headers:
        return None
    return "a 401 without WWW-Authenticate"


def credentials(target: Target) -> Iterator[Case]:
    if target.key is None:
        return
    routes = [route for route in target.routes if route[1] not in OPEN] if target.ours else PEERS_ROUTES
    host = [("Host", f"{target.host}:{target.port}")]
    for method, path in routes:
        content = body(target, COMPLETIONS, {}) if method == "POST" else b""
        framing = (
            [("Content-Type", "application/json"), ("Content-Length", str(len(content)))] if content else []
        )
        for name, shown in _credentials(target.key):
            request = head(method, path, [*host, *framing, *shown]) + content
            want = DENIED | {400} if name in ("NUL", "not ASCII", "two headers") else DENIED
            yield wire("H80", f"{method} {path}: {name}", request, want, check=_challenge, may_close=False)
    query = f"{COMPLETIONS}?api_key={target.key}&key={target.key}"
    yield posted(target, "H80", "in the query", query, b"{}", DENIED, Authorization=None)


TRICKS = (
    *("/V1/models", "//v1/models", "/v1%2fmodels", "/v1/models;x", "/./v1/models", "/health/../v1/models"),
    *(
        "/ready/../v1/models",
        "/health%2f..%2fv1/models",
        "/health;/v1/models",
        "/health?/v1/models",
        "/v1/models/",
    ),
    *(
        "/health#/v1/models",
        "/health%00/v1/models",
        "/health/",
        "/%68ealth/../v1/models",
        "http://x/v1/models",
    ),
)
OVERRIDES = (
    *(("X-Forwarded-Prefix", "/health"), ("X-Original-URL", "/health"), ("X-Rewrite-URL", "/health")),
    *(
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-HTTP-Method-Override", "OPTIONS"),
        ("Forwarded", "for=127.0.0.1"),
    ),
    *(("Host", "a/?x="), ("Host", "localhost/health?"), ("X-Forwarded-Host", "localhost/health")),
)


def tricks(target: Target) -> Iterator[Case]:
    if target.key is None:
        return

    def no_models(done: Exchange) -> str | None:
        served = any(answer.status == 200 and b'"data"' in answer.body for answer in done.answers)
        return "the model list came without a key" if served else None

    for path in TRICKS:
        # /health itself may be open; what must not come is what the path tries to reach.
        request = target.get(path, Authorization=None)
        yield wire("H81", path, request, NOT_SERVED | GOOD, check=no_models)
    content = body(target, COMPLETIONS, {})
    for name, value in OVERRIDES:
        headers = target.headers(Authorization=None, Content_Type="application/json")
        headers = [pair for pair in headers if pair[0] != name]
        headers += [(name, value), ("Content-Length", str(len(content)))]
        yield wire("H81", f"{name}: {value}", head("POST", COMPLETIONS, headers) + content, NOT_SERVED)


ADMIN = (
    *("/docs", "/redoc", "/openapi.json", "/debug", "/pause", "/abort", "/update_weights", "/flush_cache"),
    *(
        "/start_profile",
        "/stop_profile",
        "/server_info",
        "/pprof",
        "/slots",
        "/props",
        "/lora-adapters",
        "/shutdown",
    ),
    *(
        "/v1/load_lora_adapter",
        "/reset_prefix_cache",
        "/sleep",
        "/collective_rpc",
        "/get_model_info",
        "/exit",
    ),
)


def administration(target: Target) -> Iterator[Case]:
    for path in ADMIN:
        for method in ("GET", "POST"):
            headers = [*target.headers(Authorization=None), ("Content-Length", "0")]
            yield wire("H82", f"{method} {path}", head(method, path, headers), NOT_SERVED, may_close=False)
            if target.ours and path != "/openapi.json":
                request = head(method, path, [*target.headers(), ("Content-Length", "0")])
                yield wire("H82", f"{method} {path} with a key", request, NOT_SERVED, may_close=False)


def browsers(target: Target) -> Iterator[Case]:
    def closed(done: Exchange) -> str | None:
        allowed = [answer.headers.get("access-control-allow-origin") for answer in done.answers]
        return "other origins may read answers" if any(allowed) else None

    content = body(target, COMPLETIONS, {})
    for path in BOTH:
        preflight = target.headers(
            Origin="https://evil.example",
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="authorization,content-type",
            Authorization=None,
        )
        yield wire("H84", f"preflight {path}", head("OPTIONS", path, preflight), NOT_SERVED, check=closed)
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            request = target.post(path, content, Origin="https://evil.example", Content_Type=kind)
            want = frozenset({400, 415})
            yield Case("H84", f"{kind} to {path}", once(request), want, path, check=closed)
    get = target.get("/v1/models", Origin="null")
    yield wire("H84", "GET with Origin null", get, NOT_SERVED | GOOD, check=closed, path="/v1/models")


def log_lines(target: Target) -> Iterator[Case]:
    """What is written here is looked for in the server's log at the end of the run, where that is known."""
    for name, text in (
        ("CRLF", "a\r\nERROR forged line"),
        ("ANSI", "\x1b[31mred"),
        ("1 MB", "x" * 1_000_000),
    ):
        for field in ("model", "user", f"unknown {text[:100]}"):
            content = body(target, COMPLETIONS, {field: text})
            yield posted(target, "H88", f"{name} in {field[:12]!r}", COMPLETIONS, content, REFUSED | GOOD)
    for path in ("/%0d%0aERROR%20forged", "/%1b[31m", "/v1/models/%0d%0aforged"):
        yield wire("H88", path, target.get(path), NOT_SERVED)
    yield wire(
        "H88", "user agent", target.get("/v1/models", User_Agent="\x1b[31m" + "x" * 5000), NOT_SERVED | GOOD
    )


ROWS = (
    Row("H80", "every route with a wrong, half or oddly shown key", credentials),
    Row("H81", "paths and headers that try to get around the key", tricks),
    Row("H82", "routes of administration and debugging", administration),
    Row("H84", "what a browser on another origin could do", browsers),
    Row("H88", "line breaks, colours and megabytes for the log", log_lines),
)
