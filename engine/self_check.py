"""At start-up: does a request get the same bits alone and in a crowd on this machine?

The promise (docs/architecture.md, "Batch invariance") rests on compiled code, on the libraries and on the CPU, so it is
tried where it is given. A probe runs alone, then in crowds of several sizes, and so with other numbers of rows per
pass, other tiles and other chunks of its prompt; its logits must be the same bits each time. What is drawn from them
must not depend on how many rows are drawn from at once either.

All layers have the same shapes and formats, so a model in one process on a CPU is tried with its first layer only. A
split model, and one on a GPU, where graphs belong to the runner, is tried as it is; of its memory, only what no
sequence holds is written to.
"""

from dataclasses import dataclass, replace

import torch

from engine.rank_link import CacheSize
from engine.rank_loading import LoadedRank
from engine.runner import ModelRunner
from engine.sampler import Draw, Sample, SamplingState, sample_step
from engine.sampling_params import SamplingParams
from kernels.registry import load_backend
from scheduler.carry_pool import required_capacity
from scheduler.scheduler import Scheduler, SchedulerLimits
from scheduler.sequence import Sequence

CROWDS = (1, 2, 4, 9)
"""Sequences. With two loops that is 2 to 18 rows of decode; there is compiled code for each number up to a dozen."""
PROMPT_TOKENS = 10
ANSWER_TOKENS = 1
SPARE_ROWS = 8
"""Of a pass, beyond one per loop and sequence: the probe's prompt takes several passes."""
MOST_PASSES = 200
DRAWS = (
    SamplingParams(max_tokens=1, seed=1, temperature=0.0, logprobs=5),
    SamplingParams(max_tokens=1, seed=2, temperature=0.9, logprobs=5),
    SamplingParams(max_tokens=1, seed=3, temperature=1.1, top_k=40, top_p=0.9, logprobs=5),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tried.

    Attributes:
        runner: no sequence holds any of its memory yet, and its prefix cache is empty.
        limits: crowds beyond them are left out.
        num_blocks: of the runner's cache.
        max_len: most tokens of a sequence.
    """

    runner: ModelRunner
    limits: SchedulerLimits
    num_blocks: int
    max_len: int

    @classmethod
    def first_layer(cls, rank: LoadedRank) -> "Subject":
        """The first layer of a model that isn't split, with the embedding, the head and a small cache of its own."""
        plan, length = rank.plan, PROMPT_TOKENS + ANSWER_TOKENS
        plan = replace(plan, config=replace(plan.config, num_layers=1))
        weights = replace(rank.weights, layers=rank.weights.layers[:1])
        layout = plan.layout
        max_rows = max(CROWDS) * layout.num_loops + SPARE_ROWS
        limits = SchedulerLimits(max(CROWDS), max_rows, plan.options.execution)
        num_blocks = max(CROWDS) * (layout.blocks_for(length, max_rows) + layout.num_loops)
        slots = required_capacity(layout.num_loops, limits.max_num_seqs, max_rows)
        # Backends remember the caches that they have seen, so the engine's own must not see this one.
        part = LoadedRank(plan, plan.config, load_backend(plan.placement.backend), weights)
        return cls(part.make_runner(CacheSize(num_blocks, slots, length)), limits, num_blocks, length)


def is_batch_invariant(subject: Subject) -> bool:
    """Whether the probe got the same bits in every crowd."""
    alone = _probe(subject, 1)
    sizes = [size for size in CROWDS if 1 < size <= subject.limits.max_num_seqs]
    return all(_same_bits(alone, _probe(subject, size)) for size in sizes) and _draws_alike(alone)


def _probe(subject: Subject, crowd: int) -> torch.Tensor:
    """float32 ``[tokens, vocab]`` logits of a sequence, among so many that start at once."""
    runner, length = subject.runner, min(PROMPT_TOKENS + ANSWER_TOKENS, subject.max_len)
    prompt = max(1, length - ANSWER_TOKENS)
    scheduler = Scheduler(runner.layout, replace(subject.limits, prefix_caching=False), subject.num_blocks)
    probe = _sequence(runner, 0, prompt)
    others = [_sequence(runner, number, min(prompt, 1 + number % 3)) for number in range(1, crowd)]
    for sequence in (*others[::2], probe, *others[1::2]):
        scheduler.add(sequence)
    found: list[torch.Tensor] = []
    for _ in range(MOST_PASSES):
        plan = scheduler.schedule()
        if not plan.segments:
            break
        result, tokens = runner.run(plan), {}
        for index, row in enumerate(result.rows):
            if row.sequence is probe:
                found.append(result.logits[index].clone())
            if len(row.sequence) < length:
                tokens[row.sequence] = _token(runner, len(row.sequence))
        scheduler.commit(plan, tokens)
        if len(found) > length - prompt:
            break
    return torch.stack(found)


def _sequence(runner: ModelRunner, number: int, length: int) -> Sequence:
    tokens = [_token(runner, 31 * number + position) for position in range(length)]
    return Sequence(f"self-check {number}", tokens, length, runner.layout)


def _token(runner: ModelRunner, number: int) -> int:
    """Tokens all over the vocabulary."""
    return (number * 7919 + 13) % runner.model.config.vocab_size


def _draws_alike(logits: torch.Tensor) -> bool:
    """Whether tokens and log-probabilities drawn from one row are those drawn from all rows at once."""
    vocab_size, device = logits.shape[1], logits.device
    draws = [
        Draw(row, SamplingState.begin(params, [0], vocab_size, device))
        for row in range(len(logits))
        for params in DRAWS
    ]
    together, _ = sample_step(logits, draws, [])
    alone: list[Sample] = []
    for draw in draws:
        alone += sample_step(logits[draw.row : draw.row + 1], [Draw(0, draw.state)], [])[0]
    return together == alone


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))
