"""Logits of vLLM on the CPU, its prompts cut into chunks of a few tokens.

    build/parity/vllm/bin/python tools/parity/references/vllm_logits.py OURO.PY DIRECTORY...

vLLM removed its Ouro model on 25 July 2026; OURO.PY is that file from an older wheel, which this vLLM runs. A directory
holds a checkpoint and `tokens.json`; `vllm.npy` is written beside them: float32 [tokens, vocab].
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model is registered in this process
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}

import numpy as np
import torch
from transformers import AutoConfig, PretrainedConfig
from vllm import LLM, ModelRegistry, SamplingParams

CHUNK = 4


class OuroConfig(PretrainedConfig):
    """Holds what config.json says."""

    model_type = "ouro"


class LoopCoderConfig(PretrainedConfig):
    """Holds what config.json says."""

    model_type = "iquestloopcoder"


def register(source: Path) -> None:
    """Make this vLLM know Ouro."""
    name = "vllm.model_executor.models.ouro"
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    loader = module.AutoWeightsLoader
    module.AutoWeightsLoader = lambda model, skip_prefixes: loader(
        model
    )  # this vLLM leaves tied heads out by itself
    ModelRegistry.register_model("OuroForCausalLM", module.OuroForCausalLM)
    AutoConfig.register("ouro", OuroConfig)
    AutoConfig.register("iquestloopcoder", LoopCoderConfig)


def logits_of(directory: Path) -> np.ndarray:
    """Of every position: of the prompt as vLLM reports them, of the last as the first sampled token's."""
    tokens = json.loads((directory / "tokens.json").read_text())
    vocab = json.loads((directory / "config.json").read_text())["vocab_size"]
    llm = LLM(
        str(directory),
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=1,
        max_num_batched_tokens=CHUNK,
        enable_chunked_prefill=True,
        enable_prefix_caching=False,
        logprobs_mode="raw_logits",
        max_logprobs=-1,
    )
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=-1, logprobs=-1, detokenize=False)
    (answer,) = llm.generate([{"prompt_token_ids": tokens}], params, use_tqdm=False)
    rows = [*(answer.prompt_logprobs or [])[1:], (answer.outputs[0].logprobs or [])[0]]
    return np.array([[row[token].logprob for token in range(vocab)] for row in rows], np.float32)


def main() -> None:
    """Command line; see the module's docstring."""
    torch.set_num_threads(2)
    register(Path(sys.argv[1]))
    for name in sys.argv[2:]:
        np.save(Path(name) / "vllm.npy", logits_of(Path(name)))


if __name__ == "__main__":
    main()
