"""The quantities that are measured per loop, and their sums over one document.

Loops are numbered as in the LoopCoder-V2 paper (arXiv 2606.18023): loop r = 1 … R, h(r) what loop r leaves, h(0) the
embedding. docs/diagnose.md has the formulas with their sources.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Group = Literal["prediction", "states", "attention"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One quantity.

    Attributes:
        key: its name in reports.
        unit: empty for plain numbers.
        first_loop: from which loop on it exists.
        digits: decimals shown.
        meaning: one line for people.
    """

    key: str
    group: Group
    label: str
    unit: str
    first_loop: int
    digits: int
    meaning: str


def _of_states(key: str, label: str, unit: str, first_loop: int, digits: int, meaning: str) -> list[Metric]:
    """A quantity of hidden states, once of raw and once of normed ones."""
    return [
        Metric(f"{key}_{kind}", "states", f"{label}, {kind}", unit, first_loop, digits, f"{meaning} ({kind})")
        for kind in ("raw", "normed")
    ]


METRICS: tuple[Metric, ...] = (
    Metric(
        "loss", "prediction", "loss", "nats", 1, 4, "cross entropy of the true next token after this loop"
    ),
    Metric(
        "gain", "prediction", "gain", "nats", 2, 4, "loss after the loop before minus loss after this one"
    ),
    Metric(
        "top1", "prediction", "true token first", "", 1, 4, "share of tokens that are the most probable one"
    ),
    Metric(
        "lens_rank",
        "prediction",
        "rank of true token",
        "",
        1,
        1,
        "its mean rank among the vocabulary; 1 is best",
    ),
    Metric(
        "lens_log_rank",
        "prediction",
        "ln of that rank",
        "",
        1,
        3,
        "mean logarithm of the rank: less of a few bad ones",
    ),
    Metric("output_entropy", "prediction", "output entropy", "nats", 1, 4, "entropy of the prediction"),
    Metric(
        "output_shift",
        "prediction",
        "output shift",
        "nats",
        2,
        4,
        "KL divergence from the loop before's prediction",
    ),
    Metric(
        "token_change",
        "prediction",
        "top token changed",
        "",
        2,
        4,
        "share of tokens whose most probable one changes",
    ),
    *_of_states("step_size", "step size", "", 1, 2, "how far the loop moves a state, ‖h(r) - h(r-1)‖"),
    *_of_states("relative_step", "relative step", "", 1, 4, "step size in lengths of the state before"),
    *_of_states(
        "update_alignment",
        "update alignment",
        "",
        2,
        4,
        "cosine of this step and the one before; below 0: back",
    ),
    *_of_states(
        "effective_rank", "effective rank", "", 1, 2, "exp of the entropy of the states' singular values"
    ),
    *_of_states(
        "fixed_point_gap", "fixed-point gap", "", 1, 2, "how far one more application would move the state"
    ),
    *_of_states(
        "offset_cost", "offset cost", "", 2, 2, "how far the state that is read lies from the own position's"
    ),
    Metric(
        "attention_entropy",
        "attention",
        "attention entropy",
        "nats",
        1,
        4,
        "of a head's weights over positions",
    ),
    Metric(
        "context_entropy", "attention", "of it, context", "nats", 1, 4, "entropy over the whole context alone"
    ),
    Metric(
        "window_entropy",
        "attention",
        "of it, window",
        "nats",
        2,
        4,
        "entropy over the loop's own window alone",
    ),
    Metric(
        "attention_kl",
        "attention",
        "attention shift",
        "nats",
        2,
        4,
        "KL divergence from the loop before's weights",
    ),
    Metric(
        "head_rank", "attention", "head diversity, rank", "", 1, 3, "effective rank of the heads' weights"
    ),
    Metric("head_cosine", "attention", "head similarity", "", 1, 4, "mean cosine between two heads' weights"),
    Metric("gate", "attention", "gate", "", 2, 4, "mean weight of the context against the window"),
)
INDEX = {metric.key: index for index, metric in enumerate(METRICS)}


@dataclass(slots=True)
class Sums:
    """Of one document: what was added up of each quantity and loop, and over how many things.

    Attributes:
        totals, counts: float64 ``[metrics, loops]``; column r - 1 is loop r's.
    """

    num_loops: int
    totals: np.ndarray = field(init=False)
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.totals = np.zeros((len(METRICS), self.num_loops))
        self.counts = np.zeros((len(METRICS), self.num_loops))

    def add(self, key: str, loop: int, total: float, count: int) -> None:
        """Add to a quantity of loop r."""
        self.totals[INDEX[key], loop - 1] += total
        self.counts[INDEX[key], loop - 1] += count

    def count(self, key: str, loop: int) -> int:
        """Over how many things."""
        return int(self.counts[INDEX[key], loop - 1])

    def mean(self, key: str, loop: int) -> float:
        """NaN if nothing was added."""
        count = self.counts[INDEX[key], loop - 1]
        return float(self.totals[INDEX[key], loop - 1] / count) if count else float("nan")
