"""The page of parity and the goldens; what is compared is tested by `tests/engine/test_parity_goldens.py`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tools.parity.cases import CASES, MLX, PROMPT_TOKENS, VLLM
from tools.parity.goldens import checksum, golden, write
from tools.parity.page import Result, page

RESULT = Result("ouro", "two loops", VLLM, "0.32.0", 1e-6, 3e-6, 2e-6, 4.2)


def test_the_page_gives_the_worst_of_each_family_and_reference() -> None:
    other = replace(RESULT, title="three loops", decoded=2e-5)
    text = page([RESULT, other, replace(RESULT, reference=MLX, version="0.32.2")], "a machine")
    assert "| ouro | vLLM 0.32.0 | 2 | 2.0e-05 |" in text
    assert "| ouro | mlx-lm 0.32.2 | 1 | 3.0e-06 |" in text
    assert "| ouro | two loops | vLLM | 1.0e-06 | 3.0e-06 | 2.0e-06 | 4.2 |" in text


def test_goldens_hold_the_references_numbers(tmp_path: Path) -> None:
    logits = np.arange(5 * 320, dtype=np.float32).reshape(5, 320)
    write(tmp_path / "new" / "goldens.json", [golden(CASES[0], [9, 8, 7, 6, 5], "5.23.0", logits)])
    (read,) = json.loads((tmp_path / "new" / "goldens.json").read_text())
    assert (read["positions"], read["reference"]) == ([0, 3], "transformers 5.23.0")
    assert read["logits"][1] == [float(logits[3, token]) for token in read["ids"]]


def test_other_weights_have_another_checksum() -> None:
    tensors = {"a": torch.ones(3), "b": torch.zeros(2)}
    assert checksum(tensors) == 3.0 != checksum({**tensors, "b": torch.ones(2)})


def test_cases_have_names_of_their_own_and_prompts_beyond_their_windows() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(
        case.config.get("loop_window_size", 0) < PROMPT_TOKENS for case in CASES if "wide" not in case.title
    )
