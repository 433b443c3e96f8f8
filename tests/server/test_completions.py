"""`/v1/completions` over a scripted engine."""

from collections.abc import Callable
from typing import Any

import pytest

from engine.messages import RequestOutput
from tests.server.played import EOS, Played, says, tokens

URL = "/v1/completions"
Make = Callable[..., Played]


def complete(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {"prompt": "abc", **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {"prompt": "abc", **body})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_the_answer_has_openai_shape(played: Make) -> None:
    answer = complete(played())
    assert answer["object"] == "text_completion"
    assert answer["model"] == "tiny"
    assert answer["id"].startswith("cmpl-")
    choice = answer["choices"][0]
    assert (choice["index"], choice["text"], choice["logprobs"], choice["finish_reason"]) == (
        0,
        "hello",
        None,
        "stop",
    )
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 6,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 3},
        "loops": 3,
    }


def test_defaults_are_openais(played: Make) -> None:
    server = played(says("x" * 100))
    answer = complete(server)
    assert answer["choices"][0]["finish_reason"] == "length"
    params = server.host.requests[0].params
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (16, 1.0, 1.0, 0)
    assert set(params.stop_token_ids) >= {EOS}
    assert params.logprobs is None
    assert params.prompt_logprobs is None


def test_null_means_default(played: Make) -> None:
    server = played()
    names = [
        *(
            "max_tokens",
            "temperature",
            "top_p",
            "n",
            "stream",
            "stop",
            "logit_bias",
            "logprobs",
            "echo",
            "seed",
        ),
        *("top_k", "min_p", "min_tokens", "ignore_eos", "stop_token_ids", "user", "suffix", "best_of"),
        *("skip_special_tokens", "include_stop_str_in_output", "cache_salt", "priority", "stream_options"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "tools", "response_format", "model"),
        "add_special_tokens",
    ]
    assert complete(server, **dict.fromkeys(names))["choices"][0]["text"] == "hello"
    assert server.host.requests[0].params.max_tokens == 16


def test_default_max_tokens_shrinks_to_the_room_left(played: Make) -> None:
    server = played(says("x" * 100))
    complete(server, prompt="a" * 510)
    assert server.host.requests[0].params.max_tokens == 2


def test_ignore_eos_removes_the_models_end_tokens(played: Make) -> None:
    server = played()
    complete(server, ignore_eos=True, stop_token_ids=[9])
    assert server.host.requests[0].params.stop_token_ids == (9,)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [tokens]),
        (["ab", "c"], [tokens, tokens]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_the_four_prompt_shapes(played: Make, prompt: Any, expected: list[Any]) -> None:
    server = played()
    answer = complete(server, prompt=prompt)
    texts = [prompt] if isinstance(prompt, str) else prompt
    wanted = [
        tokens(text) if given is tokens else given for text, given in zip(texts, expected, strict=False)
    ]
    assert [request.prompt_token_ids for request in server.host.requests] == wanted
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(wanted)))


def test_choices_are_numbered_prompt_by_prompt_and_seeded_in_a_row(played: Make) -> None:
    server = played()
    answer = complete(server, prompt=["a", "b"], n=2, seed=-1)
    requests = server.host.requests
    assert [request.prompt_token_ids for request in requests] == [tokens(t) for t in "aabb"]
    assert [request.params.seed for request in requests] == [2**64 - 1, 0, 2**64 - 1, 0]
    assert answer["usage"]["prompt_tokens"] == 2, "each prompt counts once"
    assert answer["usage"]["completion_tokens"] == 24
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 6


def test_without_a_seed_every_sequence_gets_its_own(played: Make) -> None:
    server = played()
    complete(server, prompt=["a", "a"], n=2)
    assert len({request.params.seed for request in server.host.requests}) == 4


def test_greedy_sampling_fields_reach_the_engine(played: Make) -> None:
    server = played()
    complete(
        server,
        temperature=0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.5,
        logit_bias={"7": -100},
        priority=3,
        cache_salt="s",
    )
    request = server.host.requests[0]
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0, 0.5, 0, 0.1)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (1, -1, 1.5)
    assert params.logit_bias == {7: -100}
    assert (request.priority, request.cache_salt) == (3, "s")


