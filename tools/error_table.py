"""Writes docs/errors.md, the table of every error a client can get, from the code that raises them.

python -m tools.error_table
"""

from pathlib import Path

from server.error_catalogue import CATALOGUE, ErrorKind

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errors.md"

_INTRODUCTION = """\
# Errors

Made from `server/error_catalogue.py` by `python -m tools.error_table`; don't edit.

Every failure of every endpoint, of routing and of middleware has OpenAI's error object as its body:

    {"error": {"message": "...", "type": "...", "param": "prompt", "code": "context_length_exceeded"}}

`param` is the request field at fault, or null. All four keys are always there. *Places in italics* vary. Texts may be
made more exact; codes, types and statuses are stable, and so is the wording of `context_length_exceeded`, which
LiteLLM, LangChain, OpenHands and Aider look into.

A request that fails after the first byte of its stream was sent gets the same object as an event,
`data: {"error": {...}}`, and then the stream's usual end. Under `/v1/messages` errors have Anthropic's shape and 503 is
529 (`server/anthropic/errors.py`). `invalid_request_error` means that sending the same again
can't help; `server_error` that it may.

| status | type | code | message | when |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = sorted(CATALOGUE.values(), key=lambda kind: (kind.status, kind.code or "", kind.text))
    return _INTRODUCTION + "".join(map(_row, rows))


def _row(kind: ErrorKind) -> str:
    code = "null" if kind.code is None else f"`{kind.code}`"
    text = kind.text.replace("{", "*").replace("}", "*")
    return f"| {kind.status} | `{kind.type}` | {code} | {text} | {kind.when} |\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
