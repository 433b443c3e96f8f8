"""What the ranks of a tensor-parallel model exchange within a pass, and the products that do so.

A group is an object, not torch.distributed's process-wide default: an engine that is started again in the same process
gets a new one. Ranks meet through a file in a private directory and talk over the loopback interface only.

On the CPU (gloo) and with two ranks, results don't depend on the batch: a sum of two numbers has one value. With more,
the order in which gloo adds up an element depends on where in the tensor it lies, so a row's last bits may depend on
its batch. The CUDA path (NCCL) was never run: there was no machine with two GPUs.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn import functional

from engine.errors import EngineDeadError
from engine.tensor_parallel import Shard
from kernels.interface import Linear
from kernels.linear import LinearFactory

_distributed: Any = distributed  # its group classes are exported, but not typed

EXCHANGE_TIMEOUT = timedelta(seconds=120)
"""Longest wait for another rank. Ranks are in step, so this covers one that compiles a kernel which others have."""


class RankGroup:
    """All ranks of one model.

    Every rank calls the same methods in the same order, with tensors of the same shape and dtype.
    """

    def __init__(self, shard: Shard, store: Path, device: torch.device) -> None:
        """Meet the other ranks; returns when all are there.

        Args:
            store: a file that doesn't exist yet, in a directory that only this user may read; may be deleted
                afterwards.
            device: where exchanged tensors are.

        Raises:
            EngineDeadError: a rank didn't come.
        """
        self.shard = shard
        file_store = _distributed.FileStore(str(store), shard.size)
        make_backend = _nccl if device.type == "cuda" else _gloo
        self._backend: Any = self._waited_for(lambda: make_backend(file_store, shard))
        self.add_up(torch.zeros(1, device=device))  # NCCL connects at the first exchange

    def add_up(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' `x`, which it overwrites.

        Raises:
            EngineDeadError: a rank was lost.
        """
        self._waited_for(lambda: self._backend.allreduce([x]).wait())
        return x

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """All ranks' `x`, by rank; empty on all ranks but the first.

        Raises:
            EngineDeadError: a rank was lost.
        """
        gathered = [torch.empty_like(x) for _ in range(self.shard.size)] if self.shard.rank == 0 else []
        options = _distributed.GatherOptions()
        options.rootRank = 0
        outputs = [gathered] if gathered else []
        self._waited_for(lambda: self._backend.gather(outputs, [x], options).wait())
        return gathered

    def _waited_for(self, exchange: Callable[[], Any]) -> Any:
        try:
            return exchange()
        except RuntimeError as error:  # DistBackendError is one too
            reason = str(error).partition("\n")[0][:200]
            raise EngineDeadError(
                f"Tensor-parallel rank {self.shard.rank} lost another rank, whose log says why ({reason})"
            ) from error


class SummedProduct:
    """A product split by its inputs: each rank's part of the input times its part of the weight, added up."""

    def __init__(self, product: Linear, group: RankGroup) -> None:
        self.product = product
        self.group = group

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.group.add_up(self.product(x))


class GatheredHead:
    """A head split by the vocabulary, which need not be divisible: shorter parts are padded on their way.

    Attributes:
        product: gives this rank's part of the logits.
        vocab_size: of the whole model.
    """

    def __init__(self, product: Linear, vocab_size: int, group: RankGroup) -> None:
        self.product = product
        self.vocab_size = vocab_size
        self.group = group

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """float32 ``[rows, vocab]`` on the first rank, ``[rows, 0]`` on the others."""
        shard = self.group.shard
        if len(x) == 0:
            return x.new_empty(0, self.vocab_size, dtype=torch.float32)
        part: torch.Tensor = self.product(x).float()
        widest = -(-self.vocab_size // shard.size)
        parts = self.group.gather(functional.pad(part, (0, widest - part.shape[1])).contiguous())
        if not parts:
            return part[:, :0]
        widths = [Shard(rank, shard.size).part(self.vocab_size) for rank in range(shard.size)]
        return torch.cat([p[:, : w.stop - w.start] for p, w in zip(parts, widths, strict=True)], dim=1)


def summed_products(make: LinearFactory, group: RankGroup) -> LinearFactory:
    """Makes products whose weight is this rank's part of the inputs."""
    return lambda weight, bias: SummedProduct(make(weight, bias), group)


def gathered_heads(make: LinearFactory, vocab_size: int, group: RankGroup) -> LinearFactory:
    """Makes heads whose weight is this rank's part of the vocabulary."""
    return lambda weight, bias: GatheredHead(make(weight, bias), vocab_size, group)


def _gloo(store: Any, shard: Shard) -> Any:
    gloo = _distributed.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname="127.0.0.1")]
    options._timeout = EXCHANGE_TIMEOUT
    return gloo(store, shard.rank, shard.size, options)


def _nccl(store: Any, shard: Shard) -> Any:
    nccl = _distributed.ProcessGroupNCCL  # builds for the CPU don't have it
    options = nccl.Options()
    options._timeout = EXCHANGE_TIMEOUT
    return nccl(store, shard.rank, shard.size, options)
