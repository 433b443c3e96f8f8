"""Everything that only a GPU can tell, in one command: `make gpu-check`.

    python -m tools.gpu_check [--output DIR] [--quick]

1. runs the kernel tests natively, 2. measures launch alternatives of attention, 3. measures decode steps of R = 1, of 2
and 3 loops in parallel and of 2 loops in sequence, beside a roofline with this GPU's measured bandwidth and FLOPs.
Writes `gpu-<name>.md`. Without a GPU, `--dry-run` goes through all of it on the CPU in Triton's interpreter with a tiny
model; its figures mean nothing and are not written.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.testing import do_bench

from kernels.registry import INTERPRETED
from tools.gpu_check.launches import ALTERNATIVES, WORKLOADS, Alternative, Workload, measure_launches
from tools.gpu_check.page import Machine, page
from tools.gpu_check.shape import LOOPCODER_V2, TINY, layers_that_fit, write_checkpoint
from tools.gpu_check.steps import VARIANTS, Plan, load_cores, measure_steps

ROOT = Path(__file__).parents[2]
FULL = Plan(batches=(1, 4, 16, 64, 128), contexts=(1024, 8192, 32768), steps=16, rounds=9)
QUICK = Plan(batches=(1, 32), contexts=(1024,), steps=8, rounds=3)


def main() -> int:
    """Returns the exit status: 1 if a kernel test failed, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description="Check and measure loopserve on this machine's GPU.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="where the page goes")
    parser.add_argument("--quick", action="store_true", help="fewer batches, contexts and rounds")
    parser.add_argument(
        "--dry-run", action="store_true", help="on the CPU, in Triton's interpreter; writes nothing"
    )
    arguments = parser.parse_args()
    if arguments.dry_run:
        return _dry_run()
    if not torch.cuda.is_available():
        print("gpu-check: torch finds no GPU here; nothing was checked", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    passed, summary = run_kernel_tests()
    launches = measure_launches(LOOPCODER_V2, device, WORKLOADS, ALTERNATIVES)
    memory = torch.cuda.mem_get_info()[0]
    config = {**LOOPCODER_V2, "num_hidden_layers": layers_that_fit(LOOPCODER_V2, memory, len(VARIANTS))}
    machine = _machine(device)
    steps = _measure_steps(config, device, QUICK if arguments.quick else FULL, memory // 20)
    name = re.sub(r"[^a-z0-9]+", "-", machine.name.lower()).strip("-")
    target = arguments.output / f"gpu-{name}.md"
    target.write_text(page(machine, config["num_hidden_layers"], summary, steps, launches))
    print(f"wrote {target}")
    return 0 if passed else 1


def run_kernel_tests() -> tuple[bool, str]:
    """Run tests/kernels on the GPU; whether they passed, and pytest's last line."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["KERNEL_TEST_DEVICE"] = "cuda"
    command = [sys.executable, "-m", "pytest", "tests/kernels", "-q", "--timeout=3600"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:])
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return done.returncode == 0, lines[-1].strip(
        "= "
    ) if lines else f"no output, exit status {done.returncode}"


def _measure_steps(config: dict[str, Any], device: torch.device, plan: Plan, cache_bytes: int) -> list[Any]:
    with tempfile.TemporaryDirectory(prefix="loopserve-gpu-check-") as directory:
        write_checkpoint(Path(directory), config, device)
        options: dict[str, object] = {"kv_cache_memory": cache_bytes}
        if device.type == "cpu":
            options |= {"device": "cpu", "attention_backend": "triton"}
        return measure_steps(load_cores(Path(directory), plan, options), plan)


def _machine(device: torch.device) -> Machine:
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_ms = do_bench(lambda: target.copy_(source), return_mode="median")
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    product_ms = do_bench(lambda: a @ b, return_mode="median")
    properties = torch.cuda.get_device_properties(device)
    return Machine(
        properties.name,
        2 * len(source) / copy_ms * 1e3,
        2 * 8192**3 / product_ms * 1e3,
        properties.total_memory,
        f"torch {torch.__version__}, Triton {triton.__version__}, CUDA {torch.version.cuda}, ROCm {torch.version.hip}",
    )


def _dry_run() -> int:
    if not INTERPRETED:
        print("gpu-check: --dry-run needs TRITON_INTERPRET=1 in the environment", file=sys.stderr)
        return 2
    device = torch.device("cpu")
    workloads = (Workload("decode", 2, 40, 1), Workload("prefill", 1, 20, 9))
    launches = measure_launches(TINY, device, workloads, [Alternative(16, 4, 1)])
    plan = Plan(batches=(1, 2), contexts=(12,), steps=1, rounds=2)
    steps = _measure_steps(TINY, device, plan, 8 << 20)
    machine = Machine("dry run, figures mean nothing", 1e9, 1e12, 1 << 30, "on the CPU")
    print(page(machine, 1, "not run", steps, launches))
    return 0


if __name__ == "__main__":
    sys.exit(main())
