"""Which number of loops is best on a text, in plain words, and how sure that is.

Never surer than the data: one document gives no uncertainty at all, few give a rough one, and a difference whose
interval holds zero is none.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diagnostics.estimates import LEVEL_TEXT, Estimate, Estimates, interval

FEW_DOCUMENTS = 20
"""Below so many, percentile intervals are known to be too narrow (they hold the truth less often than they say)."""
FAR_MORE = 100
"""Times as many documents, beyond which a number wouldn't mean anything."""

Certainty = Literal["one loop", "no uncertainty", "rough", "undecided", "supported"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a corpus says about the number of loops.

    Attributes:
        best_loops: with the lowest loss.
        runner_up: the number of loops whose loss is next; None of a model of one loop.
        lead: loss of the runner-up minus the best's, nats per token.
        share_of_resamples: in which `best_loops` is the best; None without resamples.
        documents_needed: for the interval of the lead to leave zero out, if the lead stays what it is; None where it
            does already, or can't be said.
        sentences: all of it in words.
    """

    best_loops: int
    runner_up: int | None
    lead: Estimate | None
    share_of_resamples: float | None
    certainty: Certainty
    documents_needed: int | None
    sentences: list[str]


def decide(estimates: Estimates, num_loops: int, num_tokens: int) -> Verdict:
    """Compare the losses after each of the model's own loops.

    Args:
        estimates: may have more loops.
        num_tokens: that losses were taken of.
    """
    losses = [_value(estimates, loop) for loop in range(1, num_loops + 1)]
    order = sorted(range(1, num_loops + 1), key=lambda loop: losses[loop - 1])
    best = order[0]
    documents = "1 document" if estimates.num_documents == 1 else f"{estimates.num_documents:,} documents"
    lead_in = f"On {documents} ({num_tokens:,} predicted tokens)"
    if num_loops == 1:
        sentences = [
            f"{lead_in} the loss is {losses[0]:.4f} nats per token.",
            "The model has one loop: there is nothing to choose.",
            *_one_more(estimates, num_loops),
        ]
        return Verdict(1, None, None, None, "one loop", None, sentences)
    runner_up = order[1]
    lead, share = _lead(estimates, best, runner_up, num_loops)
    certainty = _certainty(estimates, best, num_loops)
    needed = _needed(lead) if certainty in ("undecided", "rough") else None
    return Verdict(
        best,
        runner_up,
        lead,
        share,
        certainty,
        needed,
        [
            f"{lead_in} the loss is lowest after {_loops(best)}: {losses[best - 1]:.4f} nats per token, "
            f"{lead.value:.4f} less than after {_loops(runner_up)}{_in_words(lead)}.",
            *_how_sure(best, lead, share, certainty, needed, estimates),
            *_one_more(estimates, num_loops),
            "All of it is one set of weights. What it predicts after another number of loops than it was trained with "
            "is not what a model trained with that number would.",
        ],
    )


def _value(estimates: Estimates, loop: int) -> float:
    found = estimates.get("loss", loop)
    assert found is not None, "every document has a loss after every loop"
    return found.value


def _lead(estimates: Estimates, best: int, runner_up: int, num_loops: int) -> tuple[Estimate, float | None]:
    """How far ahead the best is, and how often it is the best of all when documents are drawn again."""
    value = _value(estimates, runner_up) - _value(estimates, best)
    draws = estimates.draws("loss")[:, :num_loops]
    if len(draws) == 0:
        return Estimate(value, None, None, estimates.num_documents), None
    low, high = interval(draws[:, runner_up - 1] - draws[:, best - 1])
    share = float(np.mean(draws.argmin(axis=1) == best - 1))
    return Estimate(value, low, high, estimates.num_documents), share


def _certainty(estimates: Estimates, best: int, num_loops: int) -> Certainty:
    draws = estimates.draws("loss")
    if len(draws) == 0:
        return "no uncertainty"
    others = [loop for loop in range(1, num_loops + 1) if loop != best]
    if any(interval(draws[:, other - 1] - draws[:, best - 1])[0] <= 0 for other in others):
        return "undecided"
    return "rough" if estimates.num_documents < FEW_DOCUMENTS else "supported"


def _needed(lead: Estimate) -> int | None:
    """An interval narrows with the square root of the number of documents."""
    if lead.low is None or lead.high is None or lead.value <= 0:
        return None
    half_width = (lead.high - lead.low) / 2
    needed = max(FEW_DOCUMENTS, math.ceil(lead.documents * (half_width / lead.value) ** 2))
    return needed if needed <= FAR_MORE * lead.documents else None


def _how_sure(
    best: int,
    lead: Estimate,
    share: float | None,
    certainty: Certainty,
    needed: int | None,
    estimates: Estimates,
) -> list[str]:
    if share is None:
        return [
            "One document says nothing about others: there is no uncertainty to be had from it. Give more documents; "
            f"{FEW_DOCUMENTS} are the least for an interval that means what it says."
        ]
    resamples = len(estimates.draws("loss"))
    drawn = round(share * resamples)
    often = f"all {resamples:,}" if drawn == resamples else f"{drawn:,} of {resamples:,}"
    sentences = [f"In {often} resamples of the documents {_loops(best)} came out best."]
    if certainty == "undecided":
        more = (
            f"about {needed:,} documents would be needed if the difference stays what it is"
            if needed is not None
            else f"more than {FAR_MORE} times as many documents would be needed, if there is a difference at all"
        )
        sentences.append(f"That does not decide it: the interval of a difference holds zero; {more}.")
    elif certainty == "rough":
        sentences.append(
            f"Take it for a hint: intervals from {estimates.num_documents} documents are too narrow; "
            f"{max(FEW_DOCUMENTS, needed or 0):,} or more would make it a finding."
        )
    else:
        sentences.append("That holds for documents drawn as these were, and for no others.")
    return sentences


def _one_more(estimates: Estimates, num_loops: int) -> list[str]:
    """What a loop more than the model's would do, if there was one."""
    if estimates.num_loops == num_loops:
        return []
    gain = estimates.get("gain", num_loops + 1)
    assert gain is not None, "every document has a gain after every loop but the first"
    change = "lower" if gain.value > 0 else "raise"
    low, high = gain.low, gain.high
    spread = ""
    if low is not None and high is not None:
        ends = (low, high) if gain.value > 0 else (-high, -low)
        spread = f" ({LEVEL_TEXT} interval {ends[0]:.4f} to {ends[1]:.4f})"
    return [f"One loop more than the model has would {change} the loss by {abs(gain.value):.4f}{spread}."]


def _in_words(lead: Estimate) -> str:
    if lead.low is None:
        return ""
    return f" ({LEVEL_TEXT} interval {lead.low:.4f} to {lead.high:.4f})"


def _loops(count: int) -> str:
    return "1 loop" if count == 1 else f"{count} loops"
