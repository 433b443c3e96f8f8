"""`/infill` over a scripted engine."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from engine.messages import Request, RequestOutput
from tests.server.fim_tokenizers import tokenizer_with
from tests.server.played import MAX_MODEL_LEN, Played, says, tokens

URL = "/infill"
PREFIX, SUFFIX, MIDDLE = 5, 6, 7
Make = Callable[..., Played]
GAP = {"input_prefix": "a\n", "input_suffix": "c", "prompt": "b"}


def fill(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {**GAP, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_answer_has_llama_cpps_shape(played: Make) -> None:
    server = played()
    answer = fill(server)
    assert (answer["content"], answer["stop"], answer["stop_type"]) == ("hello", True, "eos")
    assert (answer["tokens_predicted"], answer["tokens_evaluated"], answer["tokens_cached"]) == (6, 7, 3)
    assert (answer["model"], answer["truncated"], answer["has_new_line"]) == ("tiny", False, False)
    assert answer["stopping_word"] == ""
    timings = answer["timings"]
    assert (timings["prompt_n"], timings["predicted_n"], timings["cache_n"]) == (4, 6, 3)
    assert all(value >= 0 for value in timings.values())
    assert server.host.requests[0].prompt_token_ids == [
        *(PREFIX, *tokens("a\nb"), SUFFIX, *tokens("c"), MIDDLE)
    ]


@pytest.mark.parametrize(
    ("body", "stop_type", "word"),
    [({"stop": ["l"]}, "word", "l"), ({"n_predict": 2}, "limit", ""), ({"n_predict": 0}, "limit", "")],
)
def test_why_it_stopped(played: Make, body: dict[str, Any], stop_type: str, word: str) -> None:
    answer = fill(played(), **body)
    assert (answer["stop_type"], answer["stopping_word"]) == (stop_type, word)


def test_defaults_are_llama_cpps(played: Make) -> None:
    server = played()
    settings = fill(server)["generation_settings"]
    params = server.host.requests[0].params
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.8, 40, 0.95, 0.05)
    assert params.max_tokens == MAX_MODEL_LEN - 7
    assert (settings["temperature"], settings["n_predict"]) == (0.8, params.max_tokens)


def test_the_models_own_defaults_win_over_llama_cpps(played: Make) -> None:
    def change(state: Any) -> Any:
        return replace(
            state, generation_defaults=replace(state.generation_defaults, temperature=0.1, top_k=3)
        )

    server = played(change=change)
    fill(server)
    params = server.host.requests[0].params
    assert (params.temperature, params.top_k) == (0.1, 3)


def test_fields_reach_the_engine(played: Make) -> None:
    server = played()
    sampling = {"temperature": 0, "top_k": 0, "top_p": 0.99, "min_p": 0, "repeat_penalty": 1.1}
    fill(server, seed=7, n_predict=5, presence_penalty=1, frequency_penalty=1, ignore_eos=True, **sampling)
    params = server.host.requests[0].params
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0, 0, 0.99, 0)
    assert (params.seed, params.max_tokens, params.repetition_penalty) == (7, 5, 1.1)
    assert params.stop_token_ids == ()


def test_a_negative_seed_is_none(played: Make) -> None:
    server = played()
    fill(server, seed=-1)
    fill_again = server.host.requests[0].params.seed
    fill(server, seed=-1)
    assert server.host.requests[0].params.seed != fill_again


def test_what_llama_vim_sends(played: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Its body field by field; it reads flat names such as "timings/prompt_n"."""
    names = ["prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second"]
    names += ["predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second"]
    wanted = ["content", *(f"timings/{name}" for name in names), "truncated", "tokens_cached", "nothing/such"]
    answer = fill(
        played(),
        input_extra=[{"text": "x = 1\n", "time": [0, 1], "filename": "x.py"}],
        n_predict=128,
        n_indent=4,
        top_k=40,
        top_p=0.99,
        stream=False,
        samplers=["top_k", "top_p", "infill"],
        cache_prompt=True,
        t_max_prompt_ms=500,
        t_max_predict_ms=1000,
        response_fields=wanted,
    )
    assert list(answer) == wanted[:-1]
    assert answer["content"] == "hello"
    assert "unknown request fields" not in caplog.text


