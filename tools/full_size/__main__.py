"""Write a random checkpoint of LoopCoder-V2's released shape, measure it on this machine, serve it, delete it.

    python -m tools.full_size --directory build/full-size --page docs/results/full-size.md

Needs 16 GB of disk, 24 GB of memory and half an hour.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.http_load import Load, send
from benchmarks.machine import describe
from tests.make_checkpoint import byte_level_tokenizer
from tools.full_size.page import Served, Variant, page
from tools.gpu_check.shape import LOOPCODER_V2, TINY, write_checkpoint
from tools.peers.servers import LOOPSERVE, Server, running

LOOPSERVE_BENCH = [*LOOPSERVE[:-1], "bench"]
VARIANTS = {
    "bfloat16": ["--dtype", "bfloat16"],
    "int8": ["--quantization", "int8"],
    "int4": ["--quantization", "int4"],
}
SERVED = "int8"
LOAD = Load(streams=1, prompt_tokens=32, max_tokens=16, max_token_id=256)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    context: int
    tokens: int
    rounds: int


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure LoopCoder-V2's released shape on this machine.")
    parser.add_argument("--directory", type=Path, default=Path("build/full-size"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/full-size.md"))
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--context", type=int, default=32)
    parser.add_argument("--tiny", action="store_true", help="a tiny model instead, to try the tool")
    args = parser.parse_args()
    config = {**(TINY if args.tiny else LOOPCODER_V2), "plt_num_loops": 2}
    directory: Path = args.directory
    directory.mkdir(parents=True)
    try:
        _write_model(directory / "model", config)
        size = sum(file.stat().st_size for file in (directory / "model").iterdir())
        effort = Effort(args.context, args.tokens, args.rounds)
        variants = [_measure(name, options, directory, effort) for name, options in VARIANTS.items()]
        served = _serve(directory)
        args.page.write_text(page(size, variants, served, describe()), encoding="utf-8")
    finally:
        shutil.rmtree(directory)
    sys.stdout.write(f"wrote {args.page}\n")


def _write_model(directory: Path, config: dict[str, Any]) -> None:
    directory.mkdir()
    write_checkpoint(directory, config, torch.device("cpu"))
    byte_level_tokenizer(config["vocab_size"]).save(str(directory / "tokenizer.json"))


def _measure(name: str, options: list[str], directory: Path, effort: Effort) -> Variant:
    """Both executions and one loop over the same weights, in a process of its own."""
    report = directory / f"{name}.json"
    command = [
        *LOOPSERVE_BENCH,
        str(directory / "model"),
        *["--batch", "1", "--context", str(effort.context), "--tokens", str(effort.tokens)],
        *["--rounds", str(effort.rounds), "--json", str(report)],
        *options,
    ]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        peak = _peak_memory(process)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return Variant(name, json.loads(report.read_text()), peak, time.monotonic() - started)


def _peak_memory(process: "subprocess.Popen[bytes]") -> int:
    """Most anonymous memory that a process holds at any time, in bytes; the page cache of read files is not in it."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        kilobytes = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")]
        peak = max([peak, *(value * 1024 for value in kilobytes)])
        time.sleep(0.2)
    return peak


def _serve(directory: Path) -> Served:
    options = VARIANTS[SERVED]
    command = [*LOOPSERVE, str(directory / "model"), "--port", "{port}", "--max-model-len", "256"]
    server = Server("loopserve", [*command, "--heartbeat-timeout", "86400", *options])
    started = time.monotonic()
    with running([server], directory) as servers:
        seconds = time.monotonic() - started
        target = servers.targets["loopserve"]
        with servers.turn(target):
            (reply,) = send(target, LOAD, seed=1)
        return Served(SERVED, seconds, reply, servers.memory("loopserve"))


if __name__ == "__main__":
    main()
