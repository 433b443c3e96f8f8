"""Time per token of the same weights with all loops in one pass, one loop per pass, and one loop only.

One process loads the weights once and runs short sections of every mode by turns, so that whatever else the machine
does hits all alike; ratios are paired by round. A section is a batch of prompts and some tokens after them; it times
`EngineCore.step` (scheduling, the pass and greedy sampling) without HTTP.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from benchmarks.errors import BenchmarkError
from benchmarks.machine import ReadYardstick, describe
from benchmarks.spread import Spread
from engine.config import load_config
from engine.core import EngineCore
from engine.kv_arithmetic import one_loop_bytes_per_token
from engine.loading import Variant, load_variants
from engine.messages import Request
from engine.options import EngineOptions, Execution
from engine.sampling_params import SamplingParams
from engine.weights import ModelWeights
from kernels.panel_linear import PanelLinear
from scheduler.loop_layout import LoopCache

MIN_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        batches: sequences at once.
        contexts: prompt tokens per sequence.
        tokens: tokens timed per section and sequence.
        rounds: sections per mode, batch and context.
        time_limit: seconds for everything together; when it is over no round is started beyond the second.
    """

    batches: tuple[int, ...] = (1, 4, 8)
    contexts: tuple[int, ...] = (128,)
    tokens: int = 32
    rounds: int = 10
    time_limit: float = 300.0


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to run the weights."""

    name: str
    num_loops: int
    execution: Execution


@dataclass(frozen=True, slots=True)
class Row:
    """One mode at one batch size and context.

    Attributes:
        ms_per_token: wall time of one more token for every sequence of the batch.
        ms_to_first_tokens: until every sequence of the batch has its first token.
        against_parallel: ms_per_token divided by that of all loops in one pass, by round.
        first_tokens_against_parallel: the same for ms_to_first_tokens.
        bandwidth_share: bytes of weights read per second ÷ the yardstick beside it; None without a yardstick.
    """

    context: int
    batch: int
    mode: Mode
    rounds: int
    passes_per_token: float
    ms_per_token: Spread
    ms_to_first_tokens: Spread
    against_parallel: Spread
    first_tokens_against_parallel: Spread
    bandwidth_share: Spread | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one run found out.

    Attributes:
        weight_bytes_per_pass: None where the products don't tell.
        cache: whose keys a later loop reads.
        kv_bytes_per_token: of context, as this server keeps it (both executions).
        kv_bytes_per_token_sequential: of a cache in which every loop keeps its whole context (computed).
        kv_bytes_per_token_one_loop: of the same model without loops.
        kv_bytes_per_sequence: windows and carry, beside that.
    """

    model: str
    num_parameters: int
    num_loops: int
    cache: LoopCache
    options: EngineOptions
    plan: Plan
    rows: list[Row]
    weight_bytes_per_pass: int | None
    read_gigabytes_per_second: Spread | None
    kv_bytes_per_token: int
    kv_bytes_per_token_sequential: int
    kv_bytes_per_token_one_loop: int
    kv_bytes_per_sequence: int
    machine: str


@dataclass(frozen=True, slots=True)
class Section:
    """One timed stretch: prompts, then tokens."""

    first_tokens_seconds: float
    seconds: float
    passes: int
    tokens: dict[str, list[int]]
    read_rate: float | None


def modes_of(num_loops: int, offset: int = 1) -> list[Mode]:
    """What there is to compare; the first is what the others are divided by.

    Where a loop needs the loop before at the same position, a token's loops are in different passes in either
    execution, so there is one way to run them.
    """
    one_loop = Mode("one loop", 1, "parallel")
    if num_loops == 1:
        return [one_loop]
    if offset == 0:
        return [Mode(f"{num_loops} loops, a pass each", num_loops, "parallel"), one_loop]
    return [
        Mode(f"{num_loops} loops, one pass", num_loops, "parallel"),
        Mode(f"{num_loops} loops, one after another", num_loops, "sequential"),
        one_loop,
    ]


def measure(options: EngineOptions, plan: Plan) -> Report:
    """Load a model once and measure it.

    Args:
        options: execution, lengths, limits and prefix caching are replaced by what the plan needs.

    Raises:
        ModelError: the model can't be served, or its context is too short for the plan.
        BenchmarkError: the executions gave different tokens.
    """
    config = load_config(Path(options.model_dir), options.model_overrides)
    modes = modes_of(config.loops.num_loops, config.loops.offset)
    options = _with_limits(options, plan)
    variants = [Variant(replace(options, execution=mode.execution), mode.num_loops) for mode in modes]
    models = load_variants(variants, show_progress=True)
    cores = dict(zip(modes, map(EngineCore, models), strict=True))
    on_cpu = models[0].runner.staging.device.type == "cpu"
    weight_bytes = weight_bytes_per_pass(models[0].runner.model.weights)
    bench = _Bench(cores, plan, ReadYardstick() if on_cpu else None, weight_bytes)
    rows = [row for context in plan.contexts for batch in plan.batches for row in bench.rows(context, batch)]
    ready, one_loop = cores[modes[0]].ready(), models[-1]
    return Report(
        model=Path(options.model_dir).resolve().name,
        num_parameters=ready.num_parameters,
        num_loops=ready.num_loops,
        cache=config.loops.cache,
        options=options,
        plan=plan,
        rows=rows,
        weight_bytes_per_pass=weight_bytes,
        read_gigabytes_per_second=Spread.of(bench.read_rates) if bench.read_rates else None,
        kv_bytes_per_token=ready.kv_bytes_per_token,
        kv_bytes_per_token_sequential=ready.kv_bytes_per_token_sequential,
        kv_bytes_per_token_one_loop=one_loop_bytes_per_token(
            one_loop.config, one_loop.runner.state.caches[0].keys.element_size()
        ),
        kv_bytes_per_sequence=ready.kv_bytes_per_sequence,
        machine=describe(),
    )


