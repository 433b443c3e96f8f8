"""The render routes give the token ids that the engine would get."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.server.played import Played

Make = Callable[..., Played]
HI = [{"role": "user", "content": "hi"}]
FIM = {"prompt": "def f(", "suffix": "\n    return x"}


def sent(server: Played, path: str, body: dict[str, Any]) -> list[list[int]]:
    """What the engine got for a request."""
    assert server.ask(path, body).status_code == 200
    return [request.prompt_token_ids for request in server.host.requests]


@pytest.mark.parametrize(
    "body",
    [{"prompt": "abc"}, {"prompt": ["abc", "de"]}, {"prompt": [5, 6, 7]}, {"prompt": [[5], [6, 7]]}, FIM],
    ids=["text", "texts", "ids", "lists", "gap"],
)
def test_a_completion_is_rendered_as_the_engine_gets_it(played: Make, body: dict[str, Any]) -> None:
    answer = played().ask("/v1/completions/render", {**body, "max_tokens": 3, "stream": True})
    assert answer.status_code == 200
    assert [each["token_ids"] for each in answer.json()] == sent(played(), "/v1/completions", body)
    assert {each["model"] for each in answer.json()} == {"tiny"}


def test_a_chat_is_rendered_as_the_engine_gets_it(played: Make) -> None:
    answer = played().ask("/v1/chat/completions/render", {"messages": HI})
    assert [answer.json()["token_ids"]] == sent(played(), "/v1/chat/completions", {"messages": HI})


def test_nothing_is_generated_and_no_engine_is_needed(played: Make) -> None:
    server = played(ready=False)
    assert server.ask("/v1/completions/render", {"prompt": "abc"}).status_code == 200
    assert server.host.requests == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions/render", {}, 400),
        ("/v1/completions/render", {"prompt": "a", "model": "other"}, 404),
        ("/v1/completions/render", {"prompt": [1, -1]}, 400),
        ("/v1/chat/completions/render", {"messages": []}, 400),
        ("/v1/chat/completions/render", {"messages": HI, "model": "other"}, 404),
    ],
)
def test_what_is_wrong_is_refused_as_elsewhere(
    played: Make, path: str, body: dict[str, Any], status: int
) -> None:
    answer = played().ask(path, body)
    direct = played().ask(path.removesuffix("/render"), body)
    assert answer.status_code == direct.status_code == status
    assert answer.content == direct.content
