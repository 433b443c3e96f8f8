"""Small operations on rows, compiled so that a row's bits depend on that row alone.

PyTorch's elementwise kernels use one exponential for whole vectors and another for the rest of a chunk, and cut chunks
by the size of the whole tensor, so the last bits of `silu` or `sigmoid` depend on the number of rows. Here every row is
its own loop. Inputs and outputs are contiguous float32 on the CPU.

A serial function and its parallel twin are two functions: numba's disk cache knows a function by its name and line, and
would give both the code of the one that was compiled first.
"""

from collections.abc import Callable

import numba
import numpy as np
import torch

from kernels.bfloat16 import widen_row
from kernels.exponential import exp

PARALLEL_ELEMENTS = 1 << 17
"""Elements from which waking threads pays."""

_REDUCE = {"reassoc", "contract", "nsz"}
"""Lets sums be vectorised; NaN and infinity keep their meaning."""


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``x / sqrt(mean(x²) + eps) · weight`` (arXiv 1910.07467) for ``[rows, hidden]``."""
    out = np.empty(x.shape, np.float32)
    _pick(x, _rms_norm, _rms_norm_parallel)(x.numpy(), weight.numpy(), np.float32(eps), out)
    return torch.from_numpy(out)


def add_rms_norm(
    x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``x + delta`` for ``[rows, hidden]``, and `rms_norm` of that."""
    total, out = np.empty(x.shape, np.float32), np.empty(x.shape, np.float32)
    _pick(x, _add_rms_norm, _add_rms_norm_parallel)(
        x.numpy(), delta.numpy(), weight.numpy(), np.float32(eps), total, out
    )
    return torch.from_numpy(total), torch.from_numpy(out)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) · up`` for ``[rows, 2 · width]`` holding gate, then up; returns ``[rows, width]``."""
    out = np.empty((gate_up.shape[0], gate_up.shape[1] // 2), np.float32)
    _pick(gate_up, _silu_mul, _silu_mul_parallel)(gate_up.numpy(), out)
    return torch.from_numpy(out)


def hidden_gates(
    x: torch.Tensor, norm: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """``sigmoid(rms_norm(x; norm) · weightᵀ + bias)`` for ``[rows, hidden]`` and a ``[heads, hidden]`` weight."""
    out = np.empty((len(x), len(weight)), np.float32)
    _pick(x, _hidden_gates, _hidden_gates_parallel)(
        x.numpy(), norm.numpy(), weight.numpy(), bias.numpy(), np.float32(eps), out
    )
    return torch.from_numpy(out)


def looped_input(
    embedding: torch.Tensor,
    carries: torch.Tensor,
    tokens: np.ndarray,
    loops: np.ndarray,
    slots: np.ndarray,
    emb_scale: float,
    hidden_scale: float,
) -> torch.Tensor:
    """``E[token]`` for rows of loop 0, else ``emb_scale · E[token] + hidden_scale · carries[slot]``.

    Args:
        embedding: float32 or bfloat16 ``[vocab, hidden]``.
        carries: float32 ``[slots, hidden]``.
        tokens, loops, slots: int32 ``[rows]``.
    """
    out = np.empty((len(tokens), embedding.shape[1]), np.float32)
    stored = embedding if embedding.dtype == torch.float32 else embedding.view(torch.uint16)
    scales = np.float32(emb_scale), np.float32(hidden_scale)
    _looped_input(stored.numpy(), carries.numpy(), tokens, loops, slots, *scales, out)
    return torch.from_numpy(out)


def scatter_rows(rows: torch.Tensor, slots: np.ndarray, target: torch.Tensor) -> None:
    """``target[slots[r]] = rows[r]`` where the slot is not negative."""
    _scatter_rows(rows.numpy(), slots, target.numpy())


def query_gates(queries: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``sigmoid(queries[r, h] · weight[h] + bias[h])`` for ``[rows, heads, head_dim]``; returns ``[rows, heads]``."""
    out = torch.empty(queries.shape[:2])
    _query_gates(queries.numpy(), weight.numpy(), bias.numpy(), out.numpy())
    return out


def compile_all() -> None:
    """Compile every kernel on one row."""
    row, out = np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)
    for norm in (_rms_norm, _rms_norm_parallel):
        norm(row, row[0], np.float32(1.0), out)
    for add_norm in (_add_rms_norm, _add_rms_norm_parallel):
        add_norm(row, row, row[0], np.float32(1.0), out, out.copy())
    for product in (_silu_mul, _silu_mul_parallel):
        product(row, out[:, :1].copy())
    for gates in (_hidden_gates, _hidden_gates_parallel):
        gates(row, row[0], row, row[0], np.float32(1.0), out)
    _query_gates(row[None], row, row[0], out)
    zero = np.zeros(1, np.int32)
    for embedding in (row, row.astype(np.uint16)):
        _looped_input(embedding, row, zero, zero, zero, np.float32(1.0), np.float32(1.0), out)
    _scatter_rows(row, zero, out)


def _pick(x: torch.Tensor, serial: Callable, parallel: Callable) -> Callable:
    return parallel if x.numel() >= PARALLEL_ELEMENTS else serial


