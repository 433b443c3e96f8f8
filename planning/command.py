"""The command line of `loopserve plan`."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from engine.config import ModelConfig, load_config
from engine.model_files import resolve_model
from engine.options import CacheDtypeName, DtypeName, Quantization
from planning.devices import GPUS, Device, named_gpu
from planning.errors import PlanError
from planning.formats import formats_of
from planning.memory import CacheOptions
from planning.plan import Asked, make_plan
from planning.report import as_json, as_text

CONFIG_FILES = ("config.json", "generation_config.json")
HARDWARE, STORAGE = "Hardware", "As in `loopserve serve`"


def plan(
    model: Annotated[str, typer.Argument(help="Model directory, its config.json, or a hub id.")],
    context: Annotated[int, typer.Option(min=1, help="Tokens of a sequence, prompt and answer.")] = 8192,
    concurrency: Annotated[int, typer.Option(min=1, max=65536, help="Sequences at once.")] = 32,
    as_json_text: Annotated[bool, typer.Option("--json", help="Print JSON: bytes and seconds.")] = False,
    gpu: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(GPUS)}.", rich_help_panel=HARDWARE, metavar="NAME")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory, such as 80GB, of a device by hand.", rich_help_panel=HARDWARE, metavar="SIZE"
        ),
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(min=0, help="Of that memory, GB/s.", rich_help_panel=HARDWARE)
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option(
            min=0, help="TFLOPS of dense products in the activations' type.", rich_help_panel=HARDWARE
        ),
    ] = None,
    link: Annotated[
        float | None,
        typer.Option(min=0, help="GB/s from one device to another, one direction.", rich_help_panel=HARDWARE),
    ] = None,
    cpu: Annotated[
        bool,
        typer.Option(
            "--cpu", help="The figures are a CPU's, with float32 arithmetic.", rich_help_panel=HARDWARE
        ),
    ] = False,
    tensor_parallel_size: Annotated[
        int, typer.Option(min=1, max=64, help="GPUs that share the model.", rich_help_panel=STORAGE)
    ] = 1,
    dtype: Annotated[DtypeName, typer.Option(help="Of weights.", rich_help_panel=STORAGE)] = "auto",
    kv_cache_dtype: Annotated[
        CacheDtypeName, typer.Option(help="Of the cache.", rich_help_panel=STORAGE)
    ] = "auto",
    quantization: Annotated[
        Quantization, typer.Option(help="Of the layers' weights.", rich_help_panel=STORAGE)
    ] = "none",
    kv_cache_memory: Annotated[
        str | None,
        typer.Option(
            help="Default: the share of free memory that the engine takes.",
            rich_help_panel=STORAGE,
            metavar="SIZE",
        ),
    ] = None,
    block_size: Annotated[
        int, typer.Option(min=1, max=4096, help="Tokens per cache block.", rich_help_panel=STORAGE)
    ] = 16,
    max_rows_per_step: Annotated[
        int, typer.Option(min=1, help="Chunk of a prefill.", rich_help_panel=STORAGE)
    ] = 1024,
    prefix_caching: Annotated[
        bool, typer.Option(help="Keep an H beside each block.", rich_help_panel=STORAGE)
    ] = True,
    model_overrides: Annotated[
        str | None,
        typer.Option(
            help='Merged over config.json, such as {"plt_num_loops": 3}.',
            rich_help_panel=STORAGE,
            metavar="JSON",
        ),
    ] = None,
) -> int:
    """How many sequences fit, and how fast they can be at best: a model, not a measurement.

    Hardware is --gpu, or --memory, --bandwidth and --flops by hand; what is given by hand replaces a named GPU's.

    Exit codes: 0 if the concurrency fits, 1 if it does not, 2 for a wrong option or model.
    """
    config = _config(model, model_overrides)
    device = _device(gpu, memory, bandwidth, flops, link, cpu)
    if gpu is not None and flops is None and dtype == "float32":
        raise PlanError("data sheets' peaks are for bfloat16; with --dtype float32 also give --flops")
    cache = CacheOptions(
        block_size, max_rows_per_step, prefix_caching, _size("--kv-cache-memory", kv_cache_memory)
    )
    formats = formats_of(config, device.is_cpu, dtype, kv_cache_dtype, quantization)
    made = make_plan(Asked(config, formats, device, context, concurrency, tensor_parallel_size, cache))
    print(json.dumps(as_json(made), indent=2) if as_json_text else as_text(made))
    return 0 if made.fits else 1


def _config(model: str, overrides: str | None) -> ModelConfig:
    """Only the configuration is looked at, and fetched."""
    try:
        given = json.loads(overrides or "{}")
    except (ValueError, RecursionError) as error:
        raise PlanError(f"--model-overrides is not valid JSON: {error}") from None
    if not isinstance(given, dict):
        raise PlanError("--model-overrides must be a JSON object")
    path = Path(os.path.expanduser(model))
    if path.name == CONFIG_FILES[0] and path.is_file():
        return load_config(path.parent, given)
    return load_config(resolve_model(model, files=CONFIG_FILES), given)


def _device(
    gpu: str | None,
    memory: str | None,
    bandwidth: float | None,
    flops: float | None,
    link: float | None,
    cpu: bool,
) -> Device:
    if gpu is not None and cpu:
        raise PlanError("--cpu is for figures given by hand; leave out --gpu")
    given: dict[str, float] = {
        name: value
        for name, value in (
            ("memory", _size("--memory", memory)),
            ("bandwidth", None if bandwidth is None else bandwidth * 1e9),
            ("flops", None if flops is None else flops * 1e12),
            ("link", None if link is None else link * 1e9),
        )
        if value is not None
    }
    if any(value <= 0 for value in given.values()):
        raise PlanError("--memory, --bandwidth, --flops and --link must be above 0")
    if gpu is not None:
        named = named_gpu(gpu)
        source = f"{named.source}; by hand: {', '.join(given)}" if given else named.source
        return replace(named, source=source, **given)  # type: ignore[arg-type]
    missing = [f"--{name}" for name in ("memory", "bandwidth", "flops") if name not in given]
    if missing:
        raise PlanError(f"give --gpu ({', '.join(GPUS)}), or {' and '.join(missing)} too")
    return Device("CPU" if cpu else "a device", is_cpu=cpu, **given)  # type: ignore[arg-type]


def _size(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise PlanError(f"{option} {text!r} is not a size; write 80GB or 24GiB") from None
