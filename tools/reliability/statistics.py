"""The few statistics that the proofs need, with their uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def format(self, digits: int = 2) -> str:
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share (0 to 1) does not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1 if share else 0)]


def slope(times: Sequence[float], values: Sequence[float]) -> Interval:
    """Least-squares slope per unit of time of at least four samples.

    Samples that follow each other resemble each other, which makes the textbook's interval too narrow; the number of
    samples is therefore taken as n (1 - r) / (1 + r), r the lag-1 autocorrelation of the residuals where positive.
    """
    t, y = np.asarray(times, float), np.asarray(values, float)
    t_mean = t.mean()
    spread = float(((t - t_mean) ** 2).sum())
    value = float(((t - t_mean) * (y - y.mean())).sum() / spread)
    residuals = y - y.mean() - value * (t - t_mean)
    squares = float((residuals**2).sum())
    r = max(0.0, float((residuals[1:] * residuals[:-1]).sum()) / squares) if squares else 0.0
    effective = max(3.0, len(t) * (1 - r) / (1 + r))
    error = math.sqrt(squares / spread / (effective - 2))
    return Interval(value, value - NORMAL_95 * error, value + NORMAL_95 * error)


def auc(low: Sequence[float], high: Sequence[float]) -> float:
    """Area under the ROC curve: the chance that a draw of `low` is below one of `high`; ties count half."""
    return _auc(np.asarray(low, float), np.asarray(high, float))


def auc_interval(low: Sequence[float], high: Sequence[float], seed: int, resamples: int = 1000) -> Interval:
    """`auc` of pairs, with a bootstrap over pairs."""
    a, b = np.asarray(low, float), np.asarray(high, float)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        chosen = rng.integers(0, len(a), len(a))
        draws.append(_auc(a[chosen], b[chosen]))
    return Interval(_auc(a, b), *(float(np.quantile(draws, share)) for share in (0.025, 0.975)))


def _auc(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left")
    up_to = np.searchsorted(ordered, high, "right")
    return float((below + up_to).sum() / 2 / len(low) / len(high))


def welch_t(a: Sequence[float], b: Sequence[float]) -> float:
    """Welch's t of two samples: how many standard errors their means are apart."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    error = math.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
    return float((x.mean() - y.mean()) / error) if error else 0.0
