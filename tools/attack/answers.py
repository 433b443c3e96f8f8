"""Reads good answers, and says what is wrong with them."""

import json
from collections.abc import Iterator
from typing import Any

from tools.attack.wire import Answer, Exchange

STREAM_ENDS = {
    "/v1/responses": (b"response.completed", b"response.incomplete", b"response.failed"),
    "/v1/messages": (b"message_stop",),
}
"""Last event of the APIs whose streams don't end in [DONE]."""
OPENAI_PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/fim/completions")


class MalformedError(Exception):
    """A good answer that no client could use; the text says why."""


def is_stream(answer: Answer) -> bool:
    return answer.headers.get("content-type", "").startswith("text/event-stream")


def parse(text: bytes | str) -> Any:
    """JSON, strictly.

    Raises:
        MalformedError: it is none, or has NaN or Infinity.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise MalformedError("not UTF-8") from None
    except ValueError as error:
        raise MalformedError(f"not JSON: {str(error)[:80]}") from None
    except RecursionError:
        raise MalformedError("JSON too deep to read") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} in an answer")


def events(body: bytes) -> Iterator[bytes]:
    """Data of each event of a stream, without comments."""
    for line in body.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            yield line[5:].strip()


def stream_objects(answer: Answer, path: str) -> list[Any]:
    """All objects of a whole stream.

    Raises:
        MalformedError: an event is no JSON, or the stream has no proper end.
    """
    data = list(events(answer.body))
    if path in OPENAI_PATHS:
        if not data or data[-1] != b"[DONE]":
            raise MalformedError("the stream does not end in [DONE]")
        data.pop()
    elif path in STREAM_ENDS and not (data and any(end in data[-1] for end in STREAM_ENDS[path])):
        raise MalformedError("the stream does not end in its last event")
    return [parse(event) for event in data]


def error_in_stream(answer: Answer) -> dict[str, Any] | None:
    """The error with which a stream ended, if it did."""
    for event in events(answer.body):
        if b'"error"' in event:
            try:
                found = json.loads(event)
            except ValueError:
                continue
            if isinstance(found, dict) and isinstance(found.get("error"), dict):
                return dict(found["error"])
    return None


def check_good(answer: Answer, path: str) -> None:
    """Check an answer of status 200.

    Raises:
        MalformedError: what is wrong with it.
    """
    if not answer.complete:
        raise MalformedError("the answer was cut")
    if is_stream(answer):
        if error_in_stream(answer) is None:
            for found in stream_objects(answer, path):
                _check_object(found, path, streamed=True)
    elif path in OPENAI_PATHS:
        _check_object(parse(answer.body), path, streamed=False)
    elif "json" in answer.headers.get("content-type", ""):
        parse(answer.body)


def _check_object(found: Any, path: str, *, streamed: bool) -> None:
    if path not in OPENAI_PATHS:
        return
    if not isinstance(found, dict) or not isinstance(found.get("choices"), list):
        raise MalformedError("no list of choices")
    if not streamed and not found["choices"]:
        raise MalformedError("no choice")
    for choice in found["choices"]:
        if not isinstance(choice.get("index"), int):
            raise MalformedError("a choice without index")
        if not streamed and choice.get("finish_reason") is None:
            raise MalformedError("a choice without finish_reason")
        _check_logprobs(choice.get("logprobs"))
    _check_usage(found.get("usage"))


def _check_logprobs(found: Any) -> None:
    if not isinstance(found, dict) or not isinstance(found.get("tokens"), list):
        return
    lists = [found[name] for name in ("token_logprobs", "text_offset") if isinstance(found.get(name), list)]
    if any(len(values) != len(found["tokens"]) for values in lists):
        raise MalformedError("lists of logprobs that differ in length")


def _check_usage(found: Any) -> None:
    if not isinstance(found, dict):
        return
    parts = [found.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
    if min(parts) < 0 or sum(parts) != found.get("total_tokens"):
        raise MalformedError("usage that does not add up")


def choice_text(choice: dict[str, Any]) -> str:
    """Text of a choice of either API, whole or a piece of it."""
    inner = choice.get("message") or choice.get("delta") or {}
    return str(choice.get("text") or inner.get("content") or "")


def choices_of(answer: Answer, path: str) -> list[dict[str, Any]]:
    """All choices, or pieces of them, in the order they came.

    Raises:
        MalformedError: it can't be read.
    """
    objects = stream_objects(answer, path) if is_stream(answer) else [parse(answer.body)]
    return [choice for found in objects if isinstance(found, dict) for choice in found.get("choices") or ()]


def text_of(done: Exchange) -> str | None:
    """Text of a good answer with one choice, or None if it is no good answer."""
    if not done.answers or done.answers[0].status != 200 or not done.answers[0].complete:
        return None
    answer = done.answers[0]
    try:
        path = "/v1/completions" if is_stream(answer) else ""
        return "".join(choice_text(choice) for choice in choices_of(answer, path))
    except MalformedError:
        return None
