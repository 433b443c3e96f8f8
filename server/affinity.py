"""Which requests belong together: a key for routers that keep a conversation where its prefix is cached.

The first of these that a request has, kept apart by API key, since the cache is too:

1. the header `X-Session-ID`;
2. `prompt_cache_key` of the body;
3. `user` of the body, or `metadata.user_id` of Anthropic's;
4. how the conversation begins: system prompt and first message of the user, whole; or the first tokens of a prompt.

A chat's beginning is hashed whole, because many clients share a long system prompt and all would meet on one replica.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import orjson

SESSION_HEADER = b"x-session-id"
CREDENTIALS = (b"authorization", b"x-api-key")
PREFIX_CHARS = 256
PREFIX_TOKENS = 64
"""Of a prompt: later edits of the same file must not change its key."""

_OPENING_KEYS = ("system", "instructions", "tools")
_PROMPT_KEYS = ("prompt", "input_prefix", "input")


def routing_key(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> str:
    """The key, or "" for a request that any replica may answer.

    Args:
        headers: ASGI's, names in lower case.
        body: whole; what is not a JSON object has no key.
    """
    found = dict(headers)
    session = found.get(SESSION_HEADER)
    told = b"session " + session if session else _told_by(_parsed(body))
    if told is None:
        return ""
    credentials = b"\n".join(found.get(name, b"") for name in CREDENTIALS)
    return hashlib.blake2b(credentials + b"\n" + told, digest_size=16).hexdigest()


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return values if isinstance(values, dict) else {}


def _told_by(values: dict[str, Any]) -> bytes | None:
    metadata = values.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    for name, value in (
        ("cache", values.get("prompt_cache_key")),
        ("user", values.get("user")),
        ("user", user),
    ):
        if isinstance(value, str) and value:
            return f"{name} {value}".encode(errors="surrogatepass")
    opening = _opening(values)
    try:
        return None if opening is None else b"opening " + orjson.dumps(opening)
    except orjson.JSONEncodeError:  # nested deeper than it writes, which no server takes either
        return None


def _opening(values: dict[str, Any]) -> list[Any] | None:
    """What stays the same while a conversation or a file grows."""
    fixed = [values[key] for key in _OPENING_KEYS if key in values]
    for key in ("messages", *_PROMPT_KEYS):
        value = values.get(key)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return [*fixed, _until_first_user(value)]
        beginning = _beginning(value)
        if beginning:
            return [*fixed, beginning]
    return None


def _until_first_user(messages: list[Any]) -> list[Any]:
    for index, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return messages[: index + 1]
    return messages


def _beginning(prompt: Any) -> str | list[Any] | None:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompt = prompt[0]  # several prompts, of which the first speaks for all
    if isinstance(prompt, str):
        return prompt[:PREFIX_CHARS]
    return prompt[:PREFIX_TOKENS] if isinstance(prompt, list) else None
