"""Means over a corpus, and how far they could be from those of other documents like these.

The documents are what was drawn, so they are what is drawn again: the percentile bootstrap (Efron 1979) over documents.
A mean is the ratio of two sums, over all tokens (or whatever a quantity is counted in) of the documents drawn.
"""

from dataclasses import dataclass

import numpy as np

from diagnostics.metrics import INDEX, Sums

RESAMPLES = 1000
LEVEL = 0.95
LEVEL_TEXT = f"{LEVEL * 100:.0f} %"
_PART = 50
"""Resamples drawn at once, which bounds memory."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One mean.

    Attributes:
        low, high: the bootstrap's interval; None where there is but one document to draw from.
        documents: how many had a part in it.
    """

    value: float
    low: float | None
    high: float | None
    documents: int


@dataclass(frozen=True, slots=True)
class Estimates:
    """Of all quantities and loops.

    Attributes:
        means: float64 ``[metrics, loops]``, NaN where there is nothing.
        resampled: float64 ``[resamples, metrics, loops]``; no resamples of fewer than two documents.
        documents: int ``[metrics, loops]``, how many had a part.
        num_documents: all.
    """

    means: np.ndarray
    resampled: np.ndarray
    documents: np.ndarray
    num_documents: int

    @classmethod
    def of(cls, documents: list[Sums], seed: int, resamples: int = RESAMPLES) -> "Estimates":
        """Of one or more documents."""
        totals = np.stack([sums.totals for sums in documents])
        counts = np.stack([sums.counts for sums in documents])
        resamples = resamples if len(documents) > 1 else 0
        return cls(
            _ratio(totals.sum(axis=0), counts.sum(axis=0)),
            _resampled(totals, counts, np.random.default_rng(seed), resamples),
            (counts > 0).sum(axis=0),
            len(documents),
        )

    @property
    def num_loops(self) -> int:
        return self.means.shape[1]

    def get(self, key: str, loop: int) -> Estimate | None:
        """A quantity of loop r; None where there is nothing."""
        place = INDEX[key], loop - 1
        count = int(self.documents[place])
        if count == 0:
            return None
        low = high = None
        if count > 1:
            low, high = interval(self.resampled[:, *place])
        return Estimate(float(self.means[place]), low, high, count)

    def draws(self, key: str) -> np.ndarray:
        """float64 ``[resamples, loops]`` of one quantity."""
        return self.resampled[:, INDEX[key]]


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Percentiles that hold `LEVEL` of some resampled means; those of resamples without a part don't count."""
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _ratio(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def _resampled(
    totals: np.ndarray, counts: np.ndarray, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """How often each document is drawn is all that matters of a resample."""
    number, *shape = totals.shape
    parts = [np.empty((0, *shape))]
    for first in range(0, resamples, _PART):
        size = min(_PART, resamples - first)
        draws = generator.multinomial(number, np.full(number, 1 / number), size=size).astype(np.float64)
        sums = (np.tensordot(draws, values, axes=1) for values in (totals, counts))
        parts.append(_ratio(*sums))
    return np.concatenate(parts)