def weight_bytes_per_pass(weights: ModelWeights) -> int | None:
    """Bytes of the products' weights, each of which a decode pass reads once; None if a product doesn't tell."""
    products = [weights.head]
    for layer in weights.layers:
        products += [layer.qkv, layer.output, layer.gate_up, layer.down]
    sizes = [product.packed.num_bytes for product in products if isinstance(product, PanelLinear)]
    return sum(sizes) if len(sizes) == len(products) else None


def _with_limits(options: EngineOptions, plan: Plan) -> EngineOptions:
    longest = max(plan.contexts) + plan.tokens + 1
    return replace(
        options,
        max_model_len=longest,
        max_num_seqs=max(plan.batches),
        max_rows_per_step=max(options.max_rows_per_step, 8 * max(plan.batches)),
        prefix_caching=False,
    )


class _Bench:
    """The cores, run by turns."""

    def __init__(
        self,
        cores: dict[Mode, EngineCore],
        plan: Plan,
        yardstick: ReadYardstick | None,
        weight_bytes: int | None,
    ) -> None:
        self.cores = cores
        self.plan = plan
        self.yardstick = yardstick
        self.weight_bytes = weight_bytes
        self.read_rates: list[float] = []
        self.deadline = time.perf_counter() + plan.time_limit

    def rows(self, context: int, batch: int) -> list[Row]:
        for mode in self.cores:
            self._section(mode, context, batch, tokens=2)  # warm-up
        sections: dict[Mode, list[Section]] = {mode: [] for mode in self.cores}
        for index in range(self.plan.rounds):
            if index >= MIN_ROUNDS and time.perf_counter() > self.deadline:
                break
            # Each goes first in every other round.
            for mode in self.cores if index % 2 == 0 else reversed(self.cores):
                sections[mode].append(self._section(mode, context, batch, self.plan.tokens))
        base = next(iter(sections.values()))
        return [self._row(context, batch, mode, own, base) for mode, own in sections.items()]

    def _section(self, mode: Mode, context: int, batch: int, tokens: int) -> Section:
        core, draw = self.cores[mode], random.Random(batch)
        params = SamplingParams(max_tokens=tokens + 1, seed=0, temperature=0.0)
        given: dict[str, list[int]] = {str(number): [] for number in range(batch)}
        for name in given:
            prompt = [draw.randrange(core.ready().vocab_size) for _ in range(context)]
            core.add(Request(request_id=name, prompt_token_ids=prompt, params=params))
        rate = self.yardstick.gigabytes_per_second() if self.yardstick else None
        if rate is not None:
            self.read_rates.append(rate)
        started = time.perf_counter()
        while not all(given.values()):
            _collect(core, given)
        begun, already = time.perf_counter(), sum(map(len, given.values()))
        passes = core.stats().steps_total
        while core.has_work:
            _collect(core, given)
        seconds = time.perf_counter() - begun
        # Prompts may end in different steps: what remains is counted, not assumed.
        share = (sum(map(len, given.values())) - already) / (batch * tokens)
        passes = core.stats().steps_total - passes
        return Section(begun - started, seconds / share, round(passes / share), given, rate)

    def _row(self, context: int, batch: int, mode: Mode, own: list[Section], base: list[Section]) -> Row:
        pairs = list(zip(own, base, strict=True))
        first = next(iter(self.cores))
        if mode.num_loops == first.num_loops and any(a.tokens != b.tokens for a, b in pairs):
            raise BenchmarkError(f"{mode.name!r} gave other tokens than {first.name!r}: please report this")
        tokens = self.plan.tokens
        return Row(
            context=context,
            batch=batch,
            mode=mode,
            rounds=len(own),
            passes_per_token=own[0].passes / tokens,
            ms_per_token=Spread.of([section.seconds * 1000 / tokens for section in own]),
            ms_to_first_tokens=Spread.of([section.first_tokens_seconds * 1000 for section in own]),
            against_parallel=Spread.of([a.seconds / b.seconds for a, b in pairs]),
            first_tokens_against_parallel=Spread.of(
                [a.first_tokens_seconds / b.first_tokens_seconds for a, b in pairs]
            ),
            bandwidth_share=self._bandwidth_share(own),
        )

    def _bandwidth_share(self, sections: Sequence[Section]) -> Spread | None:
        if self.weight_bytes is None or self.yardstick is None:
            return None
        return Spread.of(
            [
                self.weight_bytes * section.passes / section.seconds / 1e9 / section.read_rate
                for section in sections
                if section.read_rate is not None
            ]
        )


def _collect(core: EngineCore, given: dict[str, list[int]]) -> None:
    for output in core.step():
        if output.error is not None:
            raise BenchmarkError(output.error)
        given[output.request_id] += output.token_ids
