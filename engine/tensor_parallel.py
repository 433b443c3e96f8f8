"""Which part of a model each rank holds when `--tensor-parallel-size` splits it over processes or GPUs.

The split of Megatron-LM (arXiv 1909.08053), with a PLT gate added. Products are paired: q, k, v and gate, up are split
by their outputs (whole KV heads with their query heads; a part of the intermediate width), so attention and SiLU need
no other rank; o_proj and down_proj are split by their inputs, and the ranks' results are added up. That makes two sums
per layer. The head is split by the vocabulary. Norms and the embedding are small beside that, and whole everywhere, so
every rank holds every row's state: carries and the H beside each block need no exchange.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto

import torch

from engine.checkpoint import EMBEDDING, HEAD
from engine.config import ModelConfig
from engine.errors import ModelError


class Split(Enum):
    """How a tensor is divided."""

    WHOLE = auto()
    OUTPUTS = auto()  # along dimension 0
    INPUTS = auto()  # along dimension 1
    FIRST_RANK = auto()  # whole on rank 0, zero elsewhere: a bias of results that are added up


_SPLITS = {
    "embed_tokens.weight": Split.WHOLE,
    "input_layernorm.weight": Split.WHOLE,
    "post_attention_layernorm.weight": Split.WHOLE,
    "input_layernorm_2.weight": Split.WHOLE,
    "post_attention_layernorm_2.weight": Split.WHOLE,
    "q_norm.weight": Split.WHOLE,
    "k_norm.weight": Split.WHOLE,
    "norm.weight": Split.WHOLE,
    "gate_norm.weight": Split.WHOLE,
    "q_proj.weight": Split.OUTPUTS,
    "q_proj.bias": Split.OUTPUTS,
    "k_proj.weight": Split.OUTPUTS,
    "k_proj.bias": Split.OUTPUTS,
    "v_proj.weight": Split.OUTPUTS,
    "v_proj.bias": Split.OUTPUTS,
    "plt_gate.weight": Split.OUTPUTS,
    "plt_gate.bias": Split.OUTPUTS,
    "o_proj.weight": Split.INPUTS,
    "o_proj.bias": Split.FIRST_RANK,
    "gate_proj.weight": Split.OUTPUTS,
    "gate_proj.bias": Split.OUTPUTS,
    "up_proj.weight": Split.OUTPUTS,
    "up_proj.bias": Split.OUTPUTS,
    "down_proj.weight": Split.INPUTS,
    "down_proj.bias": Split.FIRST_RANK,
    "lm_head.weight": Split.OUTPUTS,
}
"""By the last two parts of a tensor's name; one that is missing here is an error, not a guess."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank of `size`."""

    rank: int
    size: int

    def part(self, length: int) -> slice:
        """This rank's share of `length`; the ranks' shares lie side by side and differ by one at most."""
        return slice(self.rank * length // self.size, (self.rank + 1) * length // self.size)

    def config(self, config: ModelConfig) -> ModelConfig:
        """The model as this rank's weights, cache and kernels see it.

        Only the embedding of a model with tied embeddings is needed whole, so its head is a tensor of its own.
        """
        return replace(
            config,
            num_heads=config.num_heads // self.size,
            num_kv_heads=config.num_kv_heads // self.size,
            intermediate_size=config.intermediate_size // self.size,
            tie_word_embeddings=False,
        )

    def tensors(
        self, config: ModelConfig, tensors: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """This rank's part of each tensor of the whole model, in memory of its own, under the same names."""
        for name, tensor in tensors:
            yield name, self._part_of(name, tensor)
            if name == EMBEDDING and config.tie_word_embeddings:
                yield HEAD, self._part_of(HEAD, tensor)

    def _part_of(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        match _SPLITS[".".join(name.split(".")[-2:])]:
            case Split.OUTPUTS:
                part = tensor[self.part(len(tensor))]
            case Split.INPUTS:
                part = tensor[:, self.part(tensor.shape[1])]
            case Split.FIRST_RANK if self.rank > 0:
                return torch.zeros_like(tensor)
            case _:
                return tensor
        return part.clone(memory_format=torch.contiguous_format)


def check_divisible(config: ModelConfig, size: int) -> None:
    """See whether a model can be split over `size` ranks.

    Raises:
        ModelError: its KV heads or its intermediate width can't be shared out evenly.
    """
    heads, width = config.num_kv_heads, config.intermediate_size
    if heads % size == 0 and width % size == 0:
        return
    possible = [str(n) for n in range(1, heads + 1) if heads % n == 0 and width % n == 0]
    raise ModelError(
        f"--tensor-parallel-size {size} must divide the model's {heads} KV heads and its intermediate_size "
        f"{width}; possible are {', '.join(possible)}"
    )
