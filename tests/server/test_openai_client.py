"""What the openai client itself makes of our answers; the server is a real process with a random model."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.server.live import LiveServer, live_server

KEY = "a-key"
PROMPT = "def add(a, b):"


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[LiveServer]:
    with live_server(
        checkpoint, "--kv-cache-memory", "64MiB", "--api-key", KEY, "--served-model-name", "tiny"
    ) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: LiveServer) -> OpenAI:
    return server.client(KEY)


def test_models(client: OpenAI) -> None:
    (card,) = client.models.list().data
    assert card.id == "tiny"
    assert card.model_dump()["max_model_len"] == 512
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key(server: LiveServer) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        server.client("wrong").completions.create(model="tiny", prompt="a")
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


def test_greedy_and_seeded_answers_repeat(client: OpenAI) -> None:
    for options in ({"temperature": 0}, {"temperature": 1.0, "seed": 5}, {"temperature": 1.0, "seed": -5}):
        texts = {
            client.completions.create(model="tiny", prompt=PROMPT, max_tokens=12, **options).choices[0].text  # type: ignore[call-overload]
            for _ in range(3)
        }
        assert len(texts) == 1, options


def test_choices_have_their_own_seeds(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=8, n=4, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) > 1
    single = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=8, seed=3)
    assert single.choices[0].text == answer.choices[2].text, "choice i draws with seed + i"


def test_texts_and_their_token_ids_are_the_same_prompt(client: OpenAI, server: LiveServer) -> None:
    ids = client.post("/../tokenize", body={"prompt": PROMPT}, cast_to=dict[str, list[int]])["tokens"]
    by_text, by_ids = (
        client.completions.create(model="tiny", prompt=prompt, max_tokens=10, temperature=0)
        for prompt in (PROMPT, ids)
    )
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert by_text.usage is not None
    assert by_text.usage.prompt_tokens == len(ids)


def test_batches_answer_as_if_alone(client: OpenAI) -> None:
    prompts = ["a", PROMPT, "x = " * 30]
    together = client.completions.create(model="tiny", prompt=prompts, max_tokens=6, temperature=0)
    for prompt, choice in zip(prompts, together.choices, strict=True):
        alone = client.completions.create(model="tiny", prompt=prompt, max_tokens=6, temperature=0)
        assert choice.text == alone.choices[0].text


def test_echo_with_logprobs_as_lm_eval_asks_for_it(client: OpenAI) -> None:
    ids = [100, 101, 102, 103]
    answer = client.completions.create(
        model="tiny", prompt=[ids, ids[:2]], max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234
    )
    for choice, length in zip(answer.choices, (4, 2), strict=True):
        logprobs = choice.logprobs
        assert logprobs is not None
        assert logprobs.tokens is not None
        assert logprobs.token_logprobs is not None
        assert logprobs.top_logprobs is not None
        assert len(logprobs.tokens) == length + 1
        assert logprobs.token_logprobs[0] is None
        triples = zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True)
        for token, logprob, top in list(triples)[1:]:
            assert top[token] == logprob
        greedy = logprobs.top_logprobs[-1]
        assert logprobs.token_logprobs[-1] == max(greedy.values())
    first, second = (choice.logprobs for choice in answer.choices)
    assert first is not None
    assert second is not None
    assert first.token_logprobs is not None
    assert second.token_logprobs is not None
    assert first.token_logprobs[1] == pytest.approx(second.token_logprobs[1], abs=1e-5)


def test_prompt_only(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == PROMPT
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_the_stream_helper_understands_chat_chunks(client: OpenAI) -> None:
    common: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    free = client.chat.completions.create(**common).choices[0].message.content
    assert free
    common["stop"] = free[len(free) // 2]  # the helper refuses answers that were cut by their length
    whole = client.chat.completions.create(**common)
    with client.chat.completions.stream(**common, stream_options={"include_usage": True}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.completion_tokens == whole.usage.completion_tokens
    details = whole.usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens is not None


def test_a_second_identical_prompt_is_reported_as_cached(client: OpenAI) -> None:
    prompt = [50 + index % 200 for index in range(200)]
    usages = [client.completions.create(model="tiny", prompt=prompt, max_tokens=1).usage for _ in range(2)]
    cached = [
        usage.prompt_tokens_details.cached_tokens for usage in usages if usage and usage.prompt_tokens_details
    ]
    assert cached[0] == 0
    assert cached[1] is not None
    assert 0 < cached[1] < 200


def test_stop_strings_and_tokens(client: OpenAI) -> None:
    free = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=30, temperature=0, extra_body={"ignore_eos": True}
    ).choices[0]
    stop = free.text[5:8]
    stopped = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=30, temperature=0, stop=stop, extra_body={"ignore_eos": True}
    ).choices[0]
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_closing_a_stream_frees_the_engine(client: OpenAI, server: LiveServer) -> None:
    for _ in range(20):
        stream = client.completions.create(
            model="tiny", prompt="x", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    deadline = time.monotonic() + 10
    while running(client) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(client) == 0


def running(client: OpenAI) -> float:
    text = client.get("/../metrics", cast_to=str)
    (line,) = [line for line in text.splitlines() if line.startswith("loopserve_num_requests_running")]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"prompt": "a " * 600}, "context_length_exceeded"),
        ({"prompt": "a", "extra_body": {"guided_json": {"type": "object"}}}, "unsupported_parameter"),
        ({"prompt": "a", "extra_body": {"tools": [{}]}}, "unsupported_parameter"),
        ({"prompt": [5000]}, None),
        ({"prompt": ""}, None),
        ({"prompt": "a", "best_of": 3}, None),
    ],
)
def test_bad_requests(client: OpenAI, options: dict[str, object], code: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", **options)  # type: ignore[call-overload]
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code == code
    assert caught.value.request_id
