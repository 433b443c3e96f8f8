"""Logits of mlx-lm, token by token with its own cache.

    build/parity/mlx/bin/python tools/parity/references/mlx_lm_logits.py DIRECTORY...

A directory holds a checkpoint and `tokens.json`; `mlx_lm.npy` is written beside them: float32 [tokens, vocab].
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model


def main() -> None:
    """Command line; see the module's docstring."""
    mx.set_default_device(mx.cpu)
    for name in sys.argv[1:]:
        directory = Path(name)
        model, _ = load_model(directory)
        cache = make_prompt_cache(model)
        logits = []
        for token in json.loads((directory / "tokens.json").read_text()):
            row = model(mx.array([[token]]), cache=cache)[0, 0].astype(mx.float32)
            mx.eval(row)
            logits.append(np.array(row))
        np.save(directory / "mlx_lm.npy", np.stack(logits))


if __name__ == "__main__":
    main()
