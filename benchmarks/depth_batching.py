"""Depth batching: rows of different loops in one pass, against loops in lock-step.

    python -m benchmarks.depth_batching [MODEL]

Where a loop needs the state of the loop before at the same position (an offset of 0: Nanbeige, Ouro, iquestloopcoder),
a token takes R passes. In lock-step, as in an engine whose forward pass is R loops over a fixed batch, all rows of a
pass are of one loop, and who comes or has done its loops waits until it is loop 0's turn again. Here each sequence goes
on from where it is. Both schedulers run the same requests over the same weights by turns in one process, and must give
the same tokens. Lock-step exists in this file only.

Without MODEL, a random one is made whose loops keep a context each.
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from benchmarks.cells import Cells
from benchmarks.errors import BenchmarkError
from benchmarks.machine import describe
from benchmarks.spread import Spread
from engine.checkpoint import expected_tensors
from engine.config import LoopSpec, ModelConfig, parameter_count
from engine.core import EngineCore
from engine.followers import Followers
from engine.loading import assemble
from engine.messages import Request
from engine.options import EngineOptions
from engine.placement import resolve_placement
from engine.rank_loading import LoadedRank, LoadPlan, load_rank, plan_load, product_factories
from engine.rope_scaling import RopeScaling
from engine.sampling_params import SamplingParams
from engine.weights import build_weights
from kernels.registry import load_backend
from scheduler.loop_layout import LoopCache
from scheduler.policy import Span
from scheduler.scheduler import Scheduler
from scheduler.sequence import Sequence
from scheduler.step_plan import StepPlan

ROUNDS = 6
CONCURRENCY = 8
MAX_LEN = 256
MAX_ROWS = 64


class LockStepScheduler(Scheduler):
    """All rows of a pass are of one loop: the next that any running sequence has rows of.

    Attributes:
        turn: the loop of the pass that is being planned.
    """

    turn = 0

    def schedule(self) -> StepPlan:
        num_loops = self.layout.num_loops
        for loop in (*range(self.turn, num_loops), *range(self.turn)):
            self.turn = loop
            waits = loop == 0 and bool(self.waiting)
            if waits or any(self._ready_spans(s, self.limits.max_rows) for s in self.running):
                break
        plan = super().schedule()
        self.turn = (self.turn + 1) % num_loops
        return plan

    def _ready_spans(self, sequence: Sequence, budget: int) -> list[Span]:
        loop = self.turn
        if loop >= sequence.layout.num_loops or budget <= 0:
            return []
        start = sequence.next[loop]
        if loop == 0:  # one row; `Scheduler` gives a prompt the rest of the budget
            return [(0, start, start + 1)] if start < len(sequence) else []
        stop = min(start + budget, sequence.next[loop - 1])
        return [(loop, start, stop)] if stop > start else []

    def _admit(self, spans: dict[Sequence, list[Span]], budget: int, step: StepPlan) -> None:
        if self.turn == 0:
            super()._admit(spans, budget, step)


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one kind, as many at once as `concurrency` allows, a new one as soon as one ends.

    Attributes:
        prompt, answer: least and most tokens.
        budgets: loops of a request, of which each is as likely; None for all of the model's.
        gap: mean seconds between arrivals, in passes of the model; 0: all are there at the start.
    """

    name: str
    prompt: tuple[int, int]
    answer: tuple[int, int]
    count: int
    budgets: tuple[int | None, ...] = (None,)
    gap: float = 0.0


def loads(num_loops: int) -> list[Load]:
    """What is compared."""
    shallow = tuple(range(1, num_loops + 1))
    return [
        Load("all start and end together", (4, 4), (12, 12), CONCURRENCY),
        Load("answers of any length", (4, 4), (4, 24), 2 * CONCURRENCY),
        Load("prompts beside decode", (16, 120), (4, 16), CONCURRENCY + 4),
        Load("arrivals now and then", (4, 4), (6, 12), CONCURRENCY, gap=5.0 * num_loops),
        Load("loop budgets 1 to R", (4, 4), (6, 18), 2 * CONCURRENCY, budgets=shallow),
    ]


