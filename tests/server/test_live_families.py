"""Models of the other families from the command line to the answer: loops, usage, chat, metrics."""

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests import oracle
from tests.family_configs import family_config
from tests.make_checkpoint import make_checkpoint, random_tensors
from tests.server.live import live_server

LOOPS = {"ouro": 4, "nanbeige": 2, "iquestloopcoder": 2, "qwen3": 1}
PROMPTS = [[(7 * i + 3 * k) % 300 + 10 for i in range(5 + 23 * k)] for k in range(3)]
PLAIN: dict[str, Any] = {"ignore_eos": True, "repetition_penalty": 1.0, "skip_special_tokens": False}


@pytest.mark.parametrize("name", LOOPS)
def test_a_model_is_served_with_any_number_of_its_loops(name: str, tmp_path: Path) -> None:
    config, path, most = family_config(name), tmp_path / name, LOOPS[name]
    make_checkpoint(path, config, seed=5)
    tensors = random_tensors(config, seed=5)
    with live_server(path, "--kv-cache-memory", "64MiB", "--loop-metrics-sample", "1") as server:
        client = server.client()
        assert client.models.retrieve(name).model_dump()["num_loops"] == most
        for loops in {1, most}:
            for prompt in PROMPTS:
                answer = client.completions.create(
                    model=name,
                    prompt=prompt,
                    max_tokens=8,
                    temperature=0,
                    extra_body={**PLAIN, "loops": loops},
                )
                tokens = list(prompt)
                for _ in range(8):
                    tokens.append(int(oracle.forward(config, tensors, tokens, loops)[-1].argmax()))
                expected = httpx.post(
                    f"{server.url}/detokenize", json={"tokens": tokens[len(prompt) :]}
                ).json()
                assert answer.choices[0].text == expected["prompt"]
                assert answer.usage is not None
                assert answer.usage.model_dump()["loops"] == loops
        with pytest.raises(openai.BadRequestError, match=f"from 1 to {most}"):
            client.completions.create(model=name, prompt="a", extra_body={"loops": most + 1})
        chat = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "hi"}], max_tokens=5, stream=True
        )
        assert [chunk.choices[0].finish_reason for chunk in chat][-1] in ("length", "stop")
        scored = client.completions.create(
            model=name,
            prompt="ab",
            max_tokens=2,
            logprobs=0,
            temperature=0,
            extra_body={"loop_logprobs": True},
        )
        by_loop = scored.choices[0].model_dump()["loop_logprobs"]
        assert all(len(each) == most for each in by_loop)
        metrics = httpx.get(f"{server.url}/metrics").text
        assert f'num_loops="{most}"' in metrics
        for loop in range(most):
            assert f'loopserve_rows_total{{loop="{loop}"}}' in metrics
        assert httpx.get(f"{server.url}/cache").status_code == 200
