"""The Markdown page: what each kernel takes of each GPU."""

import inspect
from collections.abc import Iterable

from tools.compile_kernels.launches import Launch
from tools.compile_kernels.measure import Resources
from tools.compile_kernels.rules import Compiled
from tools.compile_kernels.targets import TARGETS, Target

HEAD = """# Triton kernels, compiled ahead of time

    .venv/bin/python -m tools.compile_kernels

Compiled by Triton {version} on a machine without a GPU; **never run on a GPU**. The launches are those that
`TritonBackend` itself makes, recorded on `meta` tensors, and specialised as Triton's JIT does it on that GPU.

Model shapes: {shapes}

* Registers: per thread; on gfx942 vector registers, accumulation registers included.
* Spills: bytes per thread in local or scratch memory. Scalar registers of gfx942 that are kept in vector lanes count
  in the full table only, after "s": they cost instructions, not memory.
* Shared: bytes per block. MMA: tensor-core instructions in the program text (PTX, amdgcn).
* Occupancy: warps that can live on a multiprocessor by registers, shared and tensor memory, blocks and warps, as a
  share of the most that it holds. A ceiling from the manuals, not a measurement.

Rules: everything compiles; shared memory fits; half-precision attention uses tensor cores; decode spills
nothing.
"""


def page(compiled: Iterable[Compiled], version: str, shapes: str) -> str:
    """The whole page; the same input gives the same text."""
    rows = sorted(compiled, key=lambda row: (_name(row), _configuration(row), row.target.name))
    head = HEAD.format(version=version, shapes=shapes)
    return "\n".join(
        [head, "## Summary", "", *_summary(rows), "", "## Every configuration", "", *_full(rows), ""]
    )


def _summary(rows: list[Compiled]) -> list[str]:
    lines = [
        "| kernel | target | configurations | most registers | worst spill | most shared | occupancy | MMA |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted({_name(row) for row in rows}):
        for target in TARGETS:
            group = [row for row in rows if _name(row) == name and row.target is target]
            if group:
                lines.append(_summary_line(name, target, group))
    return lines


def _summary_line(name: str, target: Target, group: list[Compiled]) -> str:
    used = [row.outcome for row in group if isinstance(row.outcome, Resources)]
    failed = len(group) - len(used)
    count = f"{len(group)}" + (f" ({failed} failed)" if failed else "")
    if not used:
        return f"| {name} | {target.name} | {count} | | | | | |"
    shares = [target.multiprocessor.occupancy(resources) for resources in used]
    kinds = sorted({kind for resources in used for kind, _ in resources.mma})
    cells = (
        name,
        target.name,
        count,
        max(resources.registers for resources in used),
        max(resources.spilled_bytes for resources in used),
        f"{max(resources.shared_bytes for resources in used):,}",
        f"{min(shares):.0%}–{max(shares):.0%}",
        ", ".join(kinds) or "–",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _full(rows: list[Compiled]) -> list[str]:
    lines = [
        "Each cell: registers · spilled bytes · shared bytes · MMA instructions · occupancy.",
        "",
        "| kernel | precision | configuration | " + " | ".join(target.name for target in TARGETS) + " |",
        "|---|---|---|" + "---|" * len(TARGETS),
    ]
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        key = _name(row), _precision(row), _configuration(row)
        by_target = cells.setdefault(key, {})
        assert row.target.name not in by_target, f"two kernels look the same in the table: {key}"
        by_target[row.target.name] = _cell(row)
    for key, by_target in cells.items():
        lines.append("| " + " | ".join([*key, *(by_target.get(t.name, "as above") for t in TARGETS)]) + " |")
    return lines


def _cell(row: Compiled) -> str:
    used = row.outcome
    if isinstance(used, str):
        return used.replace("|", "/")
    spills = f"{used.spilled_bytes}" + (f" s{used.scalar_spills}" if used.scalar_spills else "")
    mma = "+".join(f"{count} {kind}" for kind, count in used.mma) or "–"
    occupancy = f"{row.target.multiprocessor.occupancy(used):.0%}"
    return f"{used.registers} · {spills} · {used.shared_bytes:,} · {mma} · {occupancy}"


def _name(row: Compiled) -> str:
    """The kernel, and for attention what it is launched for."""
    phases = sorted({use.phase for use in row.uses} - {"any"})
    return row.launch.kernel_name + (f" ({', '.join(phases)})" if phases else "")


def _precision(row: Compiled) -> str:
    return "; ".join(sorted({use.precision for use in row.uses}))


def _configuration(row: Compiled) -> str:
    """Constants, options and what else tells two launches of a kernel apart."""
    figures = [f"{name.lower()} {value}" for name, value in (*row.launch.constants, *row.launch.options)]
    large = _large_arguments(row.launch)
    return ", ".join(figures) + (f"; over 2 GiB: {', '.join(large)}" if large else "")


def _large_arguments(launch: Launch) -> list[str]:
    names = inspect.signature(launch.load_kernel().fn).parameters
    return [
        name
        for name, argument in zip(names, launch.arguments, strict=False)
        if not isinstance(argument, int | float) and argument.is_large
    ]
