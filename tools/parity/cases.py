"""The checkpoints whose logits are compared, and who else computes them."""

from dataclasses import dataclass, field
from typing import Any

from tests.family_configs import family_config

MLX, TRANSFORMERS, VLLM = "mlx_lm", "transformers", "vllm"
PROMPT_TOKENS, SAMPLED_TOKENS = 24, 16
"""More prompt than any window here, so that later loops start at its tail."""

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# vLLM's attention on CPUs has heads of 32 and more.
_WIDE = {"hidden_size": 128, "head_dim": 32}


@dataclass(frozen=True)
class Case:
    """A tiny random checkpoint.

    Attributes:
        family: its `model_type`.
        changes: of the family's config in `tests/family_configs.py`.
        references: who computes it besides us; the first one's logits are kept for the tests.
    """

    family: str
    title: str
    references: tuple[str, ...]
    seed: int = 1
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        return family_config(self.family, **self.changes)

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.family}-{self.title}".replace(", ", "-").replace(" ", "-").lower()


_TIED = {"tie_word_embeddings": True}
_BIASED = {"attention_bias": True, "mlp_bias": True}
CASES = (
    Case("llama", "grouped heads", (TRANSFORMERS, MLX)),
    Case(
        "llama",
        "biases, tied, one KV head",
        (TRANSFORMERS, MLX),
        2,
        _TIED | _BIASED | {"num_key_value_heads": 1},
    ),
    Case("llama", "llama3 rope", (TRANSFORMERS, MLX), 3, {"rope_scaling": _LLAMA3}),
    Case("iquestcoder", "grouped heads", (TRANSFORMERS,), 4),
    Case("qwen2", "grouped heads", (TRANSFORMERS, MLX)),
    Case("qwen2", "tied, MHA", (TRANSFORMERS, MLX), 2, _TIED | {"num_key_value_heads": 4}),
    Case("qwen3", "grouped heads", (TRANSFORMERS, MLX)),
    Case("qwen3", "tied, wide heads", (TRANSFORMERS, MLX), 2, _TIED | {"head_dim": 32}),
    Case("qwen3", "biases", (TRANSFORMERS,), 3, {"attention_bias": True}),
    Case("iquestloopcoder", "window of 9", (MLX,)),
    Case(
        "iquestloopcoder",
        "window of 4, MHA",
        (MLX,),
        2,
        {"loop_window_size": 4, "num_key_value_heads": 4},
    ),
    Case(
        "iquestloopcoder", "biases, tied, window of 1", (MLX,), 3, _TIED | _BIASED | {"loop_window_size": 1}
    ),
    Case("iquestloopcoder", "wide heads", (VLLM, MLX), 4, _WIDE),
    Case("iquestloopcoder", "three loops", (VLLM,), 5, _WIDE | {"loop_num": 3, "loop_window_size": 5}),
    Case("nanbeige", "two loops", (MLX,)),
    Case("nanbeige", "three loops, one norm", (MLX,), 2, {"num_loops": 3, "skip_loop_final_norm": True}),
    Case(
        "nanbeige",
        "loss weights, biases, tied, wide heads",
        (MLX,),
        3,
        _TIED | {"attention_bias": True, "loop_loss_weights": [0.2, 0.3], "head_dim": 32},
    ),
    Case("ouro", "four loops, MHA", (VLLM,), 1, _WIDE),
    Case(
        "ouro",
        "three loops, grouped heads",
        (VLLM,),
        2,
        _WIDE | {"total_ut_steps": 3, "num_key_value_heads": 2},
    ),
    Case("ouro", "two loops", (VLLM,), 3, _WIDE | {"total_ut_steps": 2}),
)
