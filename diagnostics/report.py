"""A finished diagnosis and its JSON form; docs/diagnose.md describes every field."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from diagnostics.estimates import Estimate
from diagnostics.serving_cost import ServingCost
from diagnostics.verdict import Verdict

SCHEMA = "loopserve.diagnose/1"
"""Goes up with the number when a field changes its meaning or goes away."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What was diagnosed. `loops` is the model's own number R."""

    name: str
    model_type: str
    parameters: int
    loops: int
    layers: int
    heads: int
    kv_heads: int
    hidden_size: int
    vocab_size: int
    offset: int
    window: int
    emb_scale: float
    hidden_scale: float
    normalize_per_loop: bool


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What it was diagnosed on.

    Attributes:
        files: names of what was given.
        found: documents in them, of which at most as many as wanted were drawn.
        is_complete: False if there were too many to look at all.
        used: documents measured.
        skipped: drawn and not used, by reason.
        cut: documents longer than was looked at.
        tokens: measured, predicted_tokens: of which a loss was taken.
    """

    files: list[str]
    found: int
    is_complete: bool
    used: int
    skipped: dict[str, int]
    cut: int
    tokens: int
    predicted_tokens: int


@dataclass(frozen=True, slots=True)
class DocumentLosses:
    """One document, so that reports of several models on the same texts can be compared pair by pair.

    Attributes:
        source: its name.
        predicted_tokens: of which a loss was taken.
        losses: their mean after each loop, nats.
    """

    source: str
    predicted_tokens: int
    losses: list[float]


@dataclass(frozen=True, slots=True)
class MetricValues:
    """One quantity; `values` has one entry per loop of the report, None where it does not exist."""

    key: str
    group: str
    label: str
    unit: str
    meaning: str
    values: list[Estimate | None]


@dataclass(frozen=True, slots=True)
class ExcerptToken:
    """A token of an excerpt and what each of the model's loops said at the one before.

    Attributes:
        text: its bytes as text, U+FFFD where they aren't whole characters.
        said: each loop's most probable token.
        losses: of this token under each loop, nats.
    Both lists are empty for the first token of a document, which nothing predicts.
    """

    text: str
    said: list[str]
    losses: list[float]

    @property
    def last_loop_changed(self) -> bool:
        """Whether the last loop's most probable token is another than the loop before's."""
        return len(self.said) > 1 and self.said[-1] != self.said[-2]

    @property
    def last_gain(self) -> float:
        """What the last loop took off the loss; 0 where there is nothing to compare."""
        return self.losses[-2] - self.losses[-1] if len(self.losses) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of one document."""

    source: str
    tokens: list[ExcerptToken]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything.

    Attributes:
        has_extra_loop: the last entry of every list by loop is loop R + 1, which is no part of the model.
        gates: mean by loop, layer and head, None for a loop without gates.
        shares: of loops 2 … R in the sum over them, by quantity; empty if R < 3.
        notes: what was left out, and why.
    """

    model: ModelFacts
    corpus: CorpusFacts
    settings: dict[str, Any]
    versions: dict[str, str]
    has_extra_loop: bool
    metrics: list[MetricValues]
    gates: list[list[list[float]] | None]
    shares: dict[str, list[float]]
    serving: list[ServingCost]
    verdict: Verdict
    documents: list[DocumentLosses]
    excerpts: list[Excerpt]
    notes: list[str]

    @property
    def num_loops(self) -> int:
        """Loops that were looked at."""
        return self.model.loops + self.has_extra_loop

    def metric(self, key: str) -> MetricValues:
        return next(metric for metric in self.metrics if metric.key == key)

    def json(self) -> str:
        """Numbers that are none don't exist in JSON, and none are here."""
        values = {"schema": SCHEMA, **asdict(self)}
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def shares(values: MetricValues, loops: int) -> list[float] | None:
    """What part of a quantity's sum over loops 2 … R each of them has; None if there is nothing to share."""
    found = [estimate.value if estimate else math.nan for estimate in values.values[1:loops]]
    total = sum(found)
    return [value / total for value in found] if loops > 2 and total > 0 else None
