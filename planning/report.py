"""A plan as text and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from engine.config import LoopSpec
from planning.memory import LAYOUTS, Layout
from planning.plan import Plan
from planning.roofline import StepTime
from scheduler.loop_layout import LoopCache

HEADER = (
    "A model, not a measurement: bytes and FLOPs against data-sheet peaks, which real kernels do not reach. "
    "Ratios mean more than times. Scheduling, sampling and HTTP are left out."
)
LAYOUT_NAMES = {"shared": "shared (loopserve)", "sequential": "a cache per loop", "one_loop": "one loop only"}


def as_text(plan: Plan) -> str:
    """For a terminal."""
    asked, memory, decode, prefill = plan.asked, plan.memory, plan.decode, plan.prefill
    config, device = asked.config, asked.device
    has_windows = config.loops.cache is LoopCache.WINDOW
    has_two_ways = config.loops.offset > 0 or config.loops.num_loops == 1
    count = f"{asked.ranks} × " if asked.ranks > 1 else ""
    lines = [
        HEADER,
        "",
        f"Model     {config.loops.num_loops} loops × {config.num_layers} layers, {_cache(config.loops)}",
        f"Hardware  {count}{device.name}: {size(device.memory)}, {device.bandwidth / 1e9:,.0f} GB/s, "
        f"{device.flops / 1e12:,.4g} TFLOPS ({device.source})",
        f"Load      {asked.concurrency} sequences of {asked.context:,} tokens",
        "",
        f"Memory{' of each rank' if asked.ranks > 1 else ''}: {size(memory.weights_per_rank)} weights, "
        f"{size(memory.cache_per_rank)} cache, of {size(memory.device_memory)}",
        *_aligned(
            ["cache layout", "KV per token", f"per sequence of {asked.context:,}", "sequences that fit"],
            [
                [
                    _layout_name(layout, config.loops),
                    size(memory.kv_per_token[layout]),
                    size(memory.kv_per_sequence[layout]),
                    f"{memory.fitting[layout]:,}",
                ]
                for layout in LAYOUTS
                if has_windows or layout != "sequential"  # else it is the first
            ],
        ),
        f"  of a served sequence, {'windows and ' if has_windows else ''}carry: {size(memory.windows_and_carry)}",
        "",
        f"Decode step, {asked.concurrency} sequences; most of it is {decode.parallel.bound}",
        *_times(
            [
                ("parallel", decode.parallel),
                *([("sequential", decode.sequential)] if has_two_ways else []),
                ("one loop", decode.one_loop),
            ],
            asked.concurrency,
        ),
        *(
            []
            if has_two_ways
            else ["  a loop needs the one before at the same token: a pass per loop, always"]
        ),
        f"  the further loops cost at most 10 % up to {_batch(decode.free_until)} sequences at this context "
        f"(ridge: {decode.ridge_rows:.0f} rows)",
        "",
        f"Prefill of {asked.context:,} tokens, alone, in chunks of {asked.cache.max_rows_per_step:,} rows",
        *_times(
            [
                ("parallel", prefill.parallel),
                *([("sequential", prefill.sequential)] if has_windows else []),
                ("one loop", prefill.one_loop),
            ],
            None,
        ),
        *(
            ["  sequential: every loop over the whole prompt, as a cache per loop needs it"]
            if has_windows
            else []
        ),
        "",
        f"{asked.concurrency} sequences {'fit' if plan.fits else 'do NOT fit'}. Limit: {plan.limit}.",
    ]
    if plan.rows_needed > asked.cache.max_rows_per_step:
        lines.append(
            f"They need --max-rows-per-step {plan.rows_needed}, a row per loop and sequence, or more."
        )
    return "\n".join(lines)


def as_json(plan: Plan) -> dict[str, Any]:
    """The same in bytes and seconds."""
    asked, memory = plan.asked, plan.memory
    return {
        "note": HEADER,
        "device": {**asdict(asked.device), "count": asked.ranks},
        "context": asked.context,
        "concurrency": asked.concurrency,
        "loops": asked.config.loops.num_loops,
        "memory": asdict(memory),
        "decode": {
            **{name: _time(getattr(plan.decode, name)) for name in ("parallel", "sequential", "one_loop")},
            "sequential_over_parallel": plan.decode.sequential.seconds / plan.decode.parallel.seconds,
            "parallel_over_one_loop": plan.decode.parallel.seconds / plan.decode.one_loop.seconds,
            "tokens_per_second": asked.concurrency / plan.decode.parallel.seconds,
            "free_until": plan.decode.free_until,
            "ridge_rows": plan.decode.ridge_rows,
        },
        "prefill": {
            name: _time(getattr(plan.prefill, name)) for name in ("parallel", "sequential", "one_loop")
        },
        "fits": plan.fits,
        "limit": plan.limit,
        "rows_needed": plan.rows_needed,
    }


def size(count: float) -> str:
    """Bytes, as data sheets count them: in powers of ten."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:.0f} B"


def _cache(loops: LoopSpec) -> str:
    return f"window {loops.window}" if loops.cache is LoopCache.WINDOW else "a cache per loop"


def _layout_name(layout: Layout, loops: LoopSpec) -> str:
    if layout == "shared" and loops.cache is LoopCache.OWN:
        return "a cache per loop (loopserve)"
    return LAYOUT_NAMES[layout]


def _time(step: StepTime) -> dict[str, Any]:
    return {**asdict(step), "seconds": step.seconds, "bound": step.bound}


def _times(executions: list[tuple[str, StepTime]], batch: int | None) -> list[str]:
    """Lines of a table of executions; the first is what the others are divided by."""
    first = executions[0][1]
    return _aligned(
        ["", "ms", "÷ parallel", *(["tokens/s"] if batch else [])],
        [
            [
                *(name, f"{1e3 * step.seconds:,.2f}", f"{step.seconds / first.seconds:.2f}"),
                *([f"{batch / step.seconds:,.0f}"] if batch else []),
            ]
            for name, step in executions
        ],
    )


def _batch(most: int | None) -> str:
    return "more than 1,024" if most is None else f"{most:,}"


def _aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; all but the first right-aligned."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
