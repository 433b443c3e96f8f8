"""Products with weights on the CPU: float32 arithmetic over weights in any stored format.

A weight ``[out, in]`` is cut into panels of `PANEL` outputs, each stored as ``[in, PANEL]``, so that a product reads it
as one stream, whatever the number of rows. A thread computes whole panels, `DEPTH` inputs at a time: those weights stay
in the first cache levels while all rows meet them, and the next ones are fetched meanwhile (`kernels.microkernel`).

A row's result depends on that row alone: the order of its sum is fixed by `DEPTH`.
"""

import numba
import numpy as np
import torch

from kernels.microkernel import FLOAT_BYTES, LINE, PANEL, PREFETCHES, TILE, UNROLL, multiply_rows
from kernels.weight_formats import WeightFormat, pack, widen

DEPTH = 128
"""Inputs per visit to a panel: their float32 weights fit the first-level cache beside the rows."""
MOST_ROWS = 96
"""Rows that meet a panel together; more would push each other out of the second-level cache."""
MOST_ASKING = 4
"""Visits over which prefetches are spread."""

_TILE_ROWS = TILE.rows


class PanelLinear:
    """One packed product."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, format: WeightFormat) -> None:
        self.out_features, self.in_features = weight.shape
        self.packed = pack(weight, format)
        self.bias = np.zeros(0, np.float32) if bias is None else bias.float().numpy()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to contiguous float32 ``[rows, in_features]``; returns ``[rows, out_features]``."""
        out = np.empty((len(x), self.out_features), np.float32)
        _product(self.packed.values, self.packed.scales, self.bias, x.numpy(), out, numba.get_num_threads())
        return torch.from_numpy(out)


class PanelLinears:
    """Makes products over weights of one format, which it compiles first: seconds once, then numba's cache."""

    def __init__(self, format: WeightFormat) -> None:
        self.format = format
        self(torch.zeros(1, 1), None)(torch.zeros(1, 1))

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> PanelLinear:
        return PanelLinear(weight, bias, self.format)


@numba.njit(cache=True, nogil=True, parallel=True)
def _product(
    values: np.ndarray,
    scales: np.ndarray,
    bias: np.ndarray,
    x: np.ndarray,
    out: np.ndarray,
    threads: int,
) -> None:
    panels = values.shape[0]
    for thread in numba.prange(threads):
        first, stop = thread * panels // threads, (thread + 1) * panels // threads
        _multiply_panels(values, scales, bias, x, out, first, stop)


@numba.njit(cache=True, nogil=True)
def _multiply_panels(
    values: np.ndarray,
    scales: np.ndarray,
    bias: np.ndarray,
    x: np.ndarray,
    out: np.ndarray,
    first: int,
    stop: int,
) -> None:
    widened = np.empty((DEPTH, PANEL), np.float32)
    totals = np.empty((MOST_ROWS, PANEL), np.float32)
    for start in range(0, x.shape[0], MOST_ROWS):
        rows = min(MOST_ROWS, x.shape[0] - start)
        for panel in range(first, stop):
            _multiply_panel(values, scales, panel, x[start : start + rows], widened, totals)
            low = panel * PANEL
            width = min(PANEL, out.shape[1] - low)
            for row in range(rows):
                for o in range(width):
                    out[start + row, low + o] = totals[row, o]
                if bias.shape[0] > 0:
                    for o in range(width):
                        out[start + row, low + o] += bias[low + o]


@numba.njit(cache=True, nogil=True)
def _multiply_panel(
    values: np.ndarray,
    scales: np.ndarray,
    panel: int,
    x: np.ndarray,
    widened: np.ndarray,
    totals: np.ndarray,
) -> None:
    """``totals[r] = Σ_k x[r, k] · panel[k]`` for all rows of x."""
    rows, inputs = x.shape
    visits = (rows + _TILE_ROWS - 1) // _TILE_ROWS
    step_bytes = values.shape[2] * values.itemsize
    lines, asking = _dealt(-(-step_bytes * UNROLL // LINE), visits)
    x_stride, totals_stride = inputs * FLOAT_BYTES, PANEL * FLOAT_BYTES
    for start in range(0, inputs, DEPTH):
        depth = min(DEPTH, inputs - start)
        weights = widen(values, scales, panel, start, depth, widened)
        coming = values.ctypes.data + (panel * inputs + start + depth) * step_bytes
        for visit in range(visits):
            row, next_row = visit * rows // visits, (visit + 1) * rows // visits
            multiply_rows(
                next_row - row,
                start == 0,
                weights,
                x.ctypes.data + row * x_stride + start * FLOAT_BYTES,
                x_stride,
                depth,
                totals.ctypes.data + row * totals_stride,
                totals_stride,
                coming + visit * (DEPTH // UNROLL) * lines * LINE,
                lines if visit < asking else 0,
            )


@numba.njit(cache=True, nogil=True)
def _dealt(lines: int, visits: int) -> tuple[int, int]:
    """Deal the cache lines of `UNROLL` coming inputs to the visits of this `DEPTH`.

    Returns:
        Lines per visit, of `PREFETCHES`, and how many visits ask for them.
    """
    share = -(-lines // min(visits, MOST_ASKING))
    for number in PREFETCHES:
        if number >= share:
            return number, -(-lines // number)
    return PREFETCHES[-1], visits
