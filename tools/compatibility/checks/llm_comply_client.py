"""llm-comply: its own tests of three APIs, against the specifications that it carries."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from checking import API, KEY, MODEL, feature, main, require

ELSEWHERE = ("image-input", "anth-image-input", "error-handling")
"""Tests that count for a feature of their own."""


@cache
def results(form: str) -> dict[str, list[str]]:
    """Errors by test id; tests that it skips itself (they ask for other models) are left out."""
    command = [
        str(Path(sys.executable).with_name("llm-comply")),
        "--format",
        form,
        "--json",
        "--timeout",
        "60",
    ]
    more = ["-H", "anthropic-version:2023-06-01"] if form == "anthropic" else []
    answer = subprocess.run(
        [*command, "-u", API, "-k", KEY, "-m", MODEL, *more], capture_output=True, text=True, check=False
    )
    require(answer.stdout, f"llm-comply ended with code {answer.returncode}: {answer.stderr[-200:]}")
    found = json.loads(answer.stdout)["results"]
    return {one["id"]: one.get("errors", []) for one in found if one["status"] != "skipped"}


def passes(form: str, *tests: str) -> None:
    for test in tests:
        require(not results(form)[test], f"{test}: {results(form)[test]}")


@feature("chat")
def chat() -> None:
    passes("openai-chat", "chat-basic-response", "chat-system-prompt", "chat-multi-turn")


@feature("stream")
def stream() -> None:
    passes("openai-chat", "chat-streaming-response")


@feature("usage in stream")
def usage_in_stream() -> None:
    passes("openai-chat", "chat-streaming-usage")


@feature("tools")
def tools() -> None:
    passes("openai-chat", "chat-tool-calling")


@feature("responses")
def responses() -> None:
    passes("open-responses", *(test for test in results("open-responses") if test not in ELSEWHERE))


@feature("messages")
def messages() -> None:
    passes("anthropic", *(test for test in results("anthropic") if test not in ELSEWHERE))


@feature("images")
def images() -> None:
    passes("openai-chat", "chat-image-input")
    passes("open-responses", "image-input")
    passes("anthropic", "anth-image-input")


@feature("model required")
def model_required() -> None:
    """Both send a body without a model, which must fail."""
    passes("openai-chat", "chat-error-handling")
    passes("open-responses", "error-handling")


if __name__ == "__main__":
    main("llm-comply")
