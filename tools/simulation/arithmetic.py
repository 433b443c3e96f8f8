"""A looped transformer in 64-bit integers: what it reads is what a real one reads, and any misreading shows.

The stack has L layers as the real one has. With all sums modulo 2^64:

    x[l][i]  = E[i]                                         l = 0
    x[l][i]  = mix(E[i] + c · H[l-1][i - offset])           l ≥ 1, H[·][-1] = 0
    key      = mix(x ^ mix(position, layer))                written to the row's cache slot
    x        = mix(x + a · Σ keys of loop 0, [0, i] + b · Σ own keys, [i - W, i])      per layer; no b for loop 0
    x        = mix(x + a · Σ own keys, [0, i])              instead, where every loop keeps its own
    H[l][i]  = x after L layers

A sum of position-dependent keys stands for attention: it doesn't depend on order, but on every key. So what is exact
when a later loop starts at the tail is the same as in the real model. `hash_pass` computes a batch of rows through the
paged cache; `hash_sequence` computes one sequence straight from the formulas. They are in one file because numba's
cache on disk looks at one file only.
"""

import numba
import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
FACTOR_2 = np.uint64(0x94D049BB133111EB)
CONTEXT_FACTOR = np.uint64(0xA24BAED4963EE407)  # a
WINDOW_FACTOR = np.uint64(0x9FB21C651E98DF25)  # b
CARRY_FACTOR = np.uint64(0xD6E8FEB86659FD93)  # c
POISON = np.uint64(0xDEADDEADDEADDEAD)
"""Content of what belongs to nobody."""


@numba.njit(cache=True)
def mix(x: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele et al., OOPSLA'14)."""
    x = (x ^ (x >> np.uint64(30))) * FACTOR_1
    x = (x ^ (x >> np.uint64(27))) * FACTOR_2
    return x ^ (x >> np.uint64(31))


@numba.njit(cache=True)
def embed(token: int, world: np.uint64) -> np.uint64:
    """E of a token. Each (tenant, salt) is a world of its own, so sharing across them gives wrong tokens."""
    return mix(world + np.uint64(token + 1) * GOLDEN)


@numba.njit(cache=True)
def key_of(x: np.uint64, position: int, layer: int) -> np.uint64:
    """What a position leaves in the cache for one layer."""
    return mix(x ^ mix(np.uint64(position + 1) * GOLDEN + np.uint64(layer) * CARRY_FACTOR))


@numba.njit(cache=True)
def sum_keys(
    cache: np.ndarray, table: np.ndarray, first: int, start: int, stop: int, layer: int
) -> np.uint64:
    """Σ of one layer's keys at positions ``[start, stop)``; `table` begins with block index `first`."""
    block_size = cache.shape[1]
    total = np.uint64(0)
    for position in range(start, stop):
        index = position // block_size - first
        if 0 <= index < len(table):
            total += cache[table[index], position % block_size, layer]
        else:
            total += POISON
    return total


@numba.njit(cache=True)
def hash_pass(
    cache: np.ndarray,
    carries: np.ndarray,
    block_hidden: np.ndarray,
    worlds: np.ndarray,
    token_ids: np.ndarray,
    positions: np.ndarray,
    loops: np.ndarray,
    windows: np.ndarray,
    input_slots: np.ndarray,
    output_slots: np.ndarray,
    snapshot_blocks: np.ndarray,
    cache_slots: np.ndarray,
    tiles: np.ndarray,
    context_tables: np.ndarray,
    window_tables: np.ndarray,
    window_first: np.ndarray,
    window_floor: np.ndarray,
    window: int,
) -> np.ndarray:
    """H of a batch's rows, uint64 ``[rows]``; the other arrays are those of `kernels.interface.RowBatch`.

    Args:
        cache: ``[blocks + 1, block_size, layers]``. carries: ``[slots + 2]``. block_hidden: ``[blocks + 1]``.
        worlds: per row, see `embed`.
    """
    rows, block_size, layers = len(token_ids), cache.shape[1], cache.shape[2]
    x = np.empty(rows, np.uint64)
    for row in range(rows):
        x[row] = embed(token_ids[row], worlds[row])
        if loops[row] > 0:
            x[row] = mix(x[row] + CARRY_FACTOR * carries[input_slots[row]])
    for layer in range(layers):
        for row in range(rows):
            slot = cache_slots[row]
            if slot >= 0:
                cache[slot // block_size, slot % block_size, layer] = key_of(x[row], positions[row], layer)
        for tile in range(len(tiles)):
            context = tiles[tile, 0]
            for row in range(tiles[tile, 1], tiles[tile, 2]):
                position, number = positions[row], windows[row]
                far = sum_keys(cache, context_tables[context], 0, 0, position + 1, layer)
                y = x[row] + CONTEXT_FACTOR * far
                if number > 0:
                    table = window_tables[context, number - 1]
                    first = window_first[context, number - 1]
                    start = max(window_floor[context, number - 1], position - window)
                    own = sum_keys(cache, table, first, start, position + 1, layer)
                    y += WINDOW_FACTOR * own
                x[row] = mix(y)
    for row in range(rows):
        if output_slots[row] >= 0:
            carries[output_slots[row]] = x[row]
        if snapshot_blocks[row] >= 0:
            block_hidden[snapshot_blocks[row]] = x[row]
    return x


@numba.njit(cache=True)
def hash_sequence(
    tokens: np.ndarray,
    world: np.uint64,
    start: int,
    stop: int,
    offset: int,
    window: int,
    has_windows: bool,
    keys: np.ndarray,
    hidden: np.ndarray,
    shared: np.ndarray,
    own: np.ndarray,
) -> None:
    """Extend one sequence by positions ``[start, stop)``, all loops, nothing left out.

    Args:
        keys: ``[loops, layers, capacity]``, filled. hidden: ``[loops, capacity]``, filled.
        shared: ``[layers]``, running Σ of loop 0's keys. own: ``[loops, layers]``, Σ of each later loop's window, or of
            all its keys if there are no windows.
    """
    loops, layers = own.shape
    for position in range(start, stop):
        for loop in range(loops):
            x = embed(tokens[position], world)
            if loop > 0:
                before = np.uint64(0)
                if position >= offset:
                    before = hidden[loop - 1, position - offset]
                x = mix(x + CARRY_FACTOR * before)
            for layer in range(layers):
                key = key_of(x, position, layer)
                keys[loop, layer, position] = key
                if loop == 0:
                    shared[layer] += key
                    x = mix(x + CONTEXT_FACTOR * shared[layer])
                    continue
                own[loop, layer] += key
                if not has_windows:
                    x = mix(x + CONTEXT_FACTOR * own[loop, layer])
                    continue
                if position > window:
                    own[loop, layer] -= keys[loop, layer, position - window - 1]
                x = mix(x + CONTEXT_FACTOR * shared[layer] + WINDOW_FACTOR * own[loop, layer])
            hidden[loop, position] = x
