"""lm-eval's local-completions over 20 rows: what it computes must be what the server says when asked directly."""

import json
import math
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from checking import API, KEY, MODEL, equal, feature, main, request, require
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

ROWS = [
    {"sum": f"{a} + {b} =", "right": f" {a + b}", "wrong": f" {a + b + 1}"}
    for a in range(4)
    for b in range(5)
]
CHOICES = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{sum}}}}"
doc_to_choice: "{{{{[right, wrong]}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
GENERATE = """
task: answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{sum}}}}"
doc_to_target: "{{{{right}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8}}
metric_list: [{{metric: exact_match}}]
"""


@cache
def samples(task: str) -> list[dict[str, Any]]:
    """What lm-eval asked and got, one entry per row."""
    os.environ["OPENAI_API_KEY"] = KEY
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "sums.json"
        data.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
        (folder / "sums.yaml").write_text(CHOICES.format(data=data), encoding="utf-8")
        (folder / "answers.yaml").write_text(GENERATE.format(data=data), encoding="utf-8")
        found = simple_evaluate(
            model="local-completions",
            model_args={
                "model": MODEL,
                "base_url": f"{API}/completions",
                "tokenizer_backend": "remote",
                "auth_token": KEY,
                "batch_size": 4,
                "max_length": 2048,
            },
            tasks=[task],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
        )
    return found["samples"][task]


@feature("echo logprobs")
def loglikelihoods() -> None:
    rows = samples("sums")
    equal(len(rows), len(ROWS), "rows")
    for row in rows:
        for choice, ((found, _),) in zip(("right", "wrong"), row["resps"], strict=True):
            wanted = direct(row["doc"]["sum"], row["doc"][choice])
            require(math.isclose(float(found), wanted, abs_tol=1e-3), f"{row['doc']}: {found}, not {wanted}")


@feature("completion")
def generations() -> None:
    rows = samples("answers")
    equal(len(rows), len(ROWS), "rows")
    for row in rows:
        body = {
            "model": MODEL,
            "prompt": row["doc"]["sum"],
            "max_tokens": 8,
            "temperature": 0,
            "stop": ["\n"],
        }
        text = request("/v1/completions", body)["choices"][0]["text"]
        equal(row["resps"][0][0], text, f"answer to {row['doc']['sum']!r}")


@feature("tokenize")
def remote_tokenizer() -> None:
    require(request("/tokenizer_info")["eos_token"], "no eos_token")
    require(samples("sums"), "no rows with the remote tokenizer")


def direct(context: str, continuation: str) -> float:
    """Log-probability of the continuation, by one request with text instead of token ids."""
    before = len(request("/tokenize", {"prompt": context, "add_special_tokens": False})["tokens"])
    body = {"model": MODEL, "prompt": context + continuation, "max_tokens": 0, "echo": True, "logprobs": 1}
    return sum(request("/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"][before:])


if __name__ == "__main__":
    main("lm-eval")
