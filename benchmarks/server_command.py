"""The command line of `loopserve bench --url`."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.http_load import Load, Target
from benchmarks.server_tables import server_cells
from benchmarks.servers import ServerPlan, measure_servers

API_KEY = "OPENAI_API_KEY"

cli = typer.Typer(add_completion=False)


@cli.command()
def bench(
    url: Annotated[list[str], typer.Option(help="An OpenAI server; repeat to compare several by turns.")],
    model: Annotated[str | None, typer.Option(help="Default: the first that each server lists.")] = None,
    streams: Annotated[
        list[int] | None, typer.Option(min=1, help="Requests at once; repeat for more. Default: 1, 8.")
    ] = None,
    context: Annotated[
        list[int] | None, typer.Option(min=1, help="Prompt tokens; repeat for more. Default: 128.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="How often each load is sent to each server.")] = 5,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds per load after which no round is started beyond the second.")
    ] = 120.0,
    request_timeout: Annotated[float, typer.Option(min=0, help="Seconds for one answer.")] = 300.0,
    max_token_id: Annotated[int, typer.Option(min=101, help="Prompts are random ids below this.")] = 1000,
    text_prompts: Annotated[
        bool, typer.Option("--text-prompts", help="Send letters, to a server that takes no token ids.")
    ] = False,
    ignore_eos: Annotated[bool, typer.Option(help="Ask for answers of full length.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report there.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the table there.")] = None,
) -> None:
    """Measure servers over HTTP: time to first token, time per token, throughput.

    A key is taken from OPENAI_API_KEY.
    """
    targets = [Target(one, one, model, os.environ.get(API_KEY), text_prompts) for one in url]
    loads = tuple(
        Load(number, length, tokens, max_token_id, ignore_eos, request_timeout)
        for length in context or [128]
        for number in streams or [1, 8]
    )
    report = measure_servers(targets, ServerPlan(loads, rounds, time_limit))
    cells = server_cells(report)
    # A file or a pipe has no width: tables are not folded there.
    Console(width=None if sys.stdout.isatty() else 240).print(cells.rich())
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    if markdown_file is not None:
        markdown_file.write_text(cells.markdown() + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Run the command line.

    Raises:
        BenchmarkError: a server can't be measured.
        typer.exceptions.TyperException: an option is wrong.
    """
    cli(arguments, prog_name="loopserve bench", standalone_mode=False)
