"""The demo model's training code and the committed model directory. No network, no training."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from tests import oracle
from tools.demo_model import corpus
from tools.demo_model.dataset import BLOCK, GROUP, Rows, token_bytes
from tools.demo_model.generate import Sampling, generate
from tools.demo_model.layout import CHAT_TEMPLATE, config_json
from tools.demo_model.loop_counts import Run, learning_rate_factor
from tools.demo_model.network import Network, NetworkConfig, window_attention
from tools.demo_model.tokenizer import PLAIN_TOKENS, SPECIAL_TOKENS
from tools.demo_model.train import Schedule, cut_rows, mean_loss

MODEL = Path(__file__).parents[2] / "models" / "demo"
SMALL = NetworkConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    plt_window_left=3,
    plt_hidden_scale=0.4,
)


def read(name: str) -> dict[str, Any]:
    return json.loads((MODEL / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def shipped() -> Network:
    config = read("config.json")
    network = Network(
        NetworkConfig(
            plt_window_left=config["plt_window_size"][0],
            **{key: config[key] for key in NetworkConfig.__dataclass_fields__ if key in config},
        )
    )
    network.load_state_dict({name: t.float() for name, t in load_file(MODEL / "model.safetensors").items()})
    return network.eval()


def small_network() -> Network:
    """Random weights everywhere, gates and norms included, so that no term of the formulas vanishes."""
    torch.manual_seed(1)
    network = Network(SMALL).double()
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return network


# The training form.


@pytest.mark.parametrize("num_loops", [1, 2, 3])
def test_training_form_equals_the_oracle(num_loops: int) -> None:
    network, ids = small_network(), torch.randint(0, 50, (2, 23))
    with torch.no_grad():
        logits = network(ids, num_loops)
    for row, expected_ids in zip(logits, ids.tolist(), strict=True):
        expected = oracle.forward(config_json(SMALL), network.state_dict(), expected_ids, num_loops)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)  # the norms are float32 here


def test_a_token_does_not_see_later_ones() -> None:
    network, ids = small_network(), torch.randint(0, 50, (1, 20))
    changed = ids.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 50
    with torch.no_grad():
        before, after = network(ids), network(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


@pytest.mark.parametrize("length", [1, 4, 5, 17])
def test_window_attention_equals_a_dense_mask(length: int) -> None:
    q, k, v = torch.randn(3, 2, 2, length, 8, dtype=torch.float64)
    i, j = torch.arange(length)[:, None], torch.arange(length)[None, :]
    mask = (j <= i) & (j >= i - 4)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(window_attention(q, k, v, left=4), expected)


# The corpus.


def test_fim_documents_hold_the_whole_text() -> None:
    rng = random.Random(0)
    text = "".join(f"line {n} = {n * n}\n" for n in range(60))
    for _ in range(200):
        document = corpus.fim(text, rng)
        body, middle = document.removesuffix(corpus.END).split(corpus.FIM_MIDDLE)
        prefix, suffix = body.removeprefix(corpus.FIM_PREFIX).split(corpus.FIM_SUFFIX)
        assert prefix + middle + suffix == text
        assert middle


def test_chat_documents_are_what_the_template_writes() -> None:
    messages = [("system", "Be brief."), ("user", "What?"), ("assistant", "That.")]
    rendered = render([{"role": role, "content": content} for role, content in messages])
    assert corpus.chat(messages) == rendered + corpus.END


def test_functions_with_docstrings_become_questions() -> None:
    text = 'def double(x):\n    """Return the double of a number.\n\n    More.\n    """\n    return 2 * x\n'
    (function,) = corpus.documented_functions(text)
    assert function == ("double", "Return the double of a number.", text.rstrip())
    document = corpus.chat_document(function, random.Random(0))
    assert document.endswith(f"```python\n{text.rstrip()}\n```{corpus.IM_END}\n{corpus.END}")


@pytest.mark.parametrize(
    "text",
    [
        "# Automatically generated, do not edit\n" + "name = other\n" * 40,
        "table = [\n" + "    0x1234, 0x5678, 0x9abc,\n" * 40 + "]\n",
        "def broken(:\n" * 40,
        "short = 1\n",
    ],
)
def test_what_is_not_hand_written_python_is_dropped(text: str) -> None:
    assert corpus.clean(text.encode()) is None


def test_tests_and_vendored_copies_are_skipped() -> None:
    assert corpus.wanted_path("pkg/core/graph.py")
    for path in ("pkg/tests/graph.py", "pip/_vendor/rich/text.py", "pkg/test_graph.py", "pkg/data.json"):
        assert not corpus.wanted_path(path)


# Rows and schedule.


def test_rows_cover_a_group_once_at_any_length(tmp_path: Path) -> None:
    tokens = np.arange(BLOCK * GROUP + 1) % 65536
    np.save(tmp_path / "train.npy", tokens.astype(np.uint16))
    for length in (512, 2048):
        rows = Rows(tmp_path / "train.npy")
        batches = [rows.batch(position, 4096 // length, length) for position in range(0, BLOCK * GROUP, 4096)]
        starts = sorted(int(row[0]) for batch in batches for row in batch)
        assert starts == sorted(int(tokens[s]) for s in range(0, BLOCK * GROUP, length))
        assert all(bool(((row[1:] - row[:-1]) % 65536 == 1).all()) for batch in batches for row in batch)


def test_schedule_ends_at_zero_and_can_be_cut_short() -> None:
    schedule = Schedule(deadline=1000.0, decay_seconds=400.0)
    assert schedule.factor(0.0, step=0) < 0.1
    assert schedule.factor(500.0, step=500) == 1.0
    assert schedule.factor(800.0, step=500) == 0.5
    schedule.stop_early(300.0)
    assert schedule.factor(300.0, step=500) == 1.0
    schedule.stop_early(420.0)  # the file is still there: nothing changes
    assert schedule.deadline == 540.0
    assert schedule.factor(540.0, step=500) == 0.0


def test_rate_by_steps_begins_with_warm_up_and_ends_at_zero() -> None:
    factors = [learning_rate_factor(step, 1000) for step in range(1001)]
    assert factors[0] < 0.1
    assert factors[100] == factors[550] == 1.0
    assert factors[775] == pytest.approx(0.5)
    assert factors[1000] == 0.0


@pytest.mark.parametrize("num_loops", [1, 3])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, num_loops: int) -> None:
    tokens = np.random.default_rng(0).integers(0, SMALL.vocab_size, BLOCK * GROUP + 1)
    np.save(tmp_path / "train.npy", tokens.astype(np.uint16))
    rows, probe = Rows(tmp_path / "train.npy"), cut_rows(tokens[:1030], 512)
    config = replace(SMALL, plt_num_loops=num_loops)
    torch.set_num_threads(1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for work in (whole, cut):
        work.mkdir()
    Run(whole, config, 4, compiled=False).turn(rows, probe, 4)
    for _ in range(2):
        Run(cut, config, 4, compiled=False).turn(rows, probe, 2)
    saved = [torch.load(work / f"loops-{num_loops}" / "checkpoint.pt") for work in (whole, cut)]
    assert saved[0]["step"] == saved[1]["step"] == 4
    assert saved[0]["history"] == saved[1]["history"]
    assert saved[0]["network"].keys() == saved[1]["network"].keys()
    assert all(
        torch.equal(saved[0]["network"][name], saved[1]["network"][name]) for name in saved[0]["network"]
    )
    assert not torch.equal(saved[0]["network"]["model.norm.weight"], torch.ones(config.hidden_size))
    with pytest.raises(SystemExit, match="run of 4 steps, not 5"):
        Run(cut, config, 5, compiled=False)


# The committed model.


def test_directory_is_small_and_complete() -> None:
    names = {path.name for path in MODEL.iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
        *("tokenizer_config.json", "training.json", "README.md"),
    }
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 20_000_000


def test_tensors_are_those_of_the_config(shipped: Network) -> None:
    tensors = load_file(MODEL / "model.safetensors")
    assert {name: t.shape for name, t in tensors.items()} == {
        name: t.shape for name, t in shipped.state_dict().items()
    }
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert config_json(shipped.config) == read("config.json")


def test_tokenizer_round_trips(tokenizer: Tokenizer) -> None:
    text = "def größe(x):\n\treturn  '日本 👩‍👩‍👧 \\u0301'\r\n\n        # 12345\x00\n"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    sizes = token_bytes(tokenizer)
    assert sum(int(sizes[i]) for i in ids) == len(text.encode())
    assert tokenizer.encode("12").ids == [tokenizer.token_to_id("1"), tokenizer.token_to_id("2")]
    assert tokenizer.get_vocab_size() == read("config.json")["vocab_size"]


def test_special_tokens_have_their_ids(tokenizer: Tokenizer) -> None:
    for index, token in enumerate(SPECIAL_TOKENS):
        assert tokenizer.encode(token).ids == [index]
        kept = tokenizer.decode([index], skip_special_tokens=True)
        assert kept == (token if token in PLAIN_TOKENS else "")
    ends = [tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|im_end|>")]
    assert read("config.json")["eos_token_id"] == read("generation_config.json")["eos_token_id"] == ends


def test_chat_template_where_undefined_names_are_errors() -> None:
    """lm-eval renders so."""
    strict = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(CHAT_TEMPLATE)
    text = strict.render(messages=[{"role": "user", "content": "hi"}])
    assert text == "<|im_start|>user\nhi<|im_end|>\n"


def render(messages: list[dict[str, Any]], **options: object) -> str:
    return jinja2.Environment().from_string(CHAT_TEMPLATE).render(messages=messages, **options)


def test_chat_template_with_tools() -> None:
    assert read("tokenizer_config.json")["chat_template"] == CHAT_TEMPLATE
    text = render(
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "sunny"},
            {"role": "tool", "content": "warm"},
        ],
        tools=[{"type": "function", "function": {"name": "f"}}],
        add_generation_prompt=True,
    )
    assert text.startswith("<|im_start|>system\n# Tools\n")
    assert '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>\n' in text
    assert text.endswith(
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_two_loops_beat_one(shipped: Network, tokenizer: Tokenizer) -> None:
    record = read("training.json")
    assert record["held_out"]["r2"] < record["held_out"]["r1_cut"]
    snippet = record["snippet"]
    ids = torch.tensor([tokenizer.encode(snippet["text"]).ids])
    assert ids.numel() == snippet["tokens"]
    assert mean_loss(shipped, ids, 2, bf16=False) == pytest.approx(snippet["r2"], abs=2e-4)
    assert mean_loss(shipped, ids, 1, bf16=False) == pytest.approx(snippet["r1_cut"], abs=2e-4)


def test_it_continues_with_python(shipped: Network, tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode("def add(first, second):\n").ids
    text = tokenizer.decode(generate(shipped, prompt, 12, stops=(), sampling=Sampling()))
    assert text.startswith("    ")


def test_cut_rows_overlap_by_the_predicted_token() -> None:
    rows = cut_rows(np.arange(11, dtype=np.uint16), length=5)
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10]]
