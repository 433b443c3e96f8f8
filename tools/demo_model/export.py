"""Write a checkpoint as a model directory in the released layout, measure it, and write its card.

Works at any time during training, from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tools.demo_model import corpus
from tools.demo_model.card import model_card
from tools.demo_model.dataset import EPOCHS, token_bytes
from tools.demo_model.generate import Sampling, generate
from tools.demo_model.layout import config_json, generation_json, tokenizer_config_json
from tools.demo_model.network import Network, NetworkConfig
from tools.demo_model.tokenizer import released_json
from tools.demo_model.train import BATCH_TOKENS, LONG_ROW, SHORT_ROW, cut_rows, mean_loss

SAMPLE_TOKENS = 90
SNIPPET_MODULE, SNIPPET_CHARACTERS = "shlex.py", 2000
PROMPTS = (
    ("Continue a function", "def fibonacci(n):\n"),
    (
        "Continue after a docstring",
        'def read_json(path):\n    """Read a JSON file and return its content."""\n',
    ),
    (
        "Continue a class",
        "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n",
    ),
    ("Fill in the middle", corpus.fim_prompt("def mean(values):\n    total = ", "\n    return total / n\n")),
    (
        "Chat",
        f"{corpus.IM_START}user\nWrite a Python function `is_even`. Return True if the number is even.{corpus.IM_END}\n"
        f"{corpus.IM_START}assistant\n",
    ),
)


def load_shipped(checkpoint: dict[str, Any]) -> Network:
    """The checkpoint's network with its weights rounded to bfloat16, as they are shipped, held in float32."""
    network = Network(NetworkConfig(**checkpoint["config"]))
    network.load_state_dict({name: t.bfloat16().float() for name, t in checkpoint["network"].items()})
    return network.eval()


def measure(network: Network, tokens: np.ndarray, sizes: np.ndarray, every: int) -> dict[str, Any]:
    """Held-out losses in float32: both loops and cut to one on short rows, and both loops on rows as long as allowed.

    Args:
        tokens: held-out token ids, [N].
        sizes: bytes per token id, [V].
        every: keep one row in so many; 1 measures all.
    """
    loops = network.config.plt_num_loops
    losses = []
    for name, length, used in (
        (f"R = {loops}, rows of {SHORT_ROW} tokens", SHORT_ROW, loops),
        (f"the same weights cut to one loop, rows of {SHORT_ROW} tokens", SHORT_ROW, 1),
        (f"R = {loops}, rows of {LONG_ROW:,} tokens", LONG_ROW, loops),
    ):
        rows = cut_rows(tokens, length, every)
        nats = mean_loss(network, rows, used, bf16=False)
        bytes_per_token = float(sizes[rows[:, 1:].numpy()].mean())
        losses.append(
            {
                "name": name,
                "num_loops": used,
                "row_length": length,
                "tokens": rows[:, 1:].numel(),
                "nats_per_token": round(nats, 4),
                "bits_per_byte": round(nats / math.log(2) / bytes_per_token, 4),
            }
        )
    return {
        "tokens": losses[0]["tokens"],
        "r2": losses[0]["nats_per_token"],
        "r1_cut": losses[1]["nats_per_token"],
        "losses": losses,
    }


def measure_snippet(network: Network, tokenizer: Tokenizer) -> dict[str, Any]:
    """A held-out text with its exact loss, so that another implementation can be checked against this one."""
    raw = dict(corpus.read_stdlib())[SNIPPET_MODULE]
    text = raw.decode("utf-8")[:SNIPPET_CHARACTERS]
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
    return {
        "source": f"the first {SNIPPET_CHARACTERS} characters of {SNIPPET_MODULE}, Python standard library (PSF-2.0)",
        "text": text,
        "tokens": ids.numel(),
        "r2": round(mean_loss(network, ids, network.config.plt_num_loops, bf16=False), 5),
        "r1_cut": round(mean_loss(network, ids, 1, bf16=False), 5),
    }


def sample(network: Network, tokenizer: Tokenizer) -> list[dict[str, str]]:
    """One greedy and one sampled continuation of each prompt."""
    settings = generation_json()
    sampled = Sampling(settings["temperature"], settings["top_p"], settings["repetition_penalty"])
    stops, out = settings["eos_token_id"], []
    for name, prompt in PROMPTS:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        texts = [
            tokenizer.decode(generate(network, ids, SAMPLE_TOKENS, stops, how), skip_special_tokens=False)
            for how in (Sampling(), sampled)
        ]
        out.append({"name": name, "prompt": prompt, "greedy": texts[0], "sampled": texts[1]})
    return out


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_model(out: Path, network: Network, tokenizer_text: str) -> dict[str, Any]:
    """Write what a server needs of a model directory, the network's weights as bfloat16; returns config.json."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.bfloat16().contiguous() for name, t in network.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # the library makes it readable by its owner alone
    config = config_json(network.config)
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", generation_json())
    (out / "tokenizer.json").write_text(tokenizer_text, encoding="utf-8")
    write_json(out / "tokenizer_config.json", tokenizer_config_json(tokenizer_text))
    return config


def read_tokenizer(work: Path) -> str:
    """The tokenizer's JSON in the released layout."""
    return released_json((work / "tokenizer.json").read_text(encoding="utf-8"))


def export(work: Path, out: Path, every: int) -> None:
    """Write the model directory `out` from WORK/checkpoint.pt and the files that dataset.py made."""
    checkpoint = torch.load(work / "checkpoint.pt", weights_only=True)
    network = load_shipped(checkpoint)
    tokenizer_text = read_tokenizer(work)
    config = write_model(out, network, tokenizer_text)

    tokenizer = Tokenizer.from_str(tokenizer_text)
    record = {
        "parameters": sum(t.numel() for t in network.state_dict().values()),
        "sample_tokens": SAMPLE_TOKENS,
        "training": {
            "tokens": checkpoint["position"],
            "steps": checkpoint["step"],
            "seconds": round(checkpoint["elapsed"]),
            "batch_tokens": BATCH_TOKENS,
            "bf16_autocast": checkpoint["settings"]["bf16"],
            "corpus_tokens": len(np.load(work / "train.npy", mmap_mode="r")) // EPOCHS,
            "probe_history": checkpoint["history"],
        },
        "held_out": measure(network, np.load(work / "held_out.npy"), token_bytes(tokenizer), every),
        "snippet": measure_snippet(network, tokenizer),
    }
    write_json(out / "training.json", record)
    sources = json.loads((work / "sources.json").read_text())
    card = model_card(config, record, sample(network, tokenizer), sources, corpus.HELD_OUT_STDLIB)
    (out / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="directory that dataset.py and train.py filled"
    )
    parser.add_argument("--out", type=Path, default=Path("models/demo"))
    parser.add_argument("--every", type=int, default=1, help="measure on one held-out row in so many")
    arguments = parser.parse_args()
    export(arguments.work, arguments.out, arguments.every)
