"""The real openai client against the real server process, and what happens when the engine is killed under load."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import oracle
from tests.make_checkpoint import make_checkpoint, random_config, random_tensors
from tests.server.live import LiveServer, live_server

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
CONFIG = random_config(plt_num_loops=3, eos_token_id=2)


@pytest.fixture(scope="module")
def demo():
    with live_server(DEMO, "--max-model-len", "512", "--kv-cache-memory", "256MiB") as server:
        yield server


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "random-r3"
    make_checkpoint(path, CONFIG, seed=5)
    options = ("--kv-cache-memory", "64MiB", "--api-key", "secret", "--loop-metrics-sample", "0.5")
    with live_server(path, *options) as server:
        yield server


def metrics_of(server: LiveServer, headers: dict[str, str] | None = None) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics", headers=headers).text
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_greedy_output_over_http_equals_the_oracle_for_staggered_concurrent_requests(random_model):
    tensors = random_tensors(CONFIG, seed=5)
    client = random_model.client("secret")
    prompts = [[(7 * i + 3 * k) % 300 + 10 for i in range(5 + 23 * k)] for k in range(8)]

    def ask(number: int) -> list[int]:
        time.sleep(0.03 * number)
        answer = client.completions.create(
            model="random-r3",
            prompt=prompts[number],
            max_tokens=16,
            temperature=0,
            extra_body={"ignore_eos": True, "repetition_penalty": 1.0, "skip_special_tokens": False},
        )
        tokens = httpx.post(
            f"{random_model.url}/tokenize",
            json={"prompt": answer.choices[0].text, "add_special_tokens": False},
            headers={"Authorization": "Bearer secret"},
        ).json()["tokens"]
        return tokens, answer.choices[0].text

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    detokenize = httpx.Client(base_url=random_model.url, headers={"Authorization": "Bearer secret"})
    for prompt, (_, text) in zip(prompts, answers, strict=True):
        expected = oracle.greedy(CONFIG, tensors, prompt, 16)
        wanted = detokenize.post("/detokenize", json={"tokens": expected}).json()["prompt"]
        assert text == wanted


def test_keys_are_wanted_everywhere_but_on_the_probes(random_model):
    with pytest.raises(openai.AuthenticationError):
        random_model.client("wrong").models.list()
    assert httpx.get(f"{random_model.url}/health").status_code == 200
    assert httpx.post(f"{random_model.url}/tokenize", json={"prompt": "a"}).status_code == 401


def test_stream_and_whole_give_the_same_text(demo):
    client = demo.client()
    common = {"model": "demo", "prompt": "def fibonacci(n):", "max_tokens": 30, "seed": 7, "temperature": 0.8}
    whole = client.completions.create(**common)
    chunks = list(client.completions.create(**common, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.usage.prompt_tokens == 8


def test_chat_streamed_and_whole(demo):
    client = demo.client()
    common = {
        "model": "demo",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Write a function that adds."}]}],
        "max_completion_tokens": 20,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**common, logprobs=True, top_logprobs=2)
    chunks = list(client.chat.completions.create(**common, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    entries = whole.choices[0].logprobs.content
    assert len(entries) == whole.usage.completion_tokens
    assert all(entry.logprob == max(top.logprob for top in entry.top_logprobs) for entry in entries[:1])


def test_echo_gives_the_prompts_logprobs(demo):
    answer = demo.client().completions.create(
        model="demo", prompt="import os\nimport sys\n", max_tokens=1, logprobs=1, echo=True, temperature=0
    )
    choice = answer.choices[0]
    assert choice.text.startswith("import os\nimport sys\n")
    assert choice.logprobs.token_logprobs[0] is None
    assert len(choice.logprobs.tokens) == answer.usage.prompt_tokens + 1
    for token, logprob, top in zip(
        choice.logprobs.tokens[1:],
        choice.logprobs.token_logprobs[1:],
        choice.logprobs.top_logprobs[1:],
        strict=True,
    ):
        assert top[token] == logprob
    assert "".join(choice.logprobs.tokens) == choice.text


def test_a_budget_of_loops_and_what_each_loop_says(demo):
    common = {"model": "demo", "prompt": "def add(a, b):", "max_tokens": 9, "temperature": 0, "logprobs": 0}
    client = demo.client()
    both, one = (
        client.completions.create(**common, extra_body={"loops": loops, "loop_logprobs": True})
        for loops in (2, 1)
    )
    by_header = client.completions.create(**common, extra_headers={"X-Loops": "1"})
    assert [answer.usage.loops for answer in (both, one, by_header)] == [2, 1, 1]
    assert by_header.choices[0].text == one.choices[0].text
    for answer in (both, one):
        choice = answer.choices[0]
        assert [loops[-1] for loops in choice.loop_logprobs] == choice.logprobs.token_logprobs


def test_what_the_loops_hold_and_do_is_shown(random_model):
    """While a request runs, and when it has ended."""
    client, headers = random_model.client("secret"), {"Authorization": "Bearer secret"}
    prompt = [(7 * i) % 300 + 10 for i in range(64)]
    stream = client.completions.create(
        model="random-r3",
        prompt=prompt,
        max_tokens=400,
        stream=True,
        extra_body={"ignore_eos": True, "loop_logprobs": True},
    )
    first = next(choice for chunk in stream for choice in chunk.choices if choice.loop_tokens)
    assert [len(loops) for loops in first.loop_tokens] == [3] * len(first.loop_logprobs)
    shown = httpx.get(f"{random_model.url}/cache", headers=headers).json()
    running = metrics_of(random_model, headers)
    assert httpx.get(f"{random_model.url}/cache").status_code == 401
    stream.close()
    counts = {(state["state"], state["loop"]): state["blocks"] for state in shown["states"]}
    assert sum(counts.values()) == shown["num_blocks"]
    assert len(shown["cells"]) == -(-shown["num_blocks"] // shown["blocks_per_cell"])
    held = [counts["held", loop] for loop in range(3)]
    assert held[0] >= 4
    assert 1 <= held[1] <= 2
    assert 1 <= held[2] <= 2
    assert running["loopserve_live_tokens"] > 64
    assert running["loopserve_kv_cache_bytes,group=window,loop=2"] > 0
    assert running["loopserve_kv_cache_bytes,group=carry,loop=1"] == 64 * 4
    sequential = running["loopserve_kv_cache_baseline_bytes,layout=sequential"]
    assert sequential == 3 * running["loopserve_kv_cache_baseline_bytes,layout=one_loop"] > 0
    assert (
        running["loopserve_kv_cache_sequences,layout=shared,length=live"]
        > running["loopserve_kv_cache_sequences,layout=sequential,length=live"]
    )
    for loop in ("1", "2"):
        tokens = running[f"loopserve_loop_sampled_tokens_total,loop={loop}"]
        assert tokens > 0
        assert running[f"loopserve_loop_gate_count,loop={loop}"] == tokens
        assert 0 < running[f"loopserve_loop_gate_sum,loop={loop}"] < tokens
        assert running[f"loopserve_loop_change_sum,loop={loop}"] > 0
        assert running[f"loopserve_loop_top_token_changes_total,loop={loop}"] <= tokens
    deadline = time.monotonic() + 20
    while metrics_of(random_model, headers)["loopserve_num_requests_running"] and time.monotonic() < deadline:
        time.sleep(0.1)
    idle = metrics_of(random_model, headers)
    assert sum(value for name, value in idle.items() if name.startswith("loopserve_kv_cache_bytes")) == 0
    assert "loopserve_kv_cache_sequences,layout=shared,length=live" not in idle


def test_n_and_lists_of_prompts_are_numbered(demo):
    ids = demo.client().completions.create(model="demo", prompt=[[300, 301], [302]], n=2, max_tokens=2)
    assert [choice.index for choice in ids.choices] == [0, 1, 2, 3]
    assert ids.usage.prompt_tokens == 3


def test_stop_strings_end_and_are_left_out(demo):
    client = demo.client()
    free = client.completions.create(model="demo", prompt="def add(a, b):", max_tokens=40, temperature=0)
    text = free.choices[0].text
    stop = text[7:11]
    stopped = client.completions.create(
        model="demo", prompt="def add(a, b):", max_tokens=40, temperature=0, stop=["never", stop]
    )
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_errors_have_openai_shape(demo):
    client = demo.client()
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-7", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="demo", prompt="a " * 2000)
    assert long.value.code == "context_length_exceeded"
    assert "maximum context length is 512 tokens" in str(long.value)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="demo", prompt=[999999])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "x"}], response_format={"type": "json_schema"}
        )


def leave_early(url: str, body: dict) -> None:
    """Close the connection while the answer is being made."""
    with httpx.Client(timeout=0.3) as client:
        try:
            with client.stream("POST", url, json=body) as response:
                next(response.iter_bytes())
        except httpx.ReadTimeout:
            pass  # not streamed: nothing came before we left


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_aborted(demo, stream):
    before = metrics_of(demo)["loopserve_request_success_total,finished_reason=abort"]
    body = {"prompt": "x", "max_tokens": 500, "stream": stream, "ignore_eos": True}
    leave_early(f"{demo.url}/v1/completions", body)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        now = metrics_of(demo)
        if now["loopserve_request_success_total,finished_reason=abort"] == before + 1:
            break
        time.sleep(0.05)
    assert now["loopserve_request_success_total,finished_reason=abort"] == before + 1
    time.sleep(0.3)
    assert metrics_of(demo)["loopserve_num_requests_running"] == 0


def test_killing_the_engine_gives_typed_errors_and_the_server_recovers(demo):
    errors: list[Exception | None] = []

    def ask(stream: bool) -> None:
        try:
            answer = demo.client().completions.create(
                model="demo", prompt="x", max_tokens=480, stream=stream, extra_body={"ignore_eos": True}
            )
            if stream:
                for _ in answer:
                    pass
            errors.append(None)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    demo_pid = demo.engine_pid()
    httpx.get(f"{demo.url}/health").raise_for_status()
    killed = time.monotonic()
    os.kill(demo_pid, signal.SIGKILL)
    for thread in threads:
        thread.join(15)
    assert time.monotonic() - killed < 10
    assert len(errors) == 6
    for error in errors:
        assert isinstance(error, openai.APIError)
        assert error.code == "engine_dead"
    demo.wait_ready()
    assert demo.engine_pid() != demo_pid
    assert (
        demo.client().completions.create(model="demo", prompt="x", max_tokens=2).usage.completion_tokens <= 2
    )
