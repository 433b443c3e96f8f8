"""Ahead-of-time compile of the GPU kernels: what is recorded, what is measured, which rules hold."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton

from kernels.gpu import triton_backend
from tools.compile_kernels import shapes
from tools.compile_kernels.launches import Launch, Recorder, TensorArgument, Use
from tools.compile_kernels.measure import MeasureError, Resources, amd_resources, nvidia_resources
from tools.compile_kernels.rules import Compiled, broken_rules
from tools.compile_kernels.table import page
from tools.compile_kernels.targets import TARGETS, AmdComputeUnit

ROOT = Path(__file__).parents[2]
PTX = """
.visible .entry tile_attention(
.reqntid 128
{
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 	{ %r1 }, { %r2 }, { %r3 }, { %r4 };
	@%p1 mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 	{ %r1 }, { %r2 }, { %r3 }, { %r4 };
	// a comment on wgmma.mma_async
	wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, %p1, 1, 1, 0, 0;
	@%p2 tcgen05.mma.cta_group::1.kind::f16 [ %r1 + 0 ], %rd1, %rd2, %r3, %p3;
"""
USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function tile_attention:
  REG:168 STACK:16 SHARED:1024 LOCAL:8 CONSTANT[0]:384 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
AMDGCN = """
	v_mfma_f32_16x16x16_bf16 a[0:3], v[2:3], v[4:5], a[0:3]
	v_mfma_f32_16x16x16_bf16 a[4:7], v[2:3], v[4:5], a[4:7]
amdhsa.kernels:
  - .agpr_count:     16
    .group_segment_fixed_size: 0
    .max_flat_workgroup_size: 256
    .private_segment_fixed_size: 20
    .sgpr_count:     52
    .sgpr_spill_count: 7
    .vgpr_count:     135
    .vgpr_spill_count: 3
"""
SM_80, SM_90, SM_100, GFX942 = (target.multiprocessor for target in TARGETS)
TILE = Launch(
    "kernels.gpu.tile_attention:tile_attention",
    (TensorArgument(torch.bfloat16, False),),
    (("PADDED_DIM", 128), ("LANES", 16)),
    (("num_warps", 4),),
)
MMA = (("mma.sync", 32),)


def used(
    threads: int = 128, registers: int = 32, spilled: int = 0, shared: int = 0, **more: int
) -> Resources:
    return Resources(threads, registers, spilled, shared, MMA, **more)


def compiled(outcome: Resources | str, phase: str = "decode", precision: str = "bf16") -> Compiled:
    return Compiled(TILE, (Use(phase, precision),), TARGETS[0], outcome)


def test_nvidia_figures_are_read() -> None:
    found = nvidia_resources(PTX, USAGE, shared_bytes=21504, tensor_columns=256)
    kinds = (("mma.sync", 2), ("tcgen05.mma", 1), ("wgmma.mma_async", 1))
    assert found == Resources(128, 168, 24, 21504, kinds, tensor_columns=256)


def test_amd_figures_are_read() -> None:
    found = amd_resources(AMDGCN, shared_bytes=16384)
    mma = (("v_mfma", 2),)
    assert found == Resources(256, 135, 20, 16384, mma, scalar_registers=52, scalar_spills=7)


def test_a_missing_figure_is_an_error() -> None:
    with pytest.raises(MeasureError, match="REG"):
        nvidia_resources(PTX, "nothing", 0, 0)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (used(registers=32), 1.0),  # 32 · 32 = 1,024 a warp: 16 per sub-partition, 64 in all
        (used(registers=96), 20 / 64),  # 3,072 a warp: 5 per sub-partition
        (used(registers=255), 8 / 64),  # 8,160, rounded up to 8,192: 2 per sub-partition
        (used(registers=16, threads=32), 32 / 64),  # 32 blocks of one warp
        (used(shared=39936), 16 / 64),  # 164 KiB hold 4 times 39 + 1 KiB
        (used(threads=256, registers=168), 8 / 64),  # 12 warps by registers: one block of 8
    ],
)
def test_nvidia_occupancy(resources: Resources, expected: float) -> None:
    assert SM_80.occupancy(resources) == expected


def test_tensor_memory_limits_blocks() -> None:
    assert SM_100.occupancy(used(tensor_columns=256)) == 2 * 4 / 64


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (used(threads=256, registers=64), 1.0),  # 8 waves per SIMD
        (used(threads=256, registers=135), 3 / 8),  # 136: 3 per SIMD
        (used(threads=512, registers=200), 2 / 8),  # 2 per SIMD: one group of 8 waves
        (used(threads=256, registers=32, scalar_registers=106), 7 / 8),  # 800 / 112
        (used(threads=256, registers=32, shared=32768), 2 / 8),  # 2 groups of 4 waves
        (used(threads=64, registers=32), 1.0),  # a single wave needs no barrier: no limit of 16 groups
        (used(threads=128, registers=32), 1.0),  # 16 groups of 2 waves
    ],
)
def test_amd_occupancy(resources: Resources, expected: float) -> None:
    assert AmdComputeUnit().occupancy(resources) == expected


def test_every_kernel_is_launched() -> None:
    functions = {name for name, value in vars(triton_backend).items() if hasattr(value, "fn")}
    assert len(functions) == 10
    assert {launch.kernel_name for launch in shapes.record(shapes.covering_shapes())} == functions


def test_the_grid_covers_what_it_says() -> None:
    covering = [shape for shape in shapes.covering_shapes() if shape.attention]
    for head_dim in (64, 96, 128, 256):
        group = [shape for shape in covering if shape.head_dim == head_dim]
        assert {shape.block_size for shape in group} == {16, 32, 64, 128}
        assert {shape.dtype for shape in group} == {torch.float32, torch.float16, torch.bfloat16}
        assert torch.uint8 in {shape.cache_dtype for shape in group}
    launches = shapes.record(shapes.covering_shapes())
    decode = [
        dict(launch.constants) for launch, uses in launches.items() if any(u.phase == "decode" for u in uses)
    ]
    assert {constants["LANES"] for constants in decode} == {16, 32, 64}
    assert {constants["NUM_WINDOWS"] for constants in decode} == {0, 1, 2, 3}


def test_identical_launches_are_recorded_once() -> None:
    recorder = Recorder()
    backend = triton_backend.TritonBackend(launch=recorder)
    for rows in (3, 70):
        backend.silu_mul(torch.empty(rows, 64, device="meta"))
    assert len(recorder.uses) == 1


def test_decode_and_prefill_take_the_same_keys() -> None:
    """A row's keys are summed in chunks of `KEYS`: it must not matter which kernel computes the row."""
    found: dict[tuple[int, str], set[int]] = {}
    for launch, uses in shapes.record(shapes.covering_shapes()).items():
        constants = dict(launch.constants)
        for use in uses:
            if "KEYS" in constants:
                found.setdefault((constants["PADDED_DIM"], use.precision[:4]), set()).add(constants["KEYS"])
    assert all(len(keys) == 1 for keys in found.values())


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (compiled("CompilationError: no"), "does not compile"),
        (compiled(used(spilled=4)), "spills"),
        (compiled(used(shared=164 * 1024)), "shared memory"),
        (compiled(used(threads=1024, registers=255)), "not one block"),
        (compiled(replace(used(), mma=()), "prefill"), "tensor-core"),
    ],
)
def test_a_broken_rule_is_named(row: Compiled, words: str) -> None:
    assert any(words in rule for rule in broken_rules(row))


