"""A trained model beside the random ones: SmolLM2-135M-Instruct with the 4-bit weights that a package index has."""

import json
import subprocess
from pathlib import Path

import numpy as np

from engine.tokenizer import Tokenizer
from tools.parity import ours
from tools.parity.cases import SAMPLED_TOKENS

SCRIPT = Path(__file__).parent / "smollm2_checkpoint.py"
TITLE = "SmolLM2-135M-Instruct, trained"
CONVERSATION = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France? Name 3 rivers of that country.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def prepare(work: Path, directory: Path) -> np.ndarray:
    """Write the checkpoint, and a conversation with the answer's first tokens; our logits while they were sampled.

    Args:
        work: holds the environment `gguf` and the quantised file (`tools/parity/install.sh`).
    """
    (source,) = work.glob("*.gguf")
    subprocess.run([work / "gguf/bin/python", SCRIPT, source, directory], check=True, capture_output=True)
    prompt = Tokenizer.load(directory).encode(CONVERSATION, add_special_tokens=False)
    tokens, logits = ours.sampled(directory, prompt, SAMPLED_TOKENS)
    (directory / "tokens.json").write_text(json.dumps(tokens))
    return logits
