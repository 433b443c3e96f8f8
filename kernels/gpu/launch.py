"""How the kernels are launched: a small, named table. `make gpu-check` measures the alternatives on a real GPU.

Nothing here depends on the batch, so that a row's result doesn't either.
"""

from dataclasses import dataclass

SPLIT_KEYS = 512
"""Shared keys of one part of a split decode: enough work to hide a program's start, small enough that one sequence of
8,192 tokens with 8 KV heads fills a GPU of 132 multiprocessors."""

ROW_BLOCK = 1024
"""Elements of a row that one program of an elementwise kernel takes."""

ROPE_HEADS = 8
"""Heads that one program of `rotate_and_write` takes."""

GATE_ROWS = 16
GATE_HEADS = 16
GATE_CHUNK = 128
"""Rows and heads of one program of `hidden_gates`, and the hidden elements that it multiplies at a time."""


@dataclass(frozen=True, slots=True)
class AttentionLaunch:
    """Launch of an attention kernel.

    Attributes:
        lanes: (row, head) pairs of one program.
        keys: keys per step of its walk; divides SPLIT_KEYS.
    """

    lanes: int
    keys: int
    num_warps: int
    num_stages: int


def decode_launch(head_dim: int, element_bytes: int, lanes: int) -> AttentionLaunch:
    """For decode tiles.

    Args:
        element_bytes: of the compute dtype.
        lanes: rows · heads per KV head of a decode tile.
    """
    return _launch(head_dim, element_bytes, max(lanes, 16))


def always_splits(head_dim: int, lanes: int) -> bool:
    """Whether decode tiles go to the split kernels whatever the context.

    `tile_attention` holds two sums at a time, that of the shared keys and that of the windows: with 64 lanes of 256
    elements 128 KiB of a multiprocessor's 256 KiB of registers, which it spills.
    """
    return _power_of_two(max(lanes, 16)) * _padded(head_dim) > 8192


def prefill_launch(head_dim: int, element_bytes: int, group: int) -> AttentionLaunch:
    """For the other tiles."""
    # 64 lanes fill the tensor-core instructions of sm_90 and sm_100; in float32 nothing does, and they spill.
    lanes = 64 if element_bytes <= 2 or _padded(head_dim) <= 64 else 32
    return _launch(head_dim, element_bytes, max(lanes, group))


def _launch(head_dim: int, element_bytes: int, lanes: int) -> AttentionLaunch:
    """Eight warps where four would not hold the lanes' queries and sums in registers."""
    lanes = _power_of_two(lanes)
    warps = 4 if lanes * _padded(head_dim) <= 2048 and element_bytes <= 2 else 8
    return AttentionLaunch(lanes, _keys(head_dim, element_bytes), warps, num_stages=2)


def _keys(head_dim: int, element_bytes: int) -> int:
    """As many as leave decode its registers on every target: `docs/results/kernels.md`."""
    return 32 if _padded(head_dim) <= 128 and element_bytes <= 2 else 16


def _padded(head_dim: int) -> int:
    return _power_of_two(max(head_dim, 16))


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