@dataclass(slots=True)
class Outcome:
    """One run of a load.

    Attributes:
        first_token: seconds from a request's arrival to its first token, by request.
        tokens: answers, by request.
    """

    seconds: float = 0.0
    passes: int = 0
    rows: int = 0
    first_token: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return sum(map(len, self.tokens.values())) / self.seconds

    @property
    def mean_first_token(self) -> float:
        """Seconds."""
        return sum(self.first_token.values()) / len(self.first_token)


def run(core: EngineCore, load: Load, seed: int, pass_seconds: float) -> Outcome:
    """Serve a load to its end.

    Raises:
        BenchmarkError: a request failed.
    """
    rng, out, due = random.Random(f"{load.name} {seed}"), Outcome(), 0.0
    arrivals: list[tuple[float, Request]] = []
    for number in range(load.count):
        arrivals.append((due, _request(str(number), load, rng, core.model.config.vocab_size)))
        due += rng.expovariate(1 / (load.gap * pass_seconds)) if load.gap else 0.0
    steps, rows, began = core.stats().steps_total, sum(core.rows_total), time.perf_counter()
    came: dict[str, float] = {}
    while arrivals or core.has_work:
        now = time.perf_counter() - began
        while arrivals and arrivals[0][0] <= now:
            came[arrivals[0][1].request_id] = arrivals[0][0]
            core.add(arrivals.pop(0)[1])
        if not core.has_work:
            time.sleep(max(0.0, arrivals[0][0] - now))
            continue
        for output in core.step():
            if output.error is not None:
                raise BenchmarkError(output.error)
            name, since = output.request_id, time.perf_counter() - began
            out.first_token.setdefault(name, since - came[name])
            out.tokens.setdefault(name, []).extend(output.token_ids)
    out.seconds = time.perf_counter() - began
    out.passes = core.stats().steps_total - steps
    out.rows = sum(core.rows_total) - rows
    return out


def _request(name: str, load: Load, rng: random.Random, vocab_size: int) -> Request:
    prompt = [rng.randrange(vocab_size) for _ in range(rng.randint(*load.prompt))]
    params = SamplingParams(max_tokens=rng.randint(*load.answer), seed=0, temperature=0.0)
    return Request(
        request_id=name, prompt_token_ids=prompt, params=params, num_loops=rng.choice(load.budgets)
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """Both ways to serve a load; ratios are paired by round, depth batching ÷ lock-step."""

    load: Load
    depth: list[Outcome]
    lock_step: list[Outcome]

    def ratio(self, of: Callable[[Outcome], float]) -> Spread:
        return Spread.of_ratios([of(one) for one in self.depth], [of(one) for one in self.lock_step])


def compare(depth: EngineCore, lock_step: EngineCore, load: Load, rounds: int) -> Compared:
    """Serve a load by turns, each going first in every other round.

    Raises:
        BenchmarkError: the two gave different tokens.
    """
    cores, found = (depth, lock_step), Compared(load, [], [])
    warm = [run(core, replace(load, count=2, gap=0.0), seed=-1, pass_seconds=0.0) for core in cores]
    pass_seconds = warm[0].seconds / warm[0].passes
    for number in range(rounds):
        outcomes: dict[int, Outcome] = {}
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            outcomes[which] = run(cores[which], load, number, pass_seconds)
        if outcomes[0].tokens != outcomes[1].tokens:
            raise BenchmarkError(f"{load.name}: lock-step gave other tokens; please report this")
        found.depth.append(outcomes[0])
        found.lock_step.append(outcomes[1])
    return found


def table(found: list[Compared]) -> Cells:
    """One line per load."""
    return Cells(
        "Depth batching ÷ lock-step, median (min–max) over rounds",
        ["load", "tokens/s", "tokens/s, ratio", "to first token, ratio", "passes, ratio", "rows per pass"],
        [
            [
                each.load.name,
                str(Spread.of([one.rate for one in each.depth])),
                str(each.ratio(lambda one: one.rate)),
                str(each.ratio(lambda one: one.mean_first_token)),
                str(each.ratio(lambda one: one.passes)),
                f"{_rows_per_pass(each.depth):.1f} / {_rows_per_pass(each.lock_step):.1f}",
            ]
            for each in found
        ],
    )


def _rows_per_pass(outcomes: list[Outcome]) -> float:
    return sum(one.rows for one in outcomes) / sum(one.passes for one in outcomes)


def random_config(num_loops: int) -> ModelConfig:
    """A model whose passes are bound by reading weights, as those of real ones are: 20 million in the layers."""
    return ModelConfig(
        model_type="random",
        vocab_size=2048,
        hidden_size=640,
        intermediate_size=1792,
        num_layers=4,
        num_heads=10,
        num_kv_heads=10,
        head_dim=64,
        max_position_embeddings=MAX_LEN,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        rope_scaling=RopeScaling(),
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_ids=(),
        pad_token_id=None,
        torch_dtype="float32",
        loops=LoopSpec(num_loops, 0, 0, 0.0, 1.0, True, False, LoopCache.OWN),
    )


def random_rank(config: ModelConfig, options: EngineOptions) -> LoadedRank:
    """Weights out of nothing."""
    plan = LoadPlan(options, config, resolve_placement(options, config, 0), MAX_LEN)
    kernels = load_backend(plan.placement.backend)
    kernels.warm_up(plan.placement.cache_dtype)
    generator = torch.Generator().manual_seed(0)
    tensors = (
        (name, _random(spec.shape, generator).to(plan.placement.device, plan.placement.weight_dtype))
        for name, spec in expected_tensors(config).items()
    )
    weights = build_weights(config, tensors, product_factories(plan, None), plan.placement.dtype)
    return LoadedRank(plan, config, kernels, weights)


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) / shape[1] ** 0.5


