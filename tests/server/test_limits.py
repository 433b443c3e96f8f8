"""Limits of request fields: at, below and above the default, by setting, and the same for every front end."""

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.sampling_params import MAX_LOGIT_BIAS
from server.openai.body import MAX_CONTAINERS
from server.openai.limits import DEFAULT_LIMITS, LIMIT_NAMES
from server.settings import Settings, load_settings
from server.state import AppState
from tests.server.played import Played

COMPLETIONS, CHAT, RESPONSES, MESSAGES = (
    *("/v1/completions", "/v1/chat/completions"),
    *("/v1/responses", "/v1/messages"),
)
FIM, INFILL = "/v1/fim/completions", "/infill"
Make = Callable[..., Played]
HI = {"role": "user", "content": "a"}
BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "a"},
    CHAT: {"messages": [HI]},
    RESPONSES: {"input": [HI]},
    MESSAGES: {"model": "tiny", "max_tokens": 4, "messages": [HI]},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": [HI]},
    FIM: {"prompt": "a"},
    INFILL: {"input_prefix": "a", "input_suffix": "b"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]},
}


def messages(count: int) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": "a"} for i in range(count)]


def biases(count: int) -> dict[str, int]:
    """So many entries, of which the same id may have several."""
    return {str(i % 300).zfill(3 + i // 300): 1 for i in range(count)}


def tools(count: int) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": f"f{i}"}} for i in range(count)]


def nested(levels: int) -> Any:
    value: Any = "a"
    for _ in range(levels):
        value = {"items": value}
    return value


def schema_of(size: int) -> dict[str, Any]:
    """A schema of so many bytes as JSON."""
    empty = len(b'{"type":"string","description":""}')
    return {"type": "string", "description": "x" * (size - empty)}


def in_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


def sequences(count: int) -> dict[str, Any]:
    prompts = max(k for k in range(1, 65) if count % k == 0)
    return {"prompt": ["a"] * prompts, "n": count // prompts, "max_tokens": 1}


CASES: dict[str, tuple[int, list[tuple[str, Callable[[int], dict[str, Any]]]]]] = {
    "max_choices": (128, [(COMPLETIONS, lambda n: {"n": n}), (CHAT, lambda n: {"n": n})]),
    "max_prompts": (
        64,
        [(COMPLETIONS, lambda n: {"prompt": ["a"] * n}), (COMPLETIONS, lambda n: {"prompt": [[5]] * n})],
    ),
    "max_request_sequences": (
        256,
        [(COMPLETIONS, sequences)],
    ),
    "max_stops": (
        16,
        [
            *((path, lambda n: {"stop": ["a"] * n}) for path in (COMPLETIONS, CHAT, RESPONSES, FIM, INFILL)),
            (MESSAGES, lambda n: {"stop_sequences": ["a"] * n}),
        ],
    ),
    "max_stop_chars": (
        256,
        [
            *((path, lambda n: {"stop": "a" * n}) for path in (COMPLETIONS, CHAT, RESPONSES, FIM, INFILL)),
            (MESSAGES, lambda n: {"stop_sequences": ["a" * n]}),
        ],
    ),
    "max_logit_bias": (
        1024,
        [(path, lambda n: {"logit_bias": biases(n)}) for path in (COMPLETIONS, CHAT)],
    ),
    "max_nesting": (
        64,
        [(path, lambda n: {"client_metadata": nested(n - 1)}) for path in BODIES],
    ),
    "max_schema_size": (
        64 << 10,
        [
            (COMPLETIONS, lambda n: {"structured_outputs": {"json": schema_of(n)}}),
            (CHAT, lambda n: {"response_format": in_format(schema_of(n))}),
            (
                RESPONSES,
                lambda n: {"text": {"format": {"type": "json_schema", "name": "n", "schema": schema_of(n)}}},
            ),
            (MESSAGES, lambda n: {"output_format": {"type": "json_schema", "schema": schema_of(n)}}),
        ],
    ),
    "max_tools": (
        128,
        [
            (CHAT, lambda n: {"tools": tools(n)}),
            ("/tokenize", lambda n: {"prompt": None, "messages": [HI], "tools": tools(n)}),
            (RESPONSES, lambda n: {"tools": [{"type": "function", **one["function"]} for one in tools(n)]}),
            *(
                (
                    path,
                    lambda n: {
                        "tools": [{"name": f"f{i}", "input_schema": {"type": "object"}} for i in range(n)]
                    },
                )
                for path in (MESSAGES, "/v1/messages/count_tokens")
            ),
        ],
    ),
    "max_messages": (
        4096,
        [
            (CHAT, lambda n: {"messages": messages(n)}),
            ("/tokenize", lambda n: {"prompt": None, "messages": messages(n)}),
            (RESPONSES, lambda n: {"input": messages(n)}),
            *(
                (path, lambda n: {"messages": messages(n)})
                for path in (MESSAGES, "/v1/messages/count_tokens")
            ),
        ],
    ),
}
SMALL = {
    **{"max_choices": 3, "max_prompts": 2, "max_request_sequences": 4, "max_stops": 2, "max_stop_chars": 5},
    **{"max_logit_bias": 3, "max_nesting": 9, "max_schema_size": 500, "max_tools": 2, "max_messages": 3},
}


def test_every_limit_is_a_setting_and_has_a_case() -> None:
    assert set(CASES) == set(LIMIT_NAMES) == set(SMALL)
    settings = load_settings({"model": "m/n"})
    for name, (default, _) in CASES.items():
        assert getattr(settings, name) == getattr(DEFAULT_LIMITS, name) == default, name
        assert Settings.model_fields[name].description
    assert DEFAULT_LIMITS.max_logit_bias <= MAX_LOGIT_BIAS, "what the engine itself allows"


def statuses(server: Played, asks: list[tuple[str, dict[str, Any]]]) -> list[int]:
    """Of requests that are as they should be but for what is given, to one server."""

    async def main(app: FastAPI, state: AppState) -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tiny") as client:
            return [await ask(client, path, more) for path, more in asks]

    async def ask(client: httpx.AsyncClient, path: str, more: dict[str, Any]) -> int:
        before = len(server.host.requests)
        response = await client.post(path, json={**BODIES[path], **more})
        if response.status_code != 200:
            assert len(response.content) <= 4096
            assert response.json()["error"]["type"] == "invalid_request_error"
            assert "x" * 201 not in response.text
            assert "a" * 201 not in response.text
            assert len(server.host.requests) == before
        return response.status_code

    found: list[int] = server.run(main)
    return found


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_limit(played: Make, name: str, default: bool) -> None:
    most, step = CASES[name][0] if default else SMALL[name], 2 if name == "max_request_sequences" else 1
    server = played(
        settings={"tool_call_parser": "hermes", **({} if default else {name: most})}, max_model_len=1 << 20
    )
    cases = [(path, body(most + more)) for path, body in CASES[name][1] for more in (-step, 0, step)]
    found = statuses(server, cases)
    wanted = [200, 200, 400] * len(CASES[name][1])
    assert found == wanted, [path for (path, _), a, b in zip(cases, found, wanted, strict=True) if a != b]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("count", "status"), [(MAX_CONTAINERS - 3, 200), (MAX_CONTAINERS - 2, 200), (MAX_CONTAINERS + 5, 400)]
)
def test_number_of_objects_and_lists(played: Make, path: str, count: int, status: int) -> None:
    """The other fields hold at most four."""
    held = 3 if path in (CHAT, RESPONSES, MESSAGES, "/v1/messages/count_tokens") else 1
    held += path == "/detokenize"
    value = [[]] * (count - held - 1)  # type: ignore[var-annotated]
    assert statuses(played(), [(path, {"client_metadata": value})]) == [status]


PARTS = [
    {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x.png"}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    {"type": "input_image", "image_url": "http://169.254.169.254/x.png"},
    {"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/x.png"}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    {"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}},
    {"type": "video_url", "video_url": {"url": "http://169.254.169.254/x.mp4"}},
    {"type": "file", "file": {"file_data": "AAAA"}},
    {"type": "input_file", "file_url": "http://169.254.169.254/x.pdf"},
    {"type": "document", "source": {"type": "url", "url": "http://169.254.169.254/x.pdf"}},
    {"type": "prompt_embeds", "data": "AAAA"},
]


def test_only_text_is_taken_and_no_address_is_looked_at(
    played: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("looked at an address")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    asks: list[tuple[str, dict[str, Any]]] = []
    for part in PARTS:
        message = {"role": "user", "content": [{"type": "text", "text": "a"}, part]}
        tool = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [part]}]}
        output = {"type": "function_call_output", "call_id": "c", "output": [part]}
        asks += [
            *((path, {"messages": [message]}) for path in (CHAT, MESSAGES, "/v1/messages/count_tokens")),
            ("/tokenize", {"prompt": None, "messages": [message]}),
            (RESPONSES, {"input": [message]}),
            (RESPONSES, {"input": [HI, output]}),
            (MESSAGES, {"messages": [HI, tool]}),
            *((path, {"prompt": [part]}) for path in (COMPLETIONS, FIM, INFILL, "/tokenize")),
            ("/detokenize", {"tokens": [part]}),
        ]
    asks += [(path, {"prompt_embeds": "AAAA"}) for path in (COMPLETIONS, CHAT, FIM, INFILL, "/tokenize")]
    assert statuses(played(), asks) == [400] * len(asks)


WIDE = 320
"""Width of the engine's arrays: ids from there on are refused wherever they come."""


def test_ids_beyond_the_models_width_are_refused(played: Make) -> None:
    asks: list[tuple[str, dict[str, Any]]] = [
        (COMPLETIONS, {"prompt": [WIDE]}),
        (COMPLETIONS, {"prompt": [[5], [WIDE]]}),
        (COMPLETIONS, {"logit_bias": {str(WIDE): 1}}),
        (COMPLETIONS, {"stop_token_ids": [WIDE]}),
        (CHAT, {"logit_bias": {str(WIDE): 1}}),
        (CHAT, {"stop_token_ids": [WIDE]}),
        ("/detokenize", {"tokens": [WIDE]}),
    ]
    assert statuses(played(), asks) == [400] * len(asks)
    within = json.loads(json.dumps(asks).replace(str(WIDE), str(WIDE - 1)))
    assert statuses(played(), [(path, more) for path, more in within]) == [200] * len(asks)


def test_unknown_models_are_shown_short_everywhere(played: Make) -> None:
    for path in BODIES:
        response = played().ask(path, {**BODIES[path], "model": "x" * 1_000_000})
        assert response.status_code == 404, path
        assert len(response.content) <= 4096
        assert "x" * 201 not in response.text
