"""The roofline page as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from engine.config import ModelConfig
from engine.options import Execution
from planning import loopcoder
from planning.devices import A100, H100, Device
from planning.formats import formats_of
from planning.memory import CacheOptions, Layout, MemoryModel
from planning.roofline import Deployment, decode_seconds, free_until, prefill_seconds, ridge_rows

GPUS = (A100, H100)

BATCHES = [2**n for n in range(9)]
CONTEXTS = (1024, 8192, 32768, 131072)
PROMPTS = (1024, 4096, 32768, 131072)
CHUNK = 8192

INTRODUCTION = """\
# When is the second loop free? A roofline model

**A model, computed from data sheets. Nothing here was measured, and no GPU has run this code.** Made by
`make roofline`; the arithmetic is in `planning/roofline.py`.

Shape: LoopCoder-V2 7B (hidden 5120, 14 layers, 40 heads, 8 KV heads of 128, intermediate 27648, vocabulary 76800,
window 64), weights and cache in bfloat16. GPUs: A100 80GB SXM (2,039 GB/s, 312 TFLOPS) and H100 SXM (3.35 TB/s, 989
TFLOPS), peaks of the vendor's data sheets, which real kernels do not reach: ratios between two columns mean more than
the columns.

A step is the products with weights, then the attention; each takes the longer of its memory time and its arithmetic
time. In **parallel**, one pass of batch × R rows reads weights and shared keys once. **Sequentially**, R passes read
them R times.
"""

WHY = """\
## Why it stops being free

* The products are free while batch × R rows stay below the **ridge**: FLOPs per second ÷ bytes per second, in rows.
  Below it a product waits for its weights, and further rows ride along; above it every row costs. With R = 2 the ridge
  is met at half the batch. Close to it R = 1 is still bound by memory while R = 2 is bound by arithmetic, so the ratio
  of the products rises from 1 to 2 between half the ridge and the ridge (dotted line: half of it).
* The attention stays nearly free at any batch and context: a further loop reads nothing of the shared cache that the
  first did not read, only its own 65 keys per layer. Its arithmetic doubles, but 5 × 2 query rows per KV head are far
  below the ridge.
* So the longer the contexts, the later the loop is felt: reading keys, which is shared, is a growing part of the step.
* The sequential loop never stops costing: it reads everything R times below the ridge, and above it computes as much as
  the parallel one.
* Above the ridge a looped model's products cost R times its non-looped twin's in any execution. That is arithmetic, and
  no scheduling removes it.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "![Step time](roofline/step_time.svg)\n"]
    parts += [_decode_section(gpu) for gpu in GPUS]
    parts += [
        "![R = 2 against R = 1](roofline/second_loop.svg)\n",
        "![Sequential against parallel](roofline/speed_up.svg)\n",
        _limits_section(),
        WHY,
        _prefill_section(),
        _memory_section(),
    ]
    return "\n".join(parts)


def _decode_section(gpu: Device) -> str:
    def time(loops: int, execution: Execution, batch: int, context: int) -> float:
        return decode_seconds(loopcoder.SHAPE, gpu, loops, execution, batch, context)

    def rows() -> Iterable[list[str]]:
        for context in CONTEXTS:
            for batch in BATCHES:
                one = time(1, "parallel", batch, context)
                two, three = (time(loops, "parallel", batch, context) for loops in (2, 3))
                yield [
                    *(f"{context // 1024}k", str(batch), f"{1e3 * one:.2f}", f"{1e3 * two:.2f}"),
                    *(f"{1e3 * three:.2f}", f"{two / one:.2f}", f"{three / one:.2f}"),
                    f"{time(2, 'sequential', batch, context) / two:.2f}",
                    f"{time(3, 'sequential', batch, context) / three:.2f}",
                ]

    header = [
        *("context", "batch", "R = 1, ms", "R = 2, ms", "R = 3, ms"),
        *("R=2 ÷ R=1", "R=3 ÷ R=1", "R=2 seq ÷ par", "R=3 seq ÷ par"),
    ]
    return (
        f"## Decode, {gpu.name}\n\nms per token for every sequence of the batch, in parallel.\n\n"
        + _table(header, rows())
    )


def _limits_section() -> str:
    def batch(gpu: Device, context: int) -> str:
        most = free_until(Deployment(loopcoder.SHAPE, gpu), 2, context)
        return "above 1024" if most is None else str(most)

    rows = [
        [gpu.name, f"{ridge_rows(gpu, loopcoder.SHAPE):.0f}", *(batch(gpu, context) for context in CONTEXTS)]
        for gpu in GPUS
    ]
    header = ["GPU", "ridge, rows", *(f"{context // 1024}k" for context in CONTEXTS)]
    return (
        "## Largest batch at which the second loop costs at most 10 %\n\nBy context, whether or not so many sequences "
        "fit into memory.\n\n" + _table(header, rows)
    )


def _prefill_section() -> str:
    def rows() -> Iterable[list[str]]:
        for gpu in GPUS:
            for tokens in PROMPTS:
                one, tail, all_positions = (
                    prefill_seconds(loopcoder.SHAPE, gpu, loops, tokens, from_tail, CHUNK)
                    for loops, from_tail in ((1, True), (2, True), (2, False))
                )
                yield [
                    *(gpu.name, f"{tokens // 1024}k", f"{1e3 * one:.0f}", f"{1e3 * tail:.0f}"),
                    *(f"{1e3 * all_positions:.0f}", f"{tail / one:.2f}", f"{all_positions / one:.2f}"),
                ]

    header = [
        *("GPU", "prompt", "R = 1, ms", "R = 2 from the tail, ms", "R = 2 everywhere, ms"),
        *("tail ÷ R=1", "everywhere ÷ R=1"),
    ]
    return (
        "## Prefill of one prompt\n\nLater loops start at the tail: loop 1 runs on the last 64 · 14 + 1 = 897 "
        f"positions only. Chunks of {CHUNK:,} rows.\n\n" + _table(header, rows())
    )


def _memory_section() -> str:
    formats = formats_of(loopcoder.CONFIG, False, "auto", "auto", "none")

    def fits(context: int, config: ModelConfig, layout: Layout) -> str:
        return str(MemoryModel(config, formats, A100, 1, CacheOptions()).fitting(context, layout))

    two = loopcoder.CONFIG
    three = replace(two, loops=replace(two.loops, num_loops=3))
    rows = [
        [
            f"{context // 1024}k",
            fits(context, two, "one_loop"),
            fits(context, two, "shared"),
            fits(context, two, "sequential"),
            fits(context, three, "shared"),
            fits(context, three, "sequential"),
        ]
        for context in CONTEXTS
    ]
    header = [
        *("context", "not looped", "R = 2, shared", "R = 2, a cache per loop"),
        *("R = 3, shared", "R = 3, a cache per loop"),
    ]
    return (
        "## Sequences that fit beside the weights in 80 GB\n\nThe cache has 85 % of what the weights leave, as in the "
        "engine, and whole blocks of 16 tokens; shared, with an H beside each block, and with blocks kept free for a "
        "prefill.\n\n" + _table(header, rows)
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