@numba.njit(cache=True, nogil=True, fastmath=_REDUCE)
def _rms_norm_row(x: np.ndarray, weight: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    scale = np.float32(1.0) / np.sqrt(total / np.float32(x.shape[0]) + eps)
    for i in range(x.shape[0]):
        out[i] = x[i] * scale * weight[i]


# Python's check for a division by zero would keep the loop from being vectorised.
@numba.njit(cache=True, nogil=True, error_model="numpy")
def _silu_mul_row(gate_up: np.ndarray, out: np.ndarray) -> None:
    width = out.shape[0]
    for i in range(width):
        gate = gate_up[i]
        out[i] = gate / (np.float32(1.0) + exp(-gate)) * gate_up[width + i]


@numba.njit(cache=True, nogil=True)
def _add_row(x: np.ndarray, delta: np.ndarray, total: np.ndarray) -> None:
    for i in range(x.shape[0]):
        total[i] = x[i] + delta[i]


@numba.njit(cache=True, nogil=True)
def _add_rms_norm(
    x: np.ndarray, delta: np.ndarray, weight: np.ndarray, eps: np.float32, total: np.ndarray, out: np.ndarray
) -> None:
    for row in range(x.shape[0]):
        _add_row(x[row], delta[row], total[row])
        _rms_norm_row(total[row], weight, eps, out[row])


@numba.njit(cache=True, nogil=True, parallel=True)
def _add_rms_norm_parallel(
    x: np.ndarray, delta: np.ndarray, weight: np.ndarray, eps: np.float32, total: np.ndarray, out: np.ndarray
) -> None:
    for row in numba.prange(x.shape[0]):
        _add_row(x[row], delta[row], total[row])
        _rms_norm_row(total[row], weight, eps, out[row])


@numba.njit(cache=True, nogil=True)
def _rms_norm(x: np.ndarray, weight: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    for row in range(x.shape[0]):
        _rms_norm_row(x[row], weight, eps, out[row])


@numba.njit(cache=True, nogil=True, parallel=True)
def _rms_norm_parallel(x: np.ndarray, weight: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    for row in numba.prange(x.shape[0]):
        _rms_norm_row(x[row], weight, eps, out[row])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _silu_mul(gate_up: np.ndarray, out: np.ndarray) -> None:
    for row in range(out.shape[0]):
        _silu_mul_row(gate_up[row], out[row])


@numba.njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def _silu_mul_parallel(gate_up: np.ndarray, out: np.ndarray) -> None:
    for row in numba.prange(out.shape[0]):
        _silu_mul_row(gate_up[row], out[row])


@numba.njit(cache=True, nogil=True, fastmath=_REDUCE)
def _gate(x: np.ndarray, weight: np.ndarray, bias: np.float32) -> np.float32:
    total = np.float32(0.0)
    for d in range(x.shape[0]):
        total += x[d] * weight[d]
    return np.float32(1.0) / (np.float32(1.0) + exp(-(total + bias)))


@numba.njit(cache=True, nogil=True)
def _query_gates(queries: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    for row in range(queries.shape[0]):
        for head in range(queries.shape[1]):
            out[row, head] = _gate(queries[row, head], weight[head], bias[head])


@numba.njit(cache=True, nogil=True)
def _row_gates(
    x: np.ndarray,
    norm: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: np.float32,
    normed: np.ndarray,
    out: np.ndarray,
) -> None:
    _rms_norm_row(x, norm, eps, normed)
    for head in range(weight.shape[0]):
        out[head] = _gate(normed, weight[head], bias[head])


@numba.njit(cache=True, nogil=True)
def _hidden_gates(
    x: np.ndarray, norm: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: np.float32, out: np.ndarray
) -> None:
    normed = np.empty(x.shape[1], np.float32)
    for row in range(x.shape[0]):
        _row_gates(x[row], norm, weight, bias, eps, normed, out[row])


@numba.njit(cache=True, nogil=True, parallel=True)
def _hidden_gates_parallel(
    x: np.ndarray, norm: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: np.float32, out: np.ndarray
) -> None:
    normed = np.empty_like(x)
    for row in numba.prange(x.shape[0]):
        _row_gates(x[row], norm, weight, bias, eps, normed[row], out[row])


@numba.njit(cache=True, nogil=True)
def _looped_input(
    embedding: np.ndarray,
    carries: np.ndarray,
    tokens: np.ndarray,
    loops: np.ndarray,
    slots: np.ndarray,
    emb_scale: np.float32,
    hidden_scale: np.float32,
    out: np.ndarray,
) -> None:
    for row in range(out.shape[0]):
        widen_row(embedding[tokens[row]], out[row])
        if loops[row] > 0:
            carry = carries[slots[row]]
            for i in range(out.shape[1]):
                out[row, i] = out[row, i] * emb_scale + carry[i] * hidden_scale


@numba.njit(cache=True, nogil=True)
def _scatter_rows(rows: np.ndarray, slots: np.ndarray, target: np.ndarray) -> None:
    for row in range(rows.shape[0]):
        if slots[row] >= 0:
            target[slots[row]] = rows[row]
