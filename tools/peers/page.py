"""docs/results/peers.md from one run."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cells import Cells
from benchmarks.http_load import Load
from benchmarks.server_tables import server_cells
from benchmarks.servers import ServerReport, ServerRow
from benchmarks.spread import Spread
from tools.peers import servers

DECODE = Load(streams=1, prompt_tokens=128, max_tokens=128, max_token_id=30000)
CONCURRENT = Load(streams=8, prompt_tokens=128, max_tokens=128, max_token_id=30000)
PREFILL = Load(streams=1, prompt_tokens=1024, max_tokens=1, max_token_id=30000)

Quantity = Callable[[ServerRow], list[float]]


def _per_token(row: ServerRow) -> list[float]:
    return row.per_token_seconds


def _first_token(row: ServerRow) -> list[float]:
    return row.first_token_seconds


def _throughput(row: ServerRow) -> list[float]:
    return [1 / tokens for tokens in row.tokens_per_second]


@dataclass(frozen=True, slots=True)
class Claim:
    """How many times as fast `ours` is as `theirs`: the ratio of their time to ours, by round."""

    what: str
    ours: str
    theirs: str
    load: Load
    seconds: Quantity
    at_least: float


CLAIMS = [
    Claim("decode", servers.LOOPS_1, servers.LLAMA_CPP, DECODE, _per_token, 1.0),
    Claim("decode", servers.LOOPS_2, servers.LLAMA_CPP, DECODE, _per_token, 0.9),
    Claim("decode", servers.LOOPS_2, servers.MLX, DECODE, _per_token, 3.0),
    Claim("decode", servers.LOOPS_2, servers.NANBEIGE, DECODE, _per_token, 1.5),
    Claim("decode", servers.LOOPS_2, servers.SEQUENTIAL, DECODE, _per_token, 1.7),
    Claim("8 streams, all tokens/s", servers.LOOPS_2, servers.VLLM, CONCURRENT, _throughput, 1.0),
    Claim("8 streams, all tokens/s", servers.LOOPS_2, servers.LLAMA_CPP, CONCURRENT, _throughput, 1.0),
    Claim("prefill of 1024", servers.LOOPS_1, servers.TRANSFORMERS, PREFILL, _first_token, 1.0),
    Claim("prefill of 1024", servers.LOOPS_1, servers.LLAMA_CPP, PREFILL, _first_token, 1.0),
]

INTRODUCTION = """# Beside other servers, on a CPU

    make bench-peers

One run over HTTP: all servers are up, one runs and the others are paused (SIGSTOP), by turns; ratios are
paired by round. Every server has {threads} threads, float32 weights and greedy sampling, streams every token and
gets other prompts in every round. Shape: hidden 1024, 14 layers, 16 heads, 4 KV heads, intermediate 2816,
vocabulary 32,000, untied: 224 M parameters, random weights; loopserve's window is 64. Tokens are counted by the
servers. Outputs are not compared: the models differ in what a loop computes (nanbeige repeats the layers with a
cache of its own per loop; iquestloopcoder is closest to ours).

Two loops do twice the arithmetic of one: rows of different loop counts are not the same work.

Machine: {machine}.

## How many times as fast

Decode is time per token of one stream after its first token, 128 tokens after a prompt of 128. "8 streams" is
tokens per second of eight such requests sent at once, prefill included. Prefill is time to the first token.
"""

NOTES = """* llama.cpp keeps keys and values in float16, its default; the others in float32.
* mlx-lm runs on OpenBLAS instead of the reference BLAS of its wheel, and takes text, not token ids: its prompts are
  letters.
* transformers runs behind a few lines of HTTP, without continuous batching.
* vLLM's CPU build logs that compilation is off on this machine.
* Memory is what only the server's processes hold after the run. The cache is part of it: vLLM is given 1 GiB;
  loopserve and llama.cpp make room for 8 sequences of 2,048 positions.
"""


def page(report: ServerReport, memory: dict[str, int], versions: dict[str, str], machine: str) -> str:
    """The whole page, in Markdown."""
    return "\n".join(
        [
            INTRODUCTION.format(threads=servers.THREADS, machine=machine),
            claim_cells(report).markdown(),
            "\n## Times\n",
            server_cells(report).markdown(),
            "\n## Memory and versions\n",
            _memory_cells(memory, versions).markdown(),
            f"\n{NOTES}",
        ]
    )


def claim_cells(report: ServerReport) -> Cells:
    """The comparisons both sides of which were measured."""
    rows = {(row.target, row.load): row for row in report.rows}
    cells = []
    for claim in CLAIMS:
        ours, theirs = rows.get((claim.ours, claim.load)), rows.get((claim.theirs, claim.load))
        if ours is None or theirs is None:
            continue
        ratio = Spread.of_ratios(claim.seconds(theirs), claim.seconds(ours))
        met = "yes" if ratio.median >= claim.at_least else "**no**"
        cells.append([claim.what, claim.ours, claim.theirs, str(ratio), f"≥ {claim.at_least:g}", met])
    return Cells("Comparison", ["what", "ours", "theirs", "times as fast", "target", "met"], cells)


def _memory_cells(memory: dict[str, int], versions: dict[str, str]) -> Cells:
    rows = [[name, versions.get(name, ""), f"{size / 2**20:,.0f}"] for name, size in memory.items()]
    return Cells("Memory", ["server", "version", "MiB"], rows)
