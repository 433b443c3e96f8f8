"""Random paged caches and row batches for kernel tests, with non-contiguous block tables."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from kernels import e4m3
from kernels.interface import KernelBackend, LayerCache, RowBatch


@dataclass(frozen=True)
class KernelCase:
    """One attention call and what it is computed from."""

    cache: LayerCache
    queries: torch.Tensor
    gates: torch.Tensor
    batch: RowBatch


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
    fewer_loops: bool = False,
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype | None = None,
) -> KernelCase:
    """A batch in which each sequence has the last `new_rows` positions of every loop as rows.

    Tiles are whole segments and nothing is split; `tiled_for` cuts them as a backend wants.

    Args:
        fewer_loops: each sequence has a random number of loops, and an empty table for each that it does not have.
    """
    rng = np.random.default_rng(seed)
    most_blocks = max(lengths) // block_size + 1
    num_blocks = len(lengths) * num_loops * most_blocks + 3
    ids = rng.permutation(num_blocks)[: len(lengths) * num_loops * most_blocks]
    tables = torch.from_numpy(ids.reshape(len(lengths), num_loops, most_blocks).astype(np.int32))
    shape = (num_blocks + 1, kv_heads, block_size, head_dim)
    positions: list[int] = []
    loops: list[int] = []
    slots: list[int] = []
    tiles: list[tuple[int, int, int]] = []
    floor = torch.zeros(len(lengths), num_loops - 1, dtype=torch.int32)
    for sequence, (length, rows) in enumerate(zip(lengths, new_rows, strict=True)):
        rows = min(rows, length)
        mine = int(rng.integers(1, num_loops + 1)) if fewer_loops else num_loops
        tables[sequence, mine:] = 0
        for loop in range(mine):
            if loop and floors:
                floor[sequence, loop - 1] = int(rng.integers(0, length - rows + 1))
            tiles.append((sequence, len(positions), len(positions) + rows))
            for position in range(length - rows, length):
                positions.append(position)
                loops.append(loop)
                block = int(tables[sequence, loop, position // block_size])
                slots.append(block * block_size + position % block_size)
    count, heads = len(positions), kv_heads * group
    none = torch.zeros(0, dtype=torch.int32)
    batch = RowBatch(
        token_ids=torch.zeros(count, dtype=torch.int32),
        positions=torch.tensor(positions, dtype=torch.int32),
        loops=torch.tensor(loops, dtype=torch.int32),
        windows=torch.tensor(loops, dtype=torch.int32),
        input_slots=torch.zeros(count, dtype=torch.int32),
        output_slots=torch.full((count,), -1, dtype=torch.int32),
        snapshot_blocks=torch.full((count,), -1, dtype=torch.int32),
        cache_slots=torch.tensor(slots, dtype=torch.int32),
        tiles=torch.tensor(tiles, dtype=torch.int32),
        parts=none.view(0, 2),
        part_starts=none,
        context_tables=tables[:, 0].contiguous(),
        window_tables=tables[:, 1:].contiguous(),
        window_first=torch.zeros(len(lengths), num_loops - 1, dtype=torch.int32),
        window_floor=floor,
        logit_rows=none,
        window=window,
        num_decode_tiles=0,
    )
    queries = torch.from_numpy(rng.standard_normal((count, heads, head_dim), dtype=np.float32)).to(dtype)
    gates = torch.from_numpy(rng.random((count, heads), dtype=np.float32))
    cache = random_cache(rng, shape, dtype if cache_dtype is None else cache_dtype)
    return KernelCase(cache, queries, gates, batch)


def random_cache(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> LayerCache:
    """Normally distributed keys and values of ``[blocks, kv_heads, block_size, head_dim]``."""
    keys, values = (torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for _ in range(2))
    if dtype != torch.uint8:
        return LayerCache(keys.to(dtype), values.to(dtype))
    scales = [torch.from_numpy(rng.uniform(0.005, 0.05, shape[1]).astype(np.float32)) for _ in range(2)]
    codes = [
        e4m3.encode(x.transpose(1, 2), scale).transpose(1, 2).contiguous()
        for x, scale in zip((keys, values), scales, strict=True)
    ]
    return LayerCache(*codes, *scales)


def tiled_for(backend: KernelBackend, case: KernelCase) -> KernelCase:
    """The case with the tiles and parts that a step plan would have for `backend`."""
    batch, group = case.batch, case.queries.shape[1] // case.cache.num_kv_heads
    tiling = backend.tiling(case.cache.head_dim, group, batch.decode_rows, case.queries.dtype)
    by_sequence: dict[int, list[list[int]]] = {}
    for tile in batch.tiles.tolist():
        by_sequence.setdefault(tile[0], []).append(tile)
    decode, prefill = [], []
    for sequence, tiles in by_sequence.items():
        if all(stop - first == 1 for _, first, stop in tiles):
            decode.append((sequence, tiles[0][1], tiles[-1][2]))
            continue
        for _, first, stop in tiles:
            step = tiling.tile_rows
            prefill += [(sequence, row, min(row + step, stop)) for row in range(first, stop, step)]
    parts: list[tuple[int, int]] = []
    starts: list[int] = []
    if tiling.split_keys is not None:
        contexts = [int(batch.positions[first:stop].max()) + 1 for _, first, stop in decode]
        if contexts and (tiling.always_splits or max(contexts) > tiling.split_keys):
            for tile, context in enumerate(contexts):
                starts.append(len(parts))
                parts += [(tile, part) for part in range(1 + -(-context // tiling.split_keys))]
    return replace(
        case,
        batch=replace(
            batch,
            tiles=torch.tensor(decode + prefill, dtype=torch.int32),
            parts=torch.tensor(parts, dtype=torch.int32).view(-1, 2),
            part_starts=torch.tensor(starts, dtype=torch.int32),
            num_decode_tiles=len(decode),
        ),
    )


def rows_alone(case: KernelCase, wanted: list[int]) -> KernelCase:
    """A few rows of one sequence as a batch of their own: rows of one loop, or one row per loop."""
    batch = case.batch
    sequence = next(s for s, first, stop in batch.tiles.tolist() if first <= wanted[0] < stop)
    chosen = {
        name: getattr(batch, name)[wanted]
        for name in (
            *("token_ids", "positions", "loops", "windows", "input_slots", "output_slots"),
            *("snapshot_blocks", "cache_slots"),
        )
    }
    tables = {
        name: getattr(batch, name)[sequence : sequence + 1]
        for name in ("context_tables", "window_tables", "window_first", "window_floor")
    }
    one_loop = len(set(chosen["loops"].tolist())) == 1
    tiles = [[0, 0, len(wanted)]] if one_loop else [[0, row, row + 1] for row in range(len(wanted))]
    alone = replace(batch, **chosen, **tables, tiles=torch.tensor(tiles, dtype=torch.int32))
    return KernelCase(case.cache, case.queries[wanted], case.gates[wanted], alone)
