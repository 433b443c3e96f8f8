"""The page's files: how they are served, and what is in them. What they do is in tests/server/page."""

import fnmatch
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from server.api_keys import ApiKeys
from server.app import create_app
from server.metrics import ServerMetrics
from server.settings import load_settings
from server.state import AppState
from server.static_page import DIRECTORY, HEADERS, MEDIA_TYPES, load_page
from tests.server.played import Played

Make = Callable[..., Played]
FILES = sorted(DIRECTORY.iterdir())
PATHS = sorted(load_page())
ROOT = Path(__file__).resolve().parents[2]


def asked(
    played: Played, *requests: tuple[str, str], key: str | None = None, **headers: str
) -> list[httpx.Response]:
    """Answers of one server, with API keys if `key` is given; "" sends none."""

    async def main(app: FastAPI, state: AppState) -> list[httpx.Response]:
        if key is not None:
            app = create_app(replace(state, metrics=ServerMetrics("0")), ApiKeys(["right"]))
        if key:
            headers["authorization"] = f"Bearer {key}"
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            return [await client.request(method, path, headers=headers) for method, path in requests]

    answers: list[httpx.Response] = played.run(main)
    return answers


def test_every_file_is_served_as_what_it_is(played: Make) -> None:
    answers = asked(played(), *(("GET", path) for path in PATHS))
    assert len(PATHS) == len(FILES) > 10
    for path, answer in zip(PATHS, answers, strict=True):
        file = DIRECTORY / (path.removeprefix("/page/") if path != "/" else "index.html")
        assert answer.status_code == 200, path
        assert answer.content == file.read_bytes()
        assert answer.headers["content-type"] == MEDIA_TYPES[file.suffix]
        assert answer.headers["content-length"] == str(file.stat().st_size)


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/nothing.js", "/page/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_answer_has_the_policy(played: Make, method: str, path: str) -> None:
    (answer,) = asked(played(), (method, path))
    if path == "/page/":  # not a path of the page
        assert answer.status_code == 404
        return
    assert answer.status_code == (404 if "nothing" in path else 200)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value


def test_the_policy_allows_nothing_from_elsewhere_and_nothing_inline() -> None:
    policy = HEADERS["Content-Security-Policy"]
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert directives["base-uri"] == directives["form-action"] == "'none'"
    for name in ("script-src", "style-src", "connect-src", "img-src"):
        assert directives[name] == "'self'"
    assert HEADERS["X-Content-Type-Options"] == "nosniff"
    assert HEADERS["Referrer-Policy"] == "no-referrer"


def test_head_is_get_without_the_body(played: Make) -> None:
    got, asked_for = asked(played(), ("GET", "/"), ("HEAD", "/"))
    assert asked_for.content == b""
    differs = {"x-request-id", "date"}
    assert {k: v for k, v in got.headers.items() if k not in differs} == {
        k: v for k, v in asked_for.headers.items() if k not in differs
    }


def test_a_browser_that_has_a_file_gets_it_only_when_it_has_changed(played: Make) -> None:
    (first,) = asked(played(), ("GET", "/page/main.js"))
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        (again,) = asked(played(), ("GET", "/page/main.js"), **{"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert again.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    (other,) = asked(played(), ("GET", "/page/main.js"), **{"if-none-match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize("key", ["", "wrong"])
def test_the_files_need_no_key_and_everything_else_does(played: Make, key: str) -> None:
    open_paths = [(method, path) for path in PATHS for method in ("GET", "HEAD")]
    assert {answer.status_code for answer in asked(played(), *open_paths, key=key)} == {200}
    closed = [
        *((method, "/") for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")),
        *(("POST", path) for path in PATHS),
        *(
            ("GET", path)
            for path in ("/page", "/page/", "/page/index.html", "/page/nothing", "/index.html", "/main.js")
        ),
        *(("GET", path) for path in ("/page/main.js/", "/page//main.js", "/Page/main.js")),
        *(("GET", path) for path in ("/page/%2e%2e/static_page.py", "/page/main.js;x", "/page/main.js%00")),
        *(("GET", path) for path in ("/metrics", "/v1/models", "/cache", "/openapi.json")),
    ]
    for (method, path), answer in zip(closed, asked(played(), *closed, key=key), strict=True):
        assert answer.status_code == 401, (method, path)


def test_what_is_no_file_of_the_page_is_not_found(played: Make) -> None:
    paths = [
        "/page/index.html",
        "/page/__init__.py",
        "/page/%2e%2e/static_page.py",
        "/page/..%2fstatic_page.py",
    ]
    answers = asked(played(), *(("GET", path) for path in paths))
    assert [answer.status_code for answer in answers] == [404] * len(paths)
    assert answers[0].json()["error"]["message"] == "There is nothing at this path."


def test_another_method_is_refused(played: Make) -> None:
    assert [answer.status_code for answer in asked(played(), ("POST", "/"), ("PUT", "/page/main.js"))] == [
        405,
        405,
    ]


@pytest.mark.parametrize("key", [None, ""])
def test_it_can_be_turned_off(played: Make, key: str | None) -> None:
    off = played(settings={"page": False})
    expected = 404 if key is None else 401
    assert {answer.status_code for answer in asked(off, *(("GET", path) for path in PATHS), key=key)} == {
        expected
    }
    assert asked(off, ("GET", "/health"))[0].status_code == 200


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({"model": "m"}).page is True
    assert load_settings({"model": "m", "page": False}).page is False
    monkeypatch.setenv("LOOPSERVE_PAGE", "false")
    assert load_settings({"model": "m"}).page is False


def test_the_host_check_stands_before_the_page(played: Make) -> None:
    """Otherwise another site's name that was made to point here could run the page's code as its own."""
    server = played(settings={"allowed_hosts": ("api.example.com",)})
    wrong, right = asked(server, ("GET", "/")), asked(server, ("GET", "/"), host="api.example.com")
    assert (wrong[0].status_code, right[0].status_code) == (400, 200)


def test_all_paths_of_the_page_count_as_two_in_the_metrics(played: Make) -> None:
    *_, metrics = asked(
        played(), *(("GET", path) for path in PATHS), ("GET", "/page/nothing"), ("GET", "/metrics")
    )
    labels = set(re.findall(r'loopserve_http_requests_total\{method="GET",path="([^"]*)"', metrics.text))
    assert labels == {"/", "/page/{name}"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_small_and_names_nothing_outside(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, which nothing is fetched from
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
    assert "@import" not in text
    assert "url(" not in text


def test_the_document_has_no_inline_script_or_style() -> None:
    text = (DIRECTORY / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    for tag in re.findall(r"<script[^>]*>[^<]*", text):
        assert re.fullmatch(r'<script (?:type="module" )?src="page/[\w.-]+">', tag)
    for address in re.findall(r"""(?:src|href)="([^"]*)\"""", text):
        assert address.startswith(("page/", "#")), "relative, so that a path prefix does no harm"


def test_every_module_that_is_imported_is_there() -> None:
    for file in DIRECTORY.glob("*.js"):
        for name in re.findall(r'(?:from|import)\(?\s*"\./([^"]+)"', file.read_text(encoding="utf-8")):
            assert (DIRECTORY / name).is_file(), f"{file.name} imports {name}"


def test_an_installed_package_has_the_files() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "server"
    ]
    for file in FILES:
        assert any(fnmatch.fnmatch(f"page/{file.name}", pattern) for pattern in patterns), file.name
