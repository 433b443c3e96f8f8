"""The command line of `loopserve bench`."""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast, get_args

import msgspec
import typer
from rich.console import Console

from benchmarks.decode import Plan, Report, measure
from benchmarks.errors import BenchmarkError
from benchmarks.tables import markdown, show
from engine.model_files import resolve_model
from engine.option_values import json_object, one_of
from engine.options import CacheDtypeName, DtypeName, EngineOptions, Quantization

DEMO_MODEL = Path(__file__).parents[1] / "models" / "demo"
_DEFAULT = Plan()

cli = typer.Typer(add_completion=False)


@cli.command()
def bench(
    model: Annotated[str, typer.Argument(help="Directory or hub name of a checkpoint.")] = str(DEMO_MODEL),
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Sequences at once; repeat for more. Default: 1, 4, 8.")
    ] = None,
    context: Annotated[
        list[int] | None, typer.Option(min=1, help="Prompt tokens; repeat for more. Default: 128.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens timed per section.")] = _DEFAULT.tokens,
    rounds: Annotated[int, typer.Option(min=1, help="Sections of each mode.")] = _DEFAULT.rounds,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds after which no round is started beyond the second.")
    ] = _DEFAULT.time_limit,
    model_overrides: Annotated[str, typer.Option(help="JSON object merged over config.json.")] = "{}",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    quantization: Annotated[str, typer.Option(help="none, int8 or int4.")] = "none",
    kv_cache_dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16 or fp8.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads; default: the cores.")] = None,
    max_rows_per_step: Annotated[int, typer.Option(min=1, help="Row budget of one pass.")] = 1024,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report there.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write tables there.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw it there (.svg, .png); needs matplotlib.")
    ] = None,
) -> None:
    """Measure MODEL on this machine: all loops in one pass, one loop after another, and one loop only.

    The three run the same weights by turns, so their ratios hold on a busy machine, too.
    With --url, running servers are measured over HTTP: `loopserve bench --url URL --help`.
    """
    options = EngineOptions(
        model_dir=str(resolve_model(model)),
        model_overrides=json_object(model_overrides, "--model-overrides"),
        dtype=cast(DtypeName, one_of(dtype, "--dtype", get_args(DtypeName))),
        quantization=cast(Quantization, one_of(quantization, "--quantization", get_args(Quantization))),
        kv_cache_dtype=cast(
            CacheDtypeName, one_of(kv_cache_dtype, "--kv-cache-dtype", get_args(CacheDtypeName))
        ),
        threads=threads,
        calibration_time=0,
        max_rows_per_step=max_rows_per_step,
    )
    plan = Plan(
        tuple(batch or _DEFAULT.batches), tuple(context or _DEFAULT.contexts), tokens, rounds, time_limit
    )
    report = measure(options, plan)
    # A file or a pipe has no width: tables are not folded there.
    show(report, Console(width=None if sys.stdout.isatty() else 200))
    _write(report, json_file, markdown_file, picture)


def main(arguments: list[str]) -> None:
    """Run the command line.

    Raises:
        LoopserveError: the model can't be measured.
        typer.exceptions.TyperException: an option is wrong.
    """
    cli(arguments, prog_name="loopserve bench", standalone_mode=False)


def _write(report: Report, json_file: Path | None, markdown_file: Path | None, picture: Path | None) -> None:
    if json_file is not None:
        options, cache = msgspec.to_builtins(report.options), report.cache.value
        values = {**asdict(report), "options": options, "cache": cache}
        json_file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if markdown_file is not None:
        markdown_file.write_text(markdown(report) + "\n", encoding="utf-8")
    if picture is not None:
        try:
            drawing = importlib.import_module("benchmarks.picture")
        except ModuleNotFoundError:
            raise BenchmarkError("--picture needs matplotlib: pip install 'loopserve[bench]'") from None
        drawing.draw(report, picture)
