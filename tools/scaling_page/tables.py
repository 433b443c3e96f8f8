"""The tables of docs/scaling.md."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from engine.config import ModelConfig
from engine.options import CacheDtypeName, Quantization
from planning.devices import GPUS, Device
from planning.formats import formats_of
from planning.loopcoder import CONFIG
from planning.memory import CacheOptions
from planning.plan import Asked, Plan, make_plan

CONTEXTS = (2048, 8192, 32768, 131072)
STEP_MILLISECONDS = 50.0
"""A reader who waits for text reads slower than 20 tokens per second."""

Storage = tuple[Quantization, CacheDtypeName]
PLAIN: Storage = ("none", "auto")


def planned(
    device: Device,
    context: int,
    concurrency: int = 1,
    ranks: int = 1,
    config: ModelConfig = CONFIG,
    storage: Storage = PLAIN,
) -> Plan:
    """A plan of LoopCoder-V2 on a GPU."""
    formats = formats_of(config, False, "auto", storage[1], storage[0])
    # Chunks of 8,192 rows where there is room: what a server for long prompts is set to.
    cache = CacheOptions(max_rows_per_step=8192)
    return make_plan(Asked(config, formats, device, context, concurrency, ranks, cache))


def fitting_table() -> str:
    """Sequences that fit, by GPU and context, shared against a cache per loop."""

    def cell(device: Device, context: int) -> str:
        fitting = planned(device, context).memory.fitting
        return f"{fitting['shared']:,} / {fitting['sequential']:,}" if fitting["shared"] else "–"

    return table(
        ["GPU", "weights, cache", *(f"{context // 1024}k" for context in CONTEXTS)],
        [
            [device.name, _memory(device), *(cell(device, context) for context in CONTEXTS)]
            for device in GPUS.values()
        ],
    )


def _memory(device: Device) -> str:
    memory = planned(device, 1024).memory
    return f"{memory.weights_per_rank / 1e9:.1f} GB, {memory.cache_per_rank / 1e9:.1f} GB"


def users_table() -> str:
    """Sequences at once that fit and that each still get a token within the limit; what ends it."""

    def rows() -> Iterable[list[str]]:
        for name in ("l40s", "a100", "h100", "h200", "b200"):
            device = GPUS[name]
            for context in CONTEXTS:
                count, why = users(device, context)
                if count == 0:
                    continue
                step = planned(device, context, count).decode
                yield [
                    *(device.name, f"{context // 1024}k", f"{count:,}", why),
                    *(
                        f"{1e3 * step.parallel.seconds:.1f}",
                        f"{step.sequential.seconds / step.parallel.seconds:.2f}",
                    ),
                    *(
                        f"{step.parallel.seconds / step.one_loop.seconds:.2f}",
                        f"{count / step.parallel.seconds:,.0f}",
                    ),
                ]

    header = [
        "GPU",
        "context",
        "sequences",
        "ended by",
        "ms per token",
        "seq ÷ par",
        "R = 2 ÷ R = 1",
        "tokens/s",
    ]
    return table(header, rows())


def users(device: Device, context: int) -> tuple[int, str]:
    """The largest number of sequences that fit in memory and in a step of `STEP_MILLISECONDS`; 0 if none does."""

    def in_time(count: int) -> bool:
        return 1e3 * planned(device, context, count).decode.parallel.seconds <= STEP_MILLISECONDS

    fitting = planned(device, context).memory.fitting["shared"]
    low, high = 0, fitting
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if in_time(middle) else (low, middle - 1)
    return low, "memory" if low == fitting else "time"


def storage_table() -> str:
    """What narrower weights and caches are worth on the smallest and on a large GPU."""
    kinds: list[tuple[str, Storage]] = [
        ("bfloat16", PLAIN),
        ("int8 weights", ("int8", "auto")),
        ("int4 weights", ("int4", "auto")),
        ("fp8 cache", ("none", "fp8")),
        ("int8 weights, fp8 cache", ("int8", "fp8")),
    ]

    def rows() -> Iterable[list[str]]:
        for name in ("l4", "a100"):
            for text, storage in kinds:
                plan = planned(GPUS[name], 8192, storage=storage)
                fitting = plan.memory.fitting["shared"]
                alone = f"{1e3 * plan.decode.parallel.seconds:.1f}" if fitting else "–"
                yield [
                    GPUS[name].name,
                    text,
                    f"{plan.memory.weights_per_rank / 1e9:.1f} GB",
                    f"{fitting:,}",
                    alone,
                ]

    return table(["GPU", "stored in", "weights", "sequences of 8k", "ms per token, one sequence"], rows())


def loops_table() -> str:
    """More loops: memory and time on one GPU."""

    def rows() -> Iterable[list[str]]:
        for loops in (1, 2, 3, 4):
            config = replace(CONFIG, loops=replace(CONFIG.loops, num_loops=loops))
            plan = planned(GPUS["h100"], 8192, 64, config=config)
            fitting = plan.memory.fitting
            yield [
                *(str(loops), f"{fitting['shared']:,}", f"{fitting['sequential']:,}"),
                f"{1e3 * plan.decode.parallel.seconds:.1f}",
                f"{1e3 * plan.decode.sequential.seconds:.1f}",
                _up_to(plan),
            ]

    header = [
        "R",
        "fit, shared",
        "fit, a cache per loop",
        "ms per token, parallel",
        "ms, sequential",
        "≤ 10 % up to",
    ]
    return table(header, rows())


def _up_to(plan: Plan) -> str:
    if plan.asked.config.loops.num_loops == 1:
        return "any"
    most = plan.decode.free_until
    return "more than 1,024" if most is None else f"{most:,}"


def ranks_table() -> str:
    """One model over several GPUs against as many replicas."""

    def rows() -> Iterable[list[str]]:
        for name in ("l40s", "h100"):
            for ranks in (1, 2, 4):
                one = planned(GPUS[name], 8192, 1, ranks)
                many = planned(GPUS[name], 8192, 32 * ranks, ranks)
                yield [
                    *(GPUS[name].name, str(ranks), f"{1e3 * one.decode.parallel.seconds:.1f}"),
                    f"{one.memory.fitting['shared']:,}",
                    f"{ranks * planned(GPUS[name], 8192).memory.fitting['shared']:,}",
                    f"{32 * ranks / many.decode.parallel.seconds:,.0f}",
                    f"{ranks * 32 / planned(GPUS[name], 8192, 32).decode.parallel.seconds:,.0f}",
                ]

    header = [
        *("GPU", "GPUs", "ms per token alone", "fit, split", "fit, replicas"),
        *("tokens/s, split", "tokens/s, replicas"),
    ]
    return table(header, rows())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
