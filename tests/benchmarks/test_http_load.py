"""The load client: what it sends, times, counts and refuses."""

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.http_load import Load, Target, send
from tests.benchmarks.scripted_server import TOKEN, Script, answer, scripted_server


def test_sends_distinct_prompts_at_once_and_other_ones_for_another_seed() -> None:
    script = Script(answer(2), pause=0.05)
    load = Load(streams=4, prompt_tokens=7, max_tokens=2, max_token_id=300)
    with scripted_server(script) as url:
        replies = send(Target("it", url, api_key="secret"), load, seed=0)
        assert script.most_at_once == 4
        send(Target("it", url, model="own"), load, seed=1)
        send(Target("it", url, model="own"), load, seed=1)
    prompts = [tuple(body["prompt"]) for body in script.bodies]
    assert len(set(prompts[:8])) == 8
    assert sorted(prompts[4:8]) == sorted(prompts[8:])
    assert all(len(prompt) == 7 and min(prompt) >= 100 and max(prompt) < 300 for prompt in prompts)
    assert [body["model"] for body in script.bodies] == ["scripted"] * 4 + ["own"] * 8
    assert script.keys == ["Bearer secret"] * 4 + [None] * 8
    assert [(reply.prompt_tokens, reply.completion_tokens) for reply in replies] == [(7, 2)] * 4
    first = script.bodies[0]
    assert (first["max_tokens"], first["temperature"], first["ignore_eos"]) == (2, 0, True)


def test_letters_instead_of_ids_and_no_vendor_field() -> None:
    script = Script(answer(1))
    with scripted_server(script) as url:
        send(Target("it", f"{url}/v1", text_prompts=True), Load(1, 20, 1, ignore_eos=False), seed=0)
    assert len(script.bodies[0]["prompt"]) == 20
    assert script.bodies[0]["prompt"].isalpha()
    assert "ignore_eos" not in script.bodies[0]


def test_times_are_those_of_the_events() -> None:
    with scripted_server(Script(answer(5), pause=0.05)) as url:
        (reply,) = send(Target("it", url), Load(1, 3, 5), seed=0)
    assert 0.05 <= reply.to_first_token < 0.5
    assert reply.per_token is not None
    assert 0.05 <= reply.per_token < 0.15
    assert len(reply.gaps) == 4
    assert sum(reply.gaps) == pytest.approx(4 * reply.per_token)


def test_tokens_are_those_of_usage_not_of_events() -> None:
    events = [TOKEN, TOKEN, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}]
    with scripted_server(Script(events, pause=0.04)) as url:
        (reply,) = send(Target("it", url), Load(1, 3, 9), seed=0)
    assert reply.completion_tokens == 9
    assert reply.per_token == pytest.approx(reply.gaps[0] / 8)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (Script([{"error": {"message": "overloaded"}}]), "overloaded"),
        (Script([{"detail": "bad"}], status=400), "answered 400"),
        (Script([TOKEN]), "no usage"),
        (Script(answer(1)[1:]), "no tokens"),
    ],
)
def test_what_is_not_an_answer_is_an_error(script: Script, text: str) -> None:
    with scripted_server(script) as url, pytest.raises(BenchmarkError, match=text):
        send(Target("it", url), Load(1, 3, 5), seed=0)


def test_nobody_listens() -> None:
    with pytest.raises(BenchmarkError, match=r"127\.0\.0\.1:9"):
        send(Target("it", "http://127.0.0.1:9", model="m"), Load(1, 3, 5), seed=0)


def test_a_stream_that_takes_too_long_is_given_up() -> None:
    with (
        scripted_server(Script(answer(20), pause=0.1)) as url,
        pytest.raises(BenchmarkError, match=r"0\.3 s"),
    ):
        send(Target("it", url), Load(1, 3, 20, timeout=0.3), seed=0)