def test_extra_files_may_be_read_ahead_with_an_empty_gap(played: Make) -> None:
    """llama.vscode warms the cache with them."""
    server = played()
    extra = [{"text": "x = 1\n", "filename": "x.py"}, {"text": "y"}]
    body = {"input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0, "samplers": []}
    assert fill(server, **body, input_extra=extra)["content"] == ""
    assert server.host.requests[0].prompt_token_ids == [
        *(*tokens("x.py\nx = 1\n"), *tokens("tmp\ny\n"), PREFIX, SUFFIX, MIDDLE)
    ]
    assert server.host.requests[0].params.max_tokens == 0


def test_too_much_context_is_cut_not_refused(played: Make) -> None:
    server = played()
    answer = fill(
        server,
        input_prefix="p" * 1000,
        input_suffix="s" * 1000,
        input_extra=[{"text": "x" * 1000}] * 20,
        n_predict=100,
    )
    assert answer["truncated"] is True
    assert len(server.host.requests[0].prompt_token_ids) == MAX_MODEL_LEN - 100


def test_streamed_without_done(played: Make) -> None:
    response = played().ask(URL, {**GAP, "stream": True})
    assert response.status_code == 200
    *parts, rest = response.content.split(b"\n\n")
    assert rest == b""
    events = [json.loads(part.removeprefix(b"data: ")) for part in parts]
    assert "".join(event["content"] for event in events) == "hello"
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["stop_type"] == "eos"
    assert events[-1]["timings"]["predicted_n"] == 6


def test_a_late_failure_ends_a_stream_with_its_error_alone(played: Make) -> None:
    def fails(request: Request) -> list[RequestOutput]:
        name = request.request_id
        return [
            RequestOutput(request_id=name, token_ids=tokens("a")),
            RequestOutput(request_id=name, finish_reason="error", error="not numbers"),
        ]

    response = played(fails).ask(URL, {**GAP, "stream": True})
    assert response.content.endswith(b"}}\n\n")
    last = json.loads(response.content.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert last["error"]["message"] == "not numbers"


@pytest.mark.parametrize("text", ["a\nbcdef", "abcdefg"])
def test_a_time_limit_ends_it_after_the_first_line(played: Make, text: str) -> None:
    def slow(request: Request) -> Iterable[RequestOutput]:
        yield from says(text)(request)

    server = played(slow)
    clock = iter(float(second) for second in range(100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.openai.infill.time", _Clock(clock))
        answer = fill(server, t_max_predict_ms=2500)
    if "\n" in text:
        assert (answer["content"], answer["stop_type"]) == ("a\nbc", "limit")
        assert server.host.aborted == [server.host.requests[0].request_id]
    else:
        assert answer["content"] == text


class _Clock:
    """Stands in for the module `time`: each look is a second later."""

    def __init__(self, seconds: Any) -> None:
        self._seconds = seconds

    def monotonic(self) -> float:
        second: float = next(self._seconds)
        return second


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input_prefix": None}, "input_prefix"),
        ({"input_suffix": 7}, "input_suffix"),
        ({"prompt": [1]}, "prompt"),
        ({"input_extra": {}}, "input_extra"),
        ({"input_extra": [7]}, "input_extra.0"),
        ({"input_extra": [{"filename": "x"}]}, "input_extra.0.text"),
        ({"input_extra": [{"text": 1}]}, "input_extra.0.text"),
        ({"input_extra": [{"text": "a", "filename": "x" * 2000}]}, "input_extra.0.filename"),
        ({"input_extra": [{}] * 100_000}, "input_extra.0.text"),
        ({"input_extra": [{"text": ""}] * 1025}, "input_extra"),
        ({"n_predict": -3}, "n_predict"),
        ({"n_predict": 600}, "prompt"),
        ({"seed": 2**64}, "seed"),
        ({"t_max_predict_ms": -1}, "t_max_predict_ms"),
        ({"response_fields": ["x"] * 65}, "response_fields"),
        ({"response_fields": "x"}, "response_fields"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"json_schema": {"a": 1}}, "json_schema"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"lora": [{"id": 0, "scale": 0.5}]}, "lora"),
    ],
)
def test_what_is_refused(played: Make, body: dict[str, Any], param: str) -> None:
    server = played()
    started = time.perf_counter()
    response = server.ask(URL, {**GAP, **body})
    assert time.perf_counter() - started < 1.5
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert server.host.requests == []


def test_a_missing_field_is_named(played: Make) -> None:
    error = played().ask(URL, {"input_prefix": "a"}).json()["error"]
    assert error["message"] == "input_suffix is required."


def test_a_model_without_markers_is_a_clear_400(played: Make) -> None:
    response = played(change=lambda state: replace(state, tokenizer=tokenizer_with())).ask(URL, GAP)
    assert response.status_code == 400
    assert "fill-in-the-middle" in response.json()["error"]["message"]
