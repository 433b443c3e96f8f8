"""`/v1/fim/completions` over a scripted engine."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.server.fim_tokenizers import REPOSITORY_MARKERS, tokenizer_with
from tests.server.played import EOS, MAX_MODEL_LEN, Played, says, tokens

URL = "/v1/fim/completions"
PREFIX, SUFFIX, MIDDLE = 5, 6, 7
Make = Callable[..., Played]


def fill(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {"model": "tiny", "prompt": "ab", "suffix": "c", **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {"prompt": "ab", "suffix": "c", **body})
    assert response.status_code == 400, response.text
    assert server.host.requests == []
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_the_answer_has_mistrals_shape(played: Make) -> None:
    server = played()
    answer = fill(server)
    assert (answer["object"], answer["model"]) == ("chat.completion", "tiny")
    (choice,) = answer["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert choice["message"] == {"role": "assistant", "content": "hello", "tool_calls": None}
    assert answer["usage"]["prompt_tokens"] == 6
    assert answer["usage"]["completion_tokens"] == 6
    assert server.host.requests[0].prompt_token_ids == [
        *(PREFIX, *tokens("ab"), SUFFIX, *tokens("c"), MIDDLE)
    ]


def test_every_chunk_has_a_choice_with_text(played: Make) -> None:
    """Continue yields `choices[0].delta.content` of whatever comes."""
    chunks = played().stream(URL, {"prompt": "ab", "suffix": "c"})
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta["content"] for delta in deltas) == "hello"
    assert [delta.get("role") for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert [("usage" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_what_continue_sends_reaches_the_engine(played: Make) -> None:
    server = played()
    fill(
        server,
        max_tokens=9,
        temperature=0.01,
        top_p=0.5,
        frequency_penalty=1,
        presence_penalty=-1,
        stop=["zz", *(f"s{index}" for index in range(9))],
        random_seed=-2,
        min_tokens=2,
    )
    params = server.host.requests[0].params
    assert (params.max_tokens, params.min_tokens, params.temperature, params.top_p) == (9, 2, 0.01, 0.5)
    assert (params.frequency_penalty, params.presence_penalty, params.seed) == (1, -1, 2**64 - 2)
    assert set(params.stop_token_ids) >= {EOS, PREFIX, SUFFIX, MIDDLE}


def test_max_completion_tokens_is_the_newer_name(played: Make) -> None:
    server = played()
    fill(server, max_tokens=9, max_completion_tokens=4)
    assert server.host.requests[0].params.max_tokens == 4


@pytest.mark.parametrize("suffix", [None, ""])
def test_without_a_suffix_it_is_a_completion_whose_text_stays_text(played: Make, suffix: str | None) -> None:
    server = played()
    fill(server, prompt="a<|fim_middle|>", suffix=suffix)
    request = server.host.requests[0]
    assert request.prompt_token_ids == tokens("a<|fim_middle|>")
    assert request.params.max_tokens == MAX_MODEL_LEN - len(request.prompt_token_ids)


def test_a_gap_at_the_start_of_a_file(played: Make) -> None:
    for url in (URL, "/v1/completions"):
        server = played()
        assert server.ask(url, {"prompt": "", "suffix": "c"}).status_code == 200
        assert server.host.requests[0].prompt_token_ids == [PREFIX, SUFFIX, *tokens("c"), MIDDLE]


def test_a_marker_ends_the_answer(played: Make) -> None:
    tokenizer = tokenizer_with(*REPOSITORY_MARKERS)
    file_sep = tokenizer.special_token_id("<|file_sep|>")
    assert file_sep is not None
    server = played(change=lambda state: replace(state, tokenizer=tokenizer))
    fill(server)
    assert file_sep in server.host.requests[0].params.stop_token_ids


@pytest.mark.parametrize("url", [URL, "/v1/completions"])
def test_a_model_without_markers_is_a_clear_400(played: Make, url: str) -> None:
    server = played(change=lambda state: replace(state, tokenizer=tokenizer_with()))
    response = server.ask(url, {"prompt": "a", "suffix": "b"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "suffix"
    assert "fill-in-the-middle" in response.json()["error"]["message"]
    assert server.ask(URL, {"prompt": "a"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": [5]}, "prompt"),
        ({"prompt": "", "suffix": ""}, "prompt"),
        ({"suffix": ["a"]}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 513}, "prompt"),
        ({"min_tokens": 17, "max_tokens": 16}, "min_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"random_seed": 2**64}, "random_seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"prompt": "x" * 600}, "prompt"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"grammar": "a"}, "grammar"),
        ({"tools": [{}]}, "tools"),
        ({"loops": 4}, "loops"),
    ],
)
def test_what_is_refused(played: Make, body: dict[str, Any], param: str) -> None:
    assert refused(played(), **body)["param"] == param


def test_too_long_a_gap_is_an_overflow(played: Make) -> None:
    error = refused(played(), prompt="x" * 300, suffix="y" * 300)
    assert error["code"] == "context_length_exceeded"


def test_another_model_is_404(played: Make) -> None:
    response = played().ask(URL, {"model": "codestral-latest", "prompt": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_a_stop_string_ends_it(played: Make) -> None:
    choice = fill(played(says("one\ntwo")), stop="\n")["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one", "stop")
