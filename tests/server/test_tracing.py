"""Traces are an extra: nothing of it is loaded unasked, and asking for it without it says what to install."""

import importlib
import subprocess
import sys

import pytest

from server.errors import SettingsError
from server.settings import load_settings
from server.tracing import make_tracer


def test_nothing_of_it_is_loaded_unasked() -> None:
    # FastAPI itself loads the API, which does nothing without the SDK.
    code = (
        "import sys, server.cli; "
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_extra_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "server.otel", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(SettingsError, match=r"pip install 'loopserve\[otel\]'"):
        make_tracer("http://localhost:4318", "tiny")
    importlib.invalidate_caches()


@pytest.mark.parametrize("url", ["http://a:4318", "https://collector.example/otlp"])
def test_addresses_of_collectors(url: str) -> None:
    assert load_settings({"model": "x", "otlp_endpoint": url}).otlp_endpoint == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:4318",
        "grpc://a:4317",
        "http://",
        "http://a?b",
        "http://a:b",
        "http://a b",
        "http://a/\n",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(SettingsError, match="--otlp-endpoint: is no URL such as"):
        load_settings({"model": "x", "otlp_endpoint": url})
