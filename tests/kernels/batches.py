"""Random paged caches and row batches for kernel tests, with non-contiguous block tables."""

from dataclasses import dataclass

import numpy as np
import torch

from kernels.interface import AttentionBatch, LayerCache


@dataclass(frozen=True)
class KernelCase:
    """One attention call and what it is computed from."""

    cache: LayerCache
    queries: torch.Tensor
    gates: torch.Tensor
    batch: AttentionBatch


def random_case(
    seed: int,
    *,
    num_loops: int = 2,
    kv_heads: int = 2,
    group: int = 2,
    head_dim: int = 16,
    block_size: int = 4,
    window: int = 5,
    lengths: tuple[int, ...] = (9, 1, 30),
    new_rows: tuple[int, ...] = (3, 1, 8),
    floors: bool = False,
) -> KernelCase:
    """A batch in which each sequence has the last `new_rows` positions of every loop as rows."""
    rng = np.random.default_rng(seed)
    most_blocks = max(lengths) // block_size + 1
    num_blocks = len(lengths) * num_loops * most_blocks + 3
    ids = rng.permutation(num_blocks)[: len(lengths) * num_loops * most_blocks]
    tables = torch.from_numpy(ids.reshape(len(lengths), num_loops, most_blocks).astype(np.int32))
    shape = (num_blocks, kv_heads, block_size, head_dim)
    keys, values = (torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for _ in range(2))
    positions, loops, starts, slots = [], [], [0], []
    floor = torch.zeros(len(lengths), num_loops - 1, dtype=torch.int32)
    for sequence, (length, rows) in enumerate(zip(lengths, new_rows, strict=True)):
        rows = min(rows, length)
        for loop in range(num_loops):
            if loop and floors:
                floor[sequence, loop - 1] = int(rng.integers(0, length - rows + 1))
            for position in range(length - rows, length):
                positions.append(position)
                loops.append(loop)
                block = int(tables[sequence, loop, position // block_size])
                slots.append(block * block_size + position % block_size)
        starts.append(len(positions))
    count = len(positions)
    heads = kv_heads * group
    queries = torch.from_numpy(rng.standard_normal((count, heads, head_dim), dtype=np.float32))
    gates = torch.from_numpy(rng.random((count, heads), dtype=np.float32))
    batch = AttentionBatch(
        slots=torch.tensor(slots),
        positions=torch.tensor(positions, dtype=torch.int32),
        loops=torch.tensor(loops, dtype=torch.int32),
        row_starts=torch.tensor(starts, dtype=torch.int32),
        shared_tables=tables[:, 0].contiguous(),
        window_tables=tables[:, 1:].contiguous(),
        window_first=torch.zeros(len(lengths), num_loops - 1, dtype=torch.int32),
        window_floor=floor,
        window=window,
    )
    return KernelCase(LayerCache(keys, values), queries, gates, batch)
