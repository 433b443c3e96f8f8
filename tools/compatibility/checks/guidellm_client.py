"""guidellm: a load generator, which is picky about streams and usage. Its numbers are not kept."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from checking import KEY, MODEL, URL, equal, feature, main, require

REQUESTS = 12
OUTPUT_TOKENS = 16


@cache
def report(request_format: str, stream: bool) -> dict[str, Any]:
    """The benchmark of one run: `REQUESTS` requests, four at a time."""
    backend: dict[str, Any] = {
        "kind": "openai_http",
        "target": URL,
        "model": MODEL,
        "api_key": KEY,
        "request_format": request_format,
        "stream": stream,
    }
    directory = os.environ["LOOPSERVE_MODEL_DIRECTORY"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        options = {
            "--backend": backend,
            "--profile": {"kind": "concurrent", "streams": 4},
            "--constraint": {"kind": "max_requests", "count": REQUESTS},
            "--tokenizer": {"kind": "huggingface_auto", "model": directory},
            "--data": {"kind": "synthetic_text", "prompt_tokens": 64, "output_tokens": OUTPUT_TOKENS},
            "--output": {"kind": "json", "path": str(out)},
        }
        arguments = [part for name, value in options.items() for part in (name, json.dumps(value))]
        command = [str(Path(sys.executable).with_name("guidellm")), "run", *arguments, "--disable-console"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
        require(out.exists(), f"no report: {done.stdout[-300:]} {done.stderr[-300:]}")
        (benchmark,) = json.loads(out.read_text(encoding="utf-8"))["benchmarks"]
    return benchmark


def check_counts(benchmark: dict[str, Any]) -> None:
    totals = benchmark["metrics"]["request_totals"]
    equal((totals["successful"], totals["errored"]), (REQUESTS, 0), "requests that succeeded and failed")


@feature("completion")
def completion() -> None:
    check_counts(report("/v1/completions", False))


@feature("stream")
def stream() -> None:
    check_counts(report("/v1/completions", True))
    check_counts(report("/v1/chat/completions", True))


@feature("usage in stream")
def usage_in_stream() -> None:
    tokens = report("/v1/completions", True)["metrics"]["output_token_count"]["successful"]
    equal(tokens["mean"], OUTPUT_TOKENS, "output tokens of a request")


if __name__ == "__main__":
    main("guidellm")
