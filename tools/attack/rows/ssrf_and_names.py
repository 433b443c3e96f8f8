"""Addresses that the server must not fetch, names that must not be opened or echoed."""

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from tools.attack.case import CHAT, COMPLETIONS, Case, Row, crossed, posted, values, wire
from tools.attack.target import Dialect, Target

NOT_FOUND = frozenset({400, 404})


def _message(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]


def images(target: Target) -> Iterator[Case]:
    addresses = (
        *(
            target.tripwire,
            "http://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "gopher://127.0.0.1:1/",
        ),
        *(
            "http://allowed\\@169.254.169.254/",
            "data:image/png;base64,AAAA",
            "http://[::1]:1/",
            "x" * 100_000,
        ),
    )
    for address in addresses:
        part = {"type": "image_url", "image_url": {"url": address}}
        yield from crossed(target, "H67", address[:40], {"messages": _message(part)}, apis=(CHAT,))
    text = [{"role": "user", "content": f"![x]({target.tripwire}) <img src='{target.tripwire}'>"}]
    yield from crossed(target, "H67", "image in Markdown", {"messages": text}, frozenset({200}), apis=(CHAT,))


def media(target: Target) -> Iterator[Case]:
    data = base64.b64encode(b"\x80\x04" + b"x" * 500).decode()
    parts: tuple[dict[str, Any], ...] = (
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "file", "file": {"file_data": data, "filename": "../../x"}},
        {"type": "video_url", "video_url": {"url": target.tripwire}},
        {"type": "image_embeds", "image_embeds": data},
        {"type": "audio_url", "audio_url": {"url": target.tripwire}},
    )
    for part in parts:
        yield from crossed(target, "H68", str(part["type"]), {"messages": _message(part)}, apis=(CHAT,))
    yield from values(target, "H68", "prompt_embeds", [data], apis=(COMPLETIONS,), prompt=...)


NAMES = (
    *("../../etc/passwd", "a/../../b", "a\0b", "C:\\x", "x" * 10_000, "__proto__", "{{x}}", "%s%n", "", " "),
    *("\x1b[31mred", "a\r\nb", "dеmo", "$(id)", "a;b", "/", ".", "http://127.0.0.1/"),
)


def names(target: Target) -> Iterator[Case]:
    yield from values(target, "H69", "model", NAMES, NOT_FOUND)
    yield from values(target, "H69", "model", [7, [], {}, True], NOT_FOUND)
    for name in NAMES:
        path = f"/v1/models/{quote(name, safe='')}"
        yield wire("H69", f"GET {path[:50]}", target.get(path), frozenset({400, 404, 414}), may_close=False)


def own_apis(target: Target) -> Iterator[Case]:
    for address in (target.tripwire, "file:///etc/passwd"):
        link = f'{{"url": "{address}"}}'
        for path, content in (
            (
                "/v1/responses",
                f'{{"input": [{{"role": "user", "content": [{{"type": "input_image", "image_url": "{address}"}}]}}]}}',
            ),
            ("/v1/responses", f'{{"input": "a", "tools": [{{"type": "mcp", "server_url": "{address}"}}]}}'),
            (
                "/v1/messages",
                '{"max_tokens": 4, "messages": [{"role": "user", "content": [{"type": "image", "source": '
                f'{link}}}]}}], "model": "{target.model}"}}',
            ),
        ):
            yield posted(target, "H70", address[:20], path, content.encode())


OWN = frozenset({Dialect.LOOPSERVE})

ROWS = (
    Row("H67", "`image_url` of every kind; nothing is fetched", images),
    Row("H68", "audio, files, video, embeddings", media),
    Row("H69", "model names that climb, format, colour or look alike", names),
    Row("H70", "addresses in `/v1/responses` and `/v1/messages`", own_apis, OWN),
)
