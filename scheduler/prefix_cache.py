"""Content keys of blocks and the search for the cheapest exact way to begin a sequence.

The key of a block hashes everything that its content depends on, and who may find it: the loop layout, the request's
tenant and its salt (in the root), then every token up to the block's end, chained block by block with BLAKE2b. A
collision would serve one user's context to another, hence a cryptographic hash and never Python's `hash`.
"""

from array import array
from hashlib import blake2b

from scheduler.block_pool import BlockPool
from scheduler.loop_layout import LoopLayout, StartPlan, plan_every_position, plan_recompute, plan_restore

KEY_BYTES = 32


def root_key(layout: LoopLayout, tenant: str, salt: str) -> bytes:
    """Parent of a sequence's first block. `repr` quotes strings, so no other three give the same text."""
    return blake2b(repr((layout, tenant, salt)).encode(), digest_size=KEY_BYTES).digest()


def block_key(parent: bytes, tokens: list[int]) -> bytes:
    """Key of a full block from its parent's and its own tokens."""
    return blake2b(parent + array("q", tokens).tobytes(), digest_size=KEY_BYTES).digest()


def chain_keys(keys: list[bytes], root: bytes, tokens: list[int], block_size: int) -> None:
    """Extend `keys` in place to one key per full block of `tokens`."""
    while (len(keys) + 1) * block_size <= len(tokens):
        start = len(keys) * block_size
        keys.append(block_key(keys[-1] if keys else root, tokens[start : start + block_size]))


def find_start(layout: LoopLayout, pool: BlockPool, keys: list[bytes], length: int) -> StartPlan:
    """The plan that computes the fewest rows, all of them exact.

    Args:
        keys: one per full block of the sequence's tokens.
        length: number of tokens; at least the last one is computed, for its logits.
    """
    most = min(len(keys), (length - 1) // layout.block_size)
    if not layout.has_windows:
        hit = _num_found(pool, keys[:most], range(layout.num_loops))
        if hit == 0:
            return plan_every_position(layout, length)
        return plan_restore(layout, length, hit * layout.block_size)
    hit = _num_found(pool, keys[:most], range(1))
    best = plan_recompute(layout, length, hit * layout.block_size)
    for blocks in range(hit, 0, -1):
        plan = plan_restore(layout, length, blocks * layout.block_size)
        if plan.num_rows >= best.num_rows:
            break
        if _restorable(layout, pool, keys, plan):
            return plan
    return best


def kept_block_range(layout: LoopLayout, boundary: int) -> range:
    """Indices of the blocks that a later loop needs to go on at a boundary: of its window, or of its whole context."""
    return range(layout.kept_from(boundary) // layout.block_size, boundary // layout.block_size)


def _num_found(pool: BlockPool, keys: list[bytes], loops: range) -> int:
    """How many blocks, from the first one on, are there of each of these loops."""
    for index, key in enumerate(keys):
        if any(pool.lookup((key, loop)) is None for loop in loops):
            return index
    return len(keys)


def _restorable(layout: LoopLayout, pool: BlockPool, keys: list[bytes], plan: StartPlan) -> bool:
    assert plan.restored is not None
    wanted = kept_block_range(layout, plan.restored)
    return all(
        pool.lookup((keys[index], loop)) is not None
        for loop in range(1, layout.num_loops)
        if plan.restores_loop(loop)
        for index in wanted
    )
