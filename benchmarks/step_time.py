"""Decode time per token, all loops in one pass against one loop per pass.

    python -m benchmarks.step_time [MODEL_DIR] [--batch 1 8] [--json FILE]

One process holds the model twice, once per execution, and measures short sections of both by turns, so that whatever
else the machine does hits both alike. A section starts when every sequence of the batch has its first token; it times
`EngineCore.step` (scheduling, the pass and greedy sampling) without HTTP.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch

from engine.core import EngineCore
from engine.errors import ModelError
from engine.messages import Request
from engine.options import EngineOptions, Execution
from engine.sampling_params import SamplingParams

DEMO_MODEL = Path(__file__).parents[1] / "models" / "demo"
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)
MIN_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        prompt: prompt tokens per sequence.
        tokens: tokens timed per section and sequence.
        rounds: sections per execution and batch.
        time_limit: seconds for all batches together, after which no round is started beyond the second.
    """

    batches: tuple[int, ...] = (1, 8)
    prompt: int = 64
    tokens: int = 16
    rounds: int = 20
    time_limit: float = 30.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes of some numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Row:
    """One execution at one batch size.

    Attributes:
        ms_per_token: wall time of one more token for every sequence of the batch.
        against_parallel: that time divided by the parallel one, paired by round.
    """

    batch: int
    execution: str
    rounds: int
    passes_per_token: float
    ms_per_token: Spread
    against_parallel: Spread


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one run found out."""

    model: str
    num_parameters: int
    num_loops: int
    plan: Plan
    rows: list[Row]
    kv_bytes_per_token: int
    kv_bytes_per_token_sequential: int
    kv_bytes_per_sequence: int
    machine: str

    def markdown(self) -> str:
        """Tables for a document."""
        lines = [
            f"Model `{self.model}`: {self.num_parameters:,} parameters, {self.num_loops} loops, float32. "
            f"Prompt {self.plan.prompt} tokens, then {self.plan.tokens} tokens per section, "
            f"{min(row.rounds for row in self.rows)} sections of each execution by turns.",
            "",
            "| batch | execution | passes per token | ms per token: median (min–max) | time ÷ parallel, by round |",
            "|---|---|---|---|---|",
        ]
        for row in self.rows:
            ratio = "1" if row.execution == "parallel" else str(row.against_parallel)
            lines.append(
                f"| {row.batch} | {row.execution} | {row.passes_per_token:g} | {row.ms_per_token} | {ratio} |"
            )
        lines += [
            "",
            "| cache | KV bytes per token of context | bytes per sequence |",
            "|---|---|---|",
            f"| shared by the loops (this server, both executions) | {self.kv_bytes_per_token:,} "
            f"| {self.kv_bytes_per_sequence:,} (windows and carry) |",
            "| every loop keeps its whole context (computed, for comparison) "
            f"| {self.kv_bytes_per_token_sequential:,} | – |",
            "",
            f"Machine: {self.machine}.",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Section:
    """One timed stretch of decoding."""

    seconds: float
    passes: int
    tokens: dict[str, list[int]]


def measure(model_dir: Path, plan: Plan) -> Report:
    """Load a model twice and measure it.

    Raises:
        ModelError: the directory can't be served, or its context is too short for the plan.
        RuntimeError: the executions gave different tokens, or a batch did not start in step.
    """
    cores = {execution: _load(model_dir, execution, plan) for execution in EXECUTIONS}
    rows = [row for batch in plan.batches for row in _measure_batch(cores, batch, plan)]
    ready = cores["parallel"].ready()
    return Report(
        model=model_dir.resolve().name,
        num_parameters=ready.num_parameters,
        num_loops=ready.num_loops,
        plan=plan,
        rows=rows,
        kv_bytes_per_token=ready.kv_bytes_per_token,
        kv_bytes_per_token_sequential=ready.kv_bytes_per_token_sequential,
        kv_bytes_per_sequence=ready.kv_bytes_per_sequence,
        machine=_machine(),
    )


def _load(model_dir: Path, execution: Execution, plan: Plan) -> EngineCore:
    most = max(plan.batches)
    options = EngineOptions(
        model_dir=str(model_dir),
        execution=execution,
        max_model_len=plan.prompt + plan.tokens + 1,
        max_num_seqs=most,
        max_rows_per_step=max(1024, 2 * most * plan.prompt),
        prefix_caching=False,
    )
    return EngineCore.load(options, show_progress=False)


def _measure_batch(cores: dict[Execution, EngineCore], batch: int, plan: Plan) -> list[Row]:
    for core in cores.values():
        _run_section(core, batch, plan)  # warm-up
    sections: dict[Execution, list[Section]] = {execution: [] for execution in cores}
    deadline = time.perf_counter() + plan.time_limit / len(plan.batches)
    for index in range(plan.rounds):
        if index >= MIN_ROUNDS and time.perf_counter() > deadline:
            break
        # Each goes first in every other round.
        for execution in EXECUTIONS if index % 2 == 0 else reversed(EXECUTIONS):
            sections[execution].append(_run_section(cores[execution], batch, plan))
    parallel = sections["parallel"]
    return [_summarise(batch, execution, sections[execution], parallel, plan) for execution in EXECUTIONS]


def _run_section(core: EngineCore, batch: int, plan: Plan) -> Section:
    draw = random.Random(0)
    vocab_size = core.ready().vocab_size
    params = SamplingParams(max_tokens=plan.tokens + 1, seed=0, temperature=0.0)
    tokens: dict[str, list[int]] = {str(number): [] for number in range(batch)}
    for name in tokens:
        prompt = [draw.randrange(vocab_size) for _ in range(plan.prompt)]
        core.add(Request(request_id=name, prompt_token_ids=prompt, params=params))
    while not any(tokens.values()):
        _collect(core, tokens)
    if not all(tokens.values()):
        raise RuntimeError("the batch's prompts did not end in one step; raise the row budget")
    passes = core.stats().steps_total
    started = time.perf_counter()
    while core.has_work:
        _collect(core, tokens)
    seconds = time.perf_counter() - started
    return Section(seconds, core.stats().steps_total - passes, tokens)


def _collect(core: EngineCore, tokens: dict[str, list[int]]) -> None:
    for output in core.step():
        if output.error is not None:
            raise RuntimeError(output.error)
        tokens[output.request_id] += output.token_ids


def _summarise(
    batch: int, execution: Execution, sections: list[Section], parallel: list[Section], plan: Plan
) -> Row:
    pairs = list(zip(sections, parallel, strict=True))
    if any(mine.tokens != theirs.tokens for mine, theirs in pairs):
        raise RuntimeError(f"{execution} execution gave other tokens than parallel")
    return Row(
        batch=batch,
        execution=execution,
        rounds=len(sections),
        passes_per_token=statistics.mean(section.passes for section in sections) / plan.tokens,
        ms_per_token=Spread.of([section.seconds * 1000 / plan.tokens for section in sections]),
        against_parallel=Spread.of([mine.seconds / theirs.seconds for mine, theirs in pairs]),
    )


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    return f"{cpu}, {cores} cores, {threads} threads; torch {torch.__version__}, Python {platform.python_version()}"


def main() -> None:
    """Command line; see the module's docstring."""
    default = Plan()
    parser = argparse.ArgumentParser(description="Decode time per token, parallel against sequential loops.")
    parser.add_argument("model_dir", type=Path, nargs="?", default=DEMO_MODEL, help="default: the demo model")
    parser.add_argument("--batch", type=int, nargs="+", default=list(default.batches))
    parser.add_argument("--prompt", type=int, default=default.prompt, help="prompt tokens")
    parser.add_argument("--tokens", type=int, default=default.tokens, help="tokens per section")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--time-limit", type=float, default=default.time_limit, help="seconds for all rounds")
    parser.add_argument("--json", type=Path, help="write the report there too")
    args = parser.parse_args()
    if min(*args.batch, args.prompt, args.tokens, args.rounds) < 1:
        parser.error("--batch, --prompt, --tokens and --rounds must be at least 1")
    plan = Plan(tuple(args.batch), args.prompt, args.tokens, args.rounds, args.time_limit)
    try:
        report = measure(args.model_dir, plan)
    except ModelError as error:
        parser.error(str(error))
    print(report.markdown())
    if args.json is not None:
        args.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