def test_what_the_rules_allow() -> None:
    assert not broken_rules(compiled(used(spilled=4000), "prefill"))
    assert not broken_rules(compiled(replace(used(), mma=()), precision="fp32"))


def test_the_page_does_not_depend_on_the_order_of_its_rows() -> None:
    rows = [replace(compiled(used(registers=40 + i)), target=target) for i, target in enumerate(TARGETS)]
    text = page(rows, "3.9.0", "one")
    assert text == page(rows[::-1], "3.9.0", "one")
    assert "| tile_attention (decode) | gfx942 | 1 | 43 | 0 | 0 |" in text


def run_tool(output: Path, interpret: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret is not None:
        environment["TRITON_INTERPRET"] = interpret
    command = [sys.executable, "-m", "tools.compile_kernels", "--output", str(output)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_interpreter_is_refused(tmp_path: Path) -> None:
    done = run_tool(tmp_path / "table.md", interpret="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET" in done.stderr
    assert not (tmp_path / "table.md").exists()


@pytest.mark.timeout(1800)
def test_every_launch_compiles_for_every_target_and_the_committed_table_is_that(tmp_path: Path) -> None:
    """`make compile-kernels` in full: some minutes."""
    done = run_tool(tmp_path / "table.md", interpret=None)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "table.md").read_text()
    committed = (ROOT / "docs" / "results" / "kernels.md").read_text()
    if f"Triton {triton.__version__} " in committed:  # another compiler needs other registers
        assert text == committed
    assert "never run on a GPU" in text
    for target in ("sm_80", "sm_90", "sm_100", "gfx942"):
        assert f"| partial_attention (split decode) | {target} |" in text
