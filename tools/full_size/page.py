"""docs/results/full-size.md from one run."""

from dataclasses import dataclass
from typing import Any

from benchmarks.cells import Cells
from benchmarks.http_load import Reply
from benchmarks.spread import Spread

INTRODUCTION = """# LoopCoder-V2's size, on a CPU

    make bench-full-size

Random weights of the released shape: {parameters:,} parameters, {size:.1f} GB of bfloat16 in sharded safetensors,
two loops, window 64. For each format of the weights one process loads the checkpoint and runs all modes by turns,
prompts of {context} tokens, batch 1; ratios are paired by round. Products are computed in float32 in every format.

Machine: {machine}.
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """One format of the weights.

    Attributes:
        report: what `loopserve bench --json` wrote.
        peak_bytes: most memory of the process at any time, read files not counted.
        seconds: of the whole measurement, loading included.
    """

    name: str
    report: dict[str, Any]
    peak_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Served:
    """A request to the server.

    Attributes:
        start_seconds: from the command to the first answer.
        memory: bytes that the server's processes hold.
    """

    format: str
    start_seconds: float
    reply: Reply
    memory: int


def page(size: int, variants: list[Variant], served: Served, machine: str) -> str:
    """The whole page, in Markdown."""
    report = variants[0].report
    introduction = INTRODUCTION.format(
        parameters=report["num_parameters"],
        size=size / 1e9,
        context=report["plan"]["contexts"][0],
        machine=machine,
    )
    return "\n".join(
        [
            introduction,
            _speed(variants).markdown(),
            "\n## Memory\n",
            _memory(variants).markdown(),
            "\n## Over HTTP\n",
            _served(served),
        ]
    )


def _speed(variants: list[Variant]) -> Cells:
    header = [
        "weights",
        "mode",
        "ms per token",
        "tokens/s",
        "÷ one pass",
        "to first token, ms",
        "of read bandwidth",
    ]
    rows = []
    for variant in variants:
        for row in variant.report["rows"]:
            per_token = Spread(**row["ms_per_token"])
            rows.append(
                [
                    variant.name,
                    row["mode"]["name"],
                    str(per_token),
                    f"{1000 / per_token.median:.2f}",
                    str(Spread(**row["against_parallel"])),
                    str(Spread(**row["ms_to_first_tokens"])),
                    str(Spread(**row["bandwidth_share"])) if row["bandwidth_share"] else "–",
                ]
            )
    return Cells("Speed", header, rows)


def _memory(variants: list[Variant]) -> Cells:
    header = ["weights", "read per token, GB", "peak of the process, GB", "whole measurement, s"]
    rows = [
        [
            variant.name,
            f"{variant.report['weight_bytes_per_pass'] / 1e9:.2f}",
            f"{variant.peak_bytes / 1e9:.2f}",
            f"{variant.seconds:.0f}",
        ]
        for variant in variants
    ]
    return Cells("Memory", header, rows)


def _served(served: Served) -> str:
    reply = served.reply
    per_token = (reply.per_token or 0.0) * 1000
    return (
        f"`loopserve serve` with {served.format} weights answered {served.start_seconds:.0f} s after its start. "
        f"A prompt of {reply.prompt_tokens} tokens: first token after {reply.to_first_token * 1000:.0f} ms, then "
        f"{reply.completion_tokens - 1} tokens at {per_token:.0f} ms each. Its processes held "
        f"{served.memory / 1e9:.2f} GB.\n"
    )
