"""`/openapi.json` says what the server really answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from server.api_keys import ApiKeys
from server.app import create_app
from server.auth import OPEN_PATHS
from server.metrics import ServerMetrics
from server.openai.answer_schemas import ANSWERS, ErrorAnswer
from server.openapi import ADDRESS
from tests.server.asgi import call
from tests.server.played import Played

Make = Callable[..., Played]
HI = [{"role": "user", "content": "a"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "logprobs": 1, "echo": True, "loop_logprobs": True},
    "/v1/chat/completions": {"messages": HI},
    "/v1/fim/completions": {"prompt": "a", "suffix": "b"},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/tokenize": {"prompt": "a", "return_token_strs": True},
    "/detokenize": {"tokens": [9]},
}


def document(server: Played) -> dict[str, Any]:
    response = server.ask(ADDRESS, method="GET")
    assert response.status_code == 200
    out: dict[str, Any] = response.json()
    return out


def operations(server: Played) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document(server)["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_endpoint_is_described_with_its_errors(played: Make) -> None:
    paths = set()
    for path, method, operation in operations(played()):
        paths.add(path)
        responses = operation["responses"]
        begins = (path, method) == ("/calibrate", "post")
        assert {"202" if begins else "200", "413", "500"} <= set(responses), path
        assert "422" not in responses
        if begins:
            assert {"409", "503"} <= set(responses)
        elif method == "post":
            unavailable = "529" if path.startswith("/v1/messages") else "503"
            assert {"400", "404", "415", unavailable} <= set(responses), path
            assert operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
        for status, response in responses.items():
            if int(status) >= 400 and path != "/ready":
                schema = response["content"]["application/json"]["schema"]
                kind = "AnthropicErrorAnswer" if path.startswith("/v1/messages") else "ErrorAnswer"
                assert schema == {"$ref": f"#/components/schemas/{kind}"}
    assert set(ANSWERS) <= paths
    assert "/metrics" in paths


def test_no_reference_leads_nowhere(played: Make) -> None:
    described = document(played())
    text, kinds = json.dumps(described), ("ErrorAnswer", "AnthropicErrorAnswer")
    assert text.count("$ref") == sum(text.count(f'"$ref": "#/components/schemas/{kind}"') for kind in kinds)
    assert set(described["components"]["schemas"]) == set(kinds)


@pytest.mark.parametrize("path", BODIES)
def test_answers_are_as_described(played: Make, path: str) -> None:
    response = played().ask(path, BODIES[path])
    assert response.status_code == 200, response.text
    ANSWERS[path].model_validate(response.json())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/models/tiny",
        "/tokenizer_info",
        "/health",
        "/ready",
        "/version",
        "/calibrate",
        "/cache",
    ],
)
def test_answers_without_a_body_are_as_described(played: Make, path: str) -> None:
    response = played().ask(path, method="GET")
    ANSWERS[path.replace("tiny", "{model_id}")].model_validate(response.json())


@pytest.mark.parametrize("path", BODIES)
def test_errors_are_as_described(played: Make, path: str) -> None:
    response = played().ask(path, {"n_predict": "x", "tokens": 7})
    assert response.status_code == 400
    ErrorAnswer.model_validate(response.json())


def test_streams_are_described(played: Make) -> None:
    for path, _, operation in operations(played()):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        streams = "stream" in body.get("schema", {}).get("properties", {})
        content = next(iter(operation["responses"].values())).get("content", {})
        assert ("text/event-stream" in content) == streams, path


def test_with_keys_the_document_needs_one_and_says_so(played: Make) -> None:
    server = played()

    async def main(_: Any, state: Any) -> None:
        app = create_app(replace(state, metrics=ServerMetrics("0")), ApiKeys(["secret"]))
        reply = await call(app, ADDRESS, [(b"host", b"tiny")])
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        assert app.openapi()["security"] == [{"key": []}]
        described = app.openapi()["paths"].items()
        guarded = {
            path for path, methods in described if all("401" in one["responses"] for one in methods.values())
        }
        assert guarded == {path for path, _ in described} - OPEN_PATHS
        free = {
            path for path, methods in described if any(one.get("security") == [] for one in methods.values())
        }
        assert free == OPEN_PATHS

    server.run(main)
    assert "security" not in document(server)
