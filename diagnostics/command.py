"""The command line of `loopserve diagnose`."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from diagnostics.diagnose import diagnose
from diagnostics.errors import DiagnosticsError
from diagnostics.plan import MOST_DOCUMENTS, MOST_TOKENS, Plan
from diagnostics.tables import show
from engine.model_files import resolve_model
from engine.option_values import json_object, one_of
from engine.options import (
    AttentionBackendName,
    CacheDtypeName,
    DeviceName,
    DtypeName,
    EngineOptions,
    Quantization,
)

JSON_NAME, HTML_NAME = "report.json", "report.html"
_DEFAULT = Plan()

cli = typer.Typer(add_completion=False)


@cli.command()
def diagnose_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Directory or hub name of a checkpoint.")],
    data: Annotated[
        list[Path],
        typer.Option(
            metavar="FILES",
            help="A text file (one document), a .jsonl file (one document per line, in its field text) or a directory "
            "of them; repeat for more.",
        ),
    ],
    more_data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILES", help="More of --data, as a shell's --data *.txt gives them."),
    ] = None,
    output: Annotated[
        Path, typer.Option(help=f"Directory that {JSON_NAME} and {HTML_NAME} are written to.")
    ] = Path("diagnosis"),
    html: Annotated[
        bool, typer.Option("--html/--no-html", help="Write the HTML report; needs matplotlib.")
    ] = True,
    documents: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_DOCUMENTS, help="Documents measured; of more, a random sample is drawn."
        ),
    ] = _DEFAULT.most_documents,
    max_tokens: Annotated[
        int,
        typer.Option(
            min=2,
            max=MOST_TOKENS,
            help="Tokens of a document, at most the model's maximum; the rest is left out.",
        ),
    ] = _DEFAULT.most_tokens,
    attention_positions: Annotated[
        int,
        typer.Option(
            min=0,
            max=256,
            metavar="N",
            help="Positions of a document whose attention is looked at; 0 for none.",
        ),
    ] = _DEFAULT.attention_positions,
    extra_loop: Annotated[
        bool,
        typer.Option(
            "--extra-loop/--no-extra-loop",
            help="Apply the layers once more than the model does, for the last fixed-point gap.",
        ),
    ] = _DEFAULT.extra_loop,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**32 - 1, metavar="N", help="Of the sample of documents and of the bootstrap."
        ),
    ] = _DEFAULT.seed,
    model_overrides: Annotated[str, typer.Option(help="JSON object merged over config.json.")] = "{}",
    attention_backend: Annotated[
        str, typer.Option(help="auto, cpu, reference, triton or xformers.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    quantization: Annotated[str, typer.Option(help="none, int8 or int4.")] = "none",
    kv_cache_dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16 or fp8.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Compute threads; default: the cores.")
    ] = None,
    max_rows_per_step: Annotated[
        int, typer.Option(min=1, metavar="N", help="Row budget of one pass.")
    ] = 1024,
) -> None:
    """Measure what each loop of MODEL gains on a text, and what it costs.

    Runs every document through all loops at every position, and says which
    number of loops is best on this text and how sure that is.
    """
    options = EngineOptions(
        model_dir=str(resolve_model(model)),
        model_overrides=json_object(model_overrides, "--model-overrides"),
        attention_backend=cast(
            AttentionBackendName,
            one_of(attention_backend, "--attention-backend", get_args(AttentionBackendName)),
        ),
        device=cast(DeviceName, one_of(device, "--device", get_args(DeviceName))),
        dtype=cast(DtypeName, one_of(dtype, "--dtype", get_args(DtypeName))),
        quantization=cast(Quantization, one_of(quantization, "--quantization", get_args(Quantization))),
        kv_cache_dtype=cast(
            CacheDtypeName, one_of(kv_cache_dtype, "--kv-cache-dtype", get_args(CacheDtypeName))
        ),
        threads=threads,
        max_rows_per_step=max_rows_per_step,
    )
    plan = Plan(documents, max_tokens, attention_positions, extra_loop, seed=seed)
    page = _load_page() if html else None
    _make(output)
    report = diagnose(options, [*data, *(more_data or [])], plan)
    # A file or a pipe has no width: tables are not folded there.
    show(report, Console(width=None if sys.stdout.isatty() else 200))
    texts = {output / JSON_NAME: report.json()}
    if page is not None:
        texts[output / HTML_NAME] = page.html(report)
    _write(texts)
    print(f"Written: {', '.join(map(str, texts))}")


def main(arguments: list[str]) -> None:
    """Run the command line.

    Raises:
        LoopserveError: the model or the text can't be diagnosed.
        typer.exceptions.TyperException: an option is wrong.
    """
    cli(arguments, prog_name="loopserve diagnose", standalone_mode=False)


def _load_page() -> ModuleType:
    """Before anything is measured, so that nothing is measured in vain."""
    try:
        return importlib.import_module("diagnostics.page")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "matplotlib":
            raise
        raise DiagnosticsError(
            "the HTML report needs matplotlib: pip install 'loopserve[diagnose]', or leave it out with --no-html"
        ) from None


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiagnosticsError(f"--output {directory} can't be made: {error.strerror}") from None


def _write(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        try:
            path.write_text(text, encoding="utf-8", errors="replace")
        except OSError as error:
            raise DiagnosticsError(f"{path} can't be written: {error.strerror}") from None