def cores_of(rank: LoadedRank) -> tuple[EngineCore, EngineCore]:
    """Of depth batching and of lock-step, over the same weights.

    Raises:
        BenchmarkError: all loops of a token are ready together, so there is nothing to compare.
    """
    if rank.plan.layout.num_loops == 1 or rank.plan.layout.decodes_in_one_pass:
        raise BenchmarkError(
            "Only a model with several loops and an offset of 0 has its loops in a pass each."
        )
    depth, other = (assemble(rank, Followers()) for _ in range(2))
    scheduler = other.scheduler
    lock_step = LockStepScheduler(scheduler.layout, scheduler.limits, scheduler.blocks.num_blocks)
    return EngineCore(depth), EngineCore(replace(other, scheduler=lock_step))


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Depth batching against lock-step.")
    parser.add_argument("model", nargs="?", type=Path, help="a checkpoint with an offset of 0")
    parser.add_argument("--loops", type=int, default=4, help="of the random model")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    options = EngineOptions(
        model_dir=str(arguments.model or ""),
        max_model_len=MAX_LEN,
        max_num_seqs=CONCURRENCY,
        max_rows_per_step=MAX_ROWS,
        prefix_caching=False,
        calibration_time=0,
        kv_cache_memory=512 << 20,
    )
    if arguments.model is None:
        rank = random_rank(random_config(arguments.loops), options)
    else:
        rank = load_rank(plan_load(options, rank=0), None, show_progress=True)
    depth, lock_step = cores_of(rank)
    loops, parameters = rank.config.loops.num_loops, parameter_count(rank.config)
    name = arguments.model or "random, a context per loop"
    print(
        f"Model: {name}; {loops} loops, {parameters:,} parameters. Up to {CONCURRENCY} sequences at once, "
        f"{MAX_ROWS} rows per pass, {arguments.rounds} rounds by turns. {describe()}.\n"
    )
    found = [compare(depth, lock_step, load, arguments.rounds) for load in loads(loops)]
    print(table(found).markdown())


if __name__ == "__main__":
    main()