def test_stop_string_cuts_the_text_and_aborts_the_engine(played: Make) -> None:
    server = played(says("one, two, three", stop=False))
    choice = complete(server, stop=["zzz", ", t"])["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("one", "stop", ", t")
    assert server.host.aborted == [server.host.requests[0].request_id]


def test_a_single_stop_string_is_not_a_list_of_letters(played: Make) -> None:
    assert complete(played(says("one, two")), stop=", t")["choices"][0]["text"] == "one"


def test_stop_string_may_be_kept(played: Make) -> None:
    answer = complete(played(says("one, two")), stop=", ", include_stop_str_in_output=True)
    assert answer["choices"][0]["text"] == "one, "


def test_stop_strings_wait_for_min_tokens(played: Make) -> None:
    answer = complete(played(says("a.b.c")), stop=["."], min_tokens=3)
    assert answer["choices"][0]["text"] == "a.b"


def test_a_stop_token_is_not_shown_unless_asked(played: Make) -> None:
    (comma,) = tokens(",")
    choice = complete(played(says("a,b")), stop_token_ids=[comma])["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("a", "stop", comma)
    kept = complete(played(says("a,b")), stop_token_ids=[comma], include_stop_str_in_output=True)
    assert kept["choices"][0]["text"] == "a,"


def test_characters_split_over_tokens_arrive_whole(played: Make) -> None:
    chunks = played(says("é日🙂")).stream(URL, {"prompt": "a"})
    texts = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == "é日🙂"
    assert not any("\ufffd" in text for text in texts)


def test_echo_gives_prompt_and_answer(played: Make) -> None:
    assert complete(played(), echo=True)["choices"][0]["text"] == "abchello"
    assert complete(played(), prompt=tokens("xy"), echo=True)["choices"][0]["text"] == "xyhello"


def test_echo_with_logprobs_covers_both(played: Make) -> None:
    choice = complete(played(says("hé")), echo=True, logprobs=1)["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"] == "abchhé"[:3] + "hé"
    assert len({len(values) for values in logprobs.values()}) == 1
    assert len(logprobs["tokens"]) == 3 + 4, "with the two bytes of é and the end token"
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"][:5] == [0, 1, 2, 3, 4]
    for token, logprob, top in list(
        zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    )[1:]:
        assert top[token] == logprob == -1.5, "the sampled token is in, with the identical number"
        assert max(top.values()) == -0.5


def test_offsets_point_into_the_text(played: Make) -> None:
    choice = complete(played(says("é日b")), prompt="ü", echo=True, logprobs=0)["choices"][0]
    text, logprobs = choice["text"], choice["logprobs"]
    assert text == "üé日b"
    # A character of several tokens begins where the first of them does.
    assert logprobs["text_offset"] == [0, 0, 1, 1, 2, 2, 2, 3, 4]


def test_tokens_that_are_no_whole_characters_stay_apart_in_logprobs(played: Make) -> None:
    logprobs = complete(played(says("é")), logprobs=3)["choices"][0]["logprobs"]
    assert all(len(top) == 3 for top in logprobs["top_logprobs"][:2])


def test_minus_infinity_is_a_number(played: Make) -> None:
    logprobs = complete(played(says("h")), logprobs=3)["choices"][0]["logprobs"]
    assert min(logprobs["top_logprobs"][0].values()) == -9999.0


def test_prompt_only(played: Make) -> None:
    server = played()
    answer = complete(server, echo=True, logprobs=1, max_tokens=0)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "length")
    assert choice["logprobs"]["tokens"] == ["a", "b", "c"]
    assert answer["usage"]["completion_tokens"] == 0


def test_a_stream_says_what_the_whole_answer_says(played: Make) -> None:
    body = {"prompt": ["ab", "c"], "n": 2, "echo": True, "logprobs": 1, "stop": ["lo"]}
    whole = complete(played(), **body)
    chunks = played().stream(URL, {**body, "stream_options": {"include_usage": True}})
    *parts, last = chunks
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(chunk.get("usage") is None for chunk in parts)
    for expected in whole["choices"]:
        mine = [c for chunk in parts for c in chunk["choices"] if c["index"] == expected["index"]]
        assert "".join(choice["text"] for choice in mine) == expected["text"]
        assert [choice["finish_reason"] for choice in mine][-1] == expected["finish_reason"]
        for name, values in expected["logprobs"].items():
            assert [value for choice in mine for value in choice["logprobs"][name]] == values


def test_usage_is_only_sent_when_asked(played: Make) -> None:
    chunks = played().stream(URL, {"prompt": "a"})
    assert all(chunk["choices"] and chunk.get("usage") is None for chunk in chunks)


def test_continuous_usage(played: Make) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = played().stream(URL, {"prompt": "a", "stream_options": options})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 6


@pytest.mark.parametrize("path", [URL, "/v1/chat/completions"])
def test_where_usage_comes_last_the_other_chunks_say_null(played: Make, path: str) -> None:
    body = {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    options = {"include_usage": True, "include_obfuscation": False}
    *chunks, last = played().stream(path, {**body, "stream_options": options})
    assert all(chunk["choices"] and chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


def test_every_chunk_is_of_the_same_answer(played: Make) -> None:
    server = played()
    server.served_name = 'odd [] "name"\n'
    chunks = server.stream(URL, {"prompt": "a", "stream_options": {"include_usage": True}})
    kinds = {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks}
    assert len(kinds) == 1
    assert chunks[0]["model"] == 'odd [] "name"\n'


@pytest.mark.parametrize(("prompt", "kept"), [("abcdef", "def"), ("ab", "ab"), (["abcd", "e"], "bcd")])
def test_a_prompts_last_tokens_can_be_kept(played: Make, prompt: Any, kept: str) -> None:
    server = played()
    answer = complete(server, prompt=prompt, truncate_prompt_tokens=3, echo=True, logprobs=0)
    assert server.host.requests[0].prompt_token_ids == tokens(kept)
    choice = answer["choices"][0]
    assert choice["text"] == kept + "hello"
    assert choice["logprobs"]["tokens"][: len(kept)] == list(kept)


def test_ids_are_shortened_too(played: Make) -> None:
    server = played()
    complete(server, prompt=[9] * 600, truncate_prompt_tokens=2)
    assert server.host.requests[0].prompt_token_ids == [9, 9]


def test_suffix_is_filled_in_the_middle_and_cant_inject_markers(played: Make) -> None:
    server = played()
    complete(server, prompt="a<|fim_middle|>", suffix="</s>b")
    ids = server.host.requests[0].prompt_token_ids
    prefix, suffix, middle = 5, 6, 7
    assert ids == [prefix, *tokens("a<|fim_middle|>"), suffix, *tokens("</s>b"), middle]


def test_special_tokens_in_a_plain_prompt_are_special(played: Make) -> None:
    server = played()
    complete(server, prompt="<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>")
    assert server.host.requests[0].prompt_token_ids == [5, *tokens("a"), 6, *tokens("b"), 7]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "x", "prompt": [5]}, "suffix"),
        ({"suffix": "x", "echo": True}, "suffix"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": [320]}, "prompt"),
        ({"logit_bias": {"320": 1}}, "logit_bias"),
        ({"stop_token_ids": [320]}, "stop_token_ids"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"prompt": ["a"] * 64, "n": 100}, "n"),
        ({"tools": [{}]}, "tools"),
        ({"response_schema": {"type": "object"}}, "response_schema"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_anything": 1}, "guided_anything"),
        ({"regex": "a"}, "regex"),
        ({"grammar": "a"}, "grammar"),
        ({"json_schema": {"a": 1}}, "json_schema"),
        ({"choice": ["a"]}, "choice"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 513}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 5, "suffix": "x"}, "truncate_prompt_tokens"),
    ],
)
def test_what_is_refused(played: Make, body: dict[str, Any], param: str) -> None:
    server = played()
    assert refused(server, **body)["param"] == param
    assert server.host.requests == []


