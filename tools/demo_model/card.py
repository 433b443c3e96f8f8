"""The model card, written from what was measured."""

from __future__ import annotations

from typing import Any

_CARD = """---
license: apache-2.0
language: [code]
library_name: loopserve
tags: [plt, looped-transformer, demo]
---

# Demo model: a small Parallel Loop Transformer

**This is a demo. It has no practical use as a coder**: its answers look like Python and are mostly wrong. It exists so
that a server for looped transformers has a real model to load, test and measure with, in the layout of LoopCoder-V2.

| | |
|---|---|
| Architecture | PLT (arXiv 2510.24824): {layers} layers applied {loops} times, embeddings tied |
| Parameters | {parameters:,} |
| Widths | hidden {hidden}, {heads} heads of {head_dim}, {kv_heads} key/value heads, SwiGLU {intermediate} |
| Loop settings | window [{window}, 0], gate on the layer's input, norm after every loop |
| Scales | embedding {emb_scale}, hidden {hidden_scale} |
| Tokenizer | byte-level BPE of {vocab:,} tokens, trained on the same training split; FIM, ChatML and tool markers |
| Context | {context:,} tokens (trained on rows of 512, then of 2,048) |
| Weights | bfloat16, Apache-2.0 |

The scales are those reported for the released LoopCoder-V2. They also suit this model: an embedding starts with a root
mean square of 1/√hidden and a normed state has about 1, so with 0.707 for both the embedding would be lost.

## Training

{tokens:,} tokens in {steps:,} steps of {batch:,} tokens: {minutes:.0f} minutes on {machine}
shared with other work, matrix products in {precision}. Muon for the layers' matrices, AdamW for the rest; constant
learning rate, then linear decay to zero. That is less than one pass over the corpus of {corpus_tokens:,} tokens. By
characters, about 65 % are plain files, 25 % fill-in-the-middle (prefix, suffix, middle) and 10 % chat, made from
documented functions: the user gives the docstring, the assistant the code. There were no tool calls among them; the
tool part of the chat template is only there to exercise a server.

## Held-out loss

Kept out of the training of both tokenizer and model: {held_out_packages}, and the standard library's
{stdlib_modules}.
Measured on {scored} tokens of them, with the weights as shipped and float32 arithmetic:

| | nats/token | bits/byte |
|---|---|---|
{losses}

Cutting the model to one loop is not the same as training a model with one loop: nothing in training asked the first
loop to predict a token. The `probe_history` in training.json comes from a small part of the held-out text, measured
while training ran, and only shows its course.

## Samples

The first output for each prompt with seed 0, not selected, cut at {sample_tokens} tokens. "Sampled" uses the settings
of generation_config.json.

{samples}
## Data

Python source from the standard library and the wheels below, with the licences that the wheels' metadata state. Tests,
vendored copies, generated files, tables and duplicates were left out.

| package | version | licence | split | files | characters |
|---|---|---|---|---|---|
{sources}
"""

MACHINE = "two cores of an Intel Xeon (AMX)"


def _fenced(text: str) -> str:
    return f"````text\n{text.rstrip()}\n````\n"


def model_card(
    config: dict[str, Any],
    record: dict[str, Any],
    samples: list[dict[str, str]],
    sources: list[dict[str, Any]],
    held_out_stdlib: tuple[str, ...],
) -> str:
    """README.md of the model directory.

    Args:
        config: config.json.
        record: training.json.
        samples: name, prompt, and the outputs "greedy" and "sampled" of each.
        sources: provenance of the corpus, see `corpus.Source`.
        held_out_stdlib: standard library modules that were held out.
    """
    training, losses = record["training"], record["held_out"]["losses"]
    packages = [
        f"{s['name']} {s['version']}" for s in sources if s["held_out"] and "standard" not in s["name"]
    ]
    return _CARD.format(
        layers=config["num_hidden_layers"],
        loops=config["plt_num_loops"],
        parameters=record["parameters"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        kv_heads=config["num_key_value_heads"],
        intermediate=config["intermediate_size"],
        window=config["plt_window_size"][0],
        emb_scale=config["plt_emb_scale"],
        hidden_scale=config["plt_hidden_scale"],
        vocab=config["vocab_size"],
        context=config["max_position_embeddings"],
        tokens=training["tokens"],
        steps=training["steps"],
        batch=training["batch_tokens"],
        minutes=training["seconds"] / 60,
        machine=MACHINE,
        precision="bfloat16" if training["bf16_autocast"] else "float32",
        corpus_tokens=training["corpus_tokens"],
        held_out_packages=", ".join(packages),
        stdlib_modules=", ".join(held_out_stdlib),
        scored=f"{record['held_out']['tokens']:,}",
        losses="\n".join(
            f"| {loss['name']} | {loss['nats_per_token']:.3f} | {loss['bits_per_byte']:.3f} |"
            for loss in losses
        ),
        sample_tokens=record["sample_tokens"],
        samples="\n".join(
            f"**{s['name']}**, prompt:\n\n{_fenced(s['prompt'])}\ngreedy:\n\n{_fenced(s['greedy'])}\n"
            f"sampled:\n\n{_fenced(s['sampled'])}"
            for s in samples
        ),
        sources="\n".join(
            f"| {s['name']} | {s['version']} | {s['licence']} | {'held out' if s['held_out'] else 'training'} "
            f"| {s['files']} | {s['characters']:,} |"
            for s in sources
        ),
    )
