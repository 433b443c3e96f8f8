"""From a step's logits to what each sequence gets of them; an exception costs the sequence that it is about."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.active_request import ActiveRequest
from engine.isolation import Boundary, Failure, bisect
from engine.messages import TokenLogprob
from engine.row_batch import LogitRow
from engine.runner import StepLogits
from engine.sampler import Draw, KnownToken, Sample, sample_step
from scheduler.sequence import Sequence


@dataclass(slots=True)
class SampledStep:
    """What was sampled.

    Attributes:
        samples: of each sequence that the step brought to its newest token; None if it wants or may get no token.
        failures: sequences that could not be sampled; they are not in `samples`.
    """

    samples: dict[Sequence, Sample | None] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What one sequence wants of the logits.

    Attributes:
        at_newest: the step brought it to its newest token.
        draw: for its next token, None if it wants or may get none.
        owed: prompt tokens whose log-probabilities it wants, with their positions.
    """

    active: ActiveRequest
    at_newest: bool
    draw: Draw | None
    owed: list[tuple[int, KnownToken]]


@dataclass(frozen=True, slots=True)
class _Given:
    """What it got; `logprobs` are those of `owed`."""

    sample: Sample | None
    logprobs: list[TokenLogprob]


def sample_sequences(result: StepLogits, active: Mapping[str, ActiveRequest]) -> SampledStep:
    """Sample what a step's logits allow, and note it in the sequences' sampling states and prompt logprobs."""
    sampled, wishes = SampledStep(), []
    for sequence, rows in _rows_by_sequence(result.rows).items():
        with Boundary(sampled.failures, sequence, "sampling"):
            wishes.append(_wish(active[sequence.sequence_id], result, rows))
    done, failed = bisect(wishes, lambda part: _sample(result, part))
    sampled.failures += [Failure(wish.active.sequence, "sampling", error) for wish, error in failed]
    for part, results in done:
        for wish, given in zip(part, results, strict=True):
            sequence = wish.active.sequence
            with Boundary(sampled.failures, sequence, "sampling"):
                _take(wish, given)
                if wish.at_newest:
                    sampled.samples[sequence] = given.sample
    return sampled


def _rows_by_sequence(rows: list[LogitRow]) -> dict[Sequence, list[int]]:
    found: dict[Sequence, list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(row.sequence, []).append(index)
    return found


def _wish(active: ActiveRequest, result: StepLogits, indices: list[int]) -> _Wish:
    """What a sequence wants of its rows of the logits; those of earlier loops are kept until a token is drawn."""
    newest: int | None = None
    owed: list[tuple[int, KnownToken]] = []
    for index in indices:
        row = result.rows[index]
        if not row.is_last_loop:
            active.loop_logits[row.loop] = result.logits[index].clone()
            continue
        if row.position == len(row.sequence) - 1:
            newest = index
        known = _owed(active, index, row.position)
        if known is not None:
            owed.append((row.position + 1, known))
    sampling = active.sampling
    draws = newest is not None and sampling.params.max_tokens > 0 and sampling.may_draw()
    draw = active.draw(newest, result.logits) if newest is not None and draws else None
    return _Wish(active, newest is not None, draw, owed)


def _owed(active: ActiveRequest, index: int, position: int) -> KnownToken | None:
    """The prompt token after `position`, row `index` of the logits, if its logprob was asked for."""
    sequence, wanted = active.sequence, active.request.params.prompt_logprobs
    if wanted is None or not sequence.every_position or position + 1 >= sequence.num_prompt_tokens:
        return None
    return KnownToken(index, sequence.tokens[position + 1], wanted)


def _sample(result: StepLogits, wishes: list[_Wish]) -> list[_Given]:
    """Sample for some sequences at once. Changes nothing, so it can be done again for fewer."""
    draws = [wish.draw for wish in wishes if wish.draw is not None]
    known = [known for wish in wishes for _, known in wish.owed]
    samples, logprobs = sample_step(result.logits, draws, known)
    sample, logprob = iter(samples), iter(logprobs)
    return [
        _Given(None if wish.draw is None else next(sample), [next(logprob) for _ in wish.owed])
        for wish in wishes
    ]


def _take(wish: _Wish, given: _Given) -> None:
    """Note what a sequence got."""
    active = wish.active
    # a preempted prompt overwrites its own with the same values
    for (position, _), logprob in zip(wish.owed, given.logprobs, strict=True):
        active.prompt_logprobs[position] = logprob
    if given.sample is not None and given.sample.token is not None:
        active.sampling.count(given.sample.token)