@pytest.mark.parametrize(
    "body",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"prompt_cache_key": "k", "safety_identifier": "s", "unheard_of": {"deep": [1]}},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "use_beam_search": False},
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"best_of": 1},
        {"model": "tiny"},
    ],
)
def test_what_is_accepted_and_ignored(played: Make, body: dict[str, Any]) -> None:
    assert complete(played(), **body)["choices"][0]["text"] == "hello"


def test_unknown_fields_make_one_short_warning(played: Make, caplog: pytest.LogCaptureFixture) -> None:
    complete(played(), **{f"field\n{index}" + "x" * 500: 1 for index in range(200)})
    (record,) = [record for record in caplog.records if "unknown" in record.getMessage()]
    assert len(record.getMessage()) < 2000
    assert "\n" not in record.getMessage()


def test_an_error_before_the_first_token_is_a_status(played: Make) -> None:
    def fails(request: Any) -> list[RequestOutput]:
        return [
            RequestOutput(request_id=request.request_id, finish_reason="error", error="too odd", invalid=True)
        ]

    response = played(fails).ask(URL, {"prompt": "a", "stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "too odd"


@pytest.mark.parametrize("body", [{}, {"stream": True}])
def test_an_engine_error_is_a_500(played: Make, body: dict[str, Any]) -> None:
    def fails(request: Any) -> list[RequestOutput]:
        return [RequestOutput(request_id=request.request_id, finish_reason="error", error="not numbers")]

    response = played(fails).ask(URL, {"prompt": "a", **body})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"


def test_a_late_error_is_an_event_and_then_done(played: Make) -> None:
    def fails(request: Any) -> list[RequestOutput]:
        name = request.request_id
        return [
            RequestOutput(request_id=name, token_ids=tokens("a")),
            RequestOutput(request_id=name, finish_reason="error", error="not numbers"),
        ]

    first, last = played(fails).stream(URL, {"prompt": "a"})
    assert first["choices"][0]["text"] == "a"
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["message"] == "not numbers"
