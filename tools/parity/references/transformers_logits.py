"""Logits of transformers, token by token with its own cache.

    build/parity/hf/bin/python tools/parity/references/transformers_logits.py DIRECTORY...

A directory holds a checkpoint and `tokens.json`; `transformers.npy` is written beside them: float32 [tokens, vocab].
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def main() -> None:
    """Command line; see the module's docstring."""
    for name in sys.argv[1:]:
        directory = Path(name)
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        cache, logits = None, []
        for token in json.loads((directory / "tokens.json").read_text()):
            out = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[0, 0].float().numpy())
        np.save(directory / "transformers.npy", np.stack(logits))


if __name__ == "__main__":
    main()
