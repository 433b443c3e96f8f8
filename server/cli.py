"""The command line: `loopserve serve`, `bench`, `diagnose`, `plan` and `version`."""

import asyncio
import importlib
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ByteSize
from typer.exceptions import TyperException

from engine.errors import EngineStartError, LoopserveError, ModelError
from engine.log_format import log_to_stderr
from planning.command import plan
from server import request_log
from server.api_keys import ApiKeys
from server.app import create_app
from server.bootstrap import build_state
from server.engine_client import EXIT_CANNOT_START, EXIT_MODEL_ERROR
from server.key_reload import KeyReload
from server.listener import bind
from server.process_setup import raise_file_limit, say
from server.runner import address_of, curl_line, run_server
from server.settings import DEMO_MODEL, Settings, load_settings, option_name
from server.version import package_version

EXIT_USAGE = 2
LOOPBACK = ("127.0.0.1", "::1", "localhost")

MODEL = "Model"
SERVER = "Server"
ACCESS = "Access"
LIMITS = "Limits"
ENGINE = "Engine"

cli = typer.Typer(
    name="loopserve",
    help="Inference server for looped transformers, with OpenAI's API.",
    no_args_is_help=True,
    add_completion=False,
)


def _option(field: str, panel: str, metavar: str | None = None) -> Any:
    """The option of a field of `Settings`, which holds its help text and default."""
    info = Settings.model_fields[field]
    name = option_name(field)
    is_flag = info.annotation is bool
    unset = info.default is None or info.default in ((), {})
    shown = info.default.human_readable() if isinstance(info.default, ByteSize) else info.default
    return typer.Option(
        f"{name}/--no-{name.removeprefix('--')}" if is_flag else name,
        help=info.description if unset else f"{info.description} Default: {shown}.",
        rich_help_panel=panel,
        show_default=False,
        metavar=metavar,
    )


_MODEL = typer.Argument(
    help=f"{Settings.model_fields['model'].description}"
    + (" Default: the bundled demo model." if DEMO_MODEL.is_dir() else ""),
    show_default=False,
)


@cli.command()
def serve(
    context: typer.Context,
    model: Annotated[str | None, _MODEL] = None,
    revision: Annotated[str | None, _option("revision", MODEL, "REVISION")] = None,
    served_model_name: Annotated[str | None, _option("served_model_name", MODEL, "NAME")] = None,
    chat_template: Annotated[Path | None, _option("chat_template", MODEL, "FILE")] = None,
    tool_call_parser: Annotated[
        str | None, _option("tool_call_parser", MODEL, "auto|none|hermes|qwen3_coder|iquest")
    ] = None,
    reasoning_parser: Annotated[str | None, _option("reasoning_parser", MODEL, "auto|none|think")] = None,
    model_overrides: Annotated[str | None, _option("model_overrides", MODEL, "JSON")] = None,
    host: Annotated[str | None, _option("host", SERVER, "ADDRESS")] = None,
    port: Annotated[int | None, _option("port", SERVER)] = None,
    drain_timeout: Annotated[float | None, _option("drain_timeout", SERVER, "SECONDS")] = None,
    max_waiting_requests: Annotated[int | None, _option("max_waiting_requests", SERVER)] = None,
    max_waiting_tokens: Annotated[int | None, _option("max_waiting_tokens", SERVER)] = None,
    queue_timeout: Annotated[float | None, _option("queue_timeout", SERVER, "SECONDS")] = None,
    request_timeout: Annotated[float | None, _option("request_timeout", SERVER, "SECONDS")] = None,
    grammar_timeout: Annotated[float | None, _option("grammar_timeout", SERVER, "SECONDS")] = None,
    sse_keep_alive: Annotated[float | None, _option("sse_keep_alive", SERVER, "SECONDS")] = None,
    metrics_compat: Annotated[str | None, _option("metrics_compat", SERVER, "none|vllm")] = None,
    histogram_buckets: Annotated[str | None, _option("histogram_buckets", SERVER, "JSON")] = None,
    page: Annotated[bool | None, _option("page", SERVER)] = None,
    log_level: Annotated[str | None, _option("log_level", SERVER, "debug|info|warning|error")] = None,
    log_format: Annotated[str | None, _option("log_format", SERVER, "text|json")] = None,
    log_requests: Annotated[bool | None, _option("log_requests", SERVER)] = None,
    otlp_endpoint: Annotated[str | None, _option("otlp_endpoint", SERVER, "URL")] = None,
    api_keys: Annotated[list[str] | None, _option("api_keys", ACCESS, "KEY")] = None,
    api_key_file: Annotated[Path | None, _option("api_key_file", ACCESS, "FILE")] = None,
    key_concurrency: Annotated[int | None, _option("key_concurrency", ACCESS)] = None,
    key_requests_per_minute: Annotated[int | None, _option("key_requests_per_minute", ACCESS)] = None,
    key_tokens_per_minute: Annotated[int | None, _option("key_tokens_per_minute", ACCESS)] = None,
    shared_prefix_cache: Annotated[bool | None, _option("shared_prefix_cache", ACCESS)] = None,
    allowed_hosts: Annotated[list[str] | None, _option("allowed_hosts", ACCESS, "HOST")] = None,
    header_timeout: Annotated[float | None, _option("header_timeout", LIMITS, "SECONDS")] = None,
    body_timeout: Annotated[float | None, _option("body_timeout", LIMITS, "SECONDS")] = None,
    write_timeout: Annotated[float | None, _option("write_timeout", LIMITS, "SECONDS")] = None,
    max_connections: Annotated[int | None, _option("max_connections", LIMITS)] = None,
    max_headers: Annotated[int | None, _option("max_headers", LIMITS)] = None,
    max_header_size: Annotated[str | None, _option("max_header_size", LIMITS, "SIZE")] = None,
    max_body_size: Annotated[str | None, _option("max_body_size", LIMITS, "SIZE")] = None,
    max_body_memory: Annotated[str | None, _option("max_body_memory", LIMITS, "SIZE")] = None,
    max_choices: Annotated[int | None, _option("max_choices", LIMITS)] = None,
    max_prompts: Annotated[int | None, _option("max_prompts", LIMITS)] = None,
    max_request_sequences: Annotated[int | None, _option("max_request_sequences", LIMITS)] = None,
    max_stops: Annotated[int | None, _option("max_stops", LIMITS)] = None,
    max_stop_chars: Annotated[int | None, _option("max_stop_chars", LIMITS)] = None,
    max_logit_bias: Annotated[int | None, _option("max_logit_bias", LIMITS)] = None,
    max_nesting: Annotated[int | None, _option("max_nesting", LIMITS)] = None,
    max_schema_size: Annotated[str | None, _option("max_schema_size", LIMITS, "SIZE")] = None,
    max_tools: Annotated[int | None, _option("max_tools", LIMITS)] = None,
    max_messages: Annotated[int | None, _option("max_messages", LIMITS)] = None,
    single_process: Annotated[bool | None, _option("single_process", ENGINE)] = None,
    heartbeat_timeout: Annotated[float | None, _option("heartbeat_timeout", ENGINE, "SECONDS")] = None,
    execution: Annotated[str | None, _option("execution", ENGINE, "parallel|sequential")] = None,
    max_model_len: Annotated[int | None, _option("max_model_len", ENGINE)] = None,
    max_num_seqs: Annotated[int | None, _option("max_num_seqs", ENGINE)] = None,
    max_rows_per_step: Annotated[int | None, _option("max_rows_per_step", ENGINE)] = None,
    block_size: Annotated[int | None, _option("block_size", ENGINE)] = None,
    kv_cache_memory: Annotated[str | None, _option("kv_cache_memory", ENGINE, "SIZE")] = None,
    prefix_caching: Annotated[bool | None, _option("prefix_caching", ENGINE)] = None,
    attention_backend: Annotated[
        str | None, _option("attention_backend", ENGINE, "auto|cpu|reference|triton|xformers")
    ] = None,
    device: Annotated[str | None, _option("device", ENGINE, "auto|cpu|cuda")] = None,
    dtype: Annotated[str | None, _option("dtype", ENGINE, "auto|float32|float16|bfloat16")] = None,
    kv_cache_dtype: Annotated[
        str | None, _option("kv_cache_dtype", ENGINE, "auto|float32|float16|bfloat16|fp8")
    ] = None,
    quantization: Annotated[str | None, _option("quantization", ENGINE, "none|int8|int4")] = None,
    cuda_graphs: Annotated[bool | None, _option("cuda_graphs", ENGINE)] = None,
    threads: Annotated[int | None, _option("threads", ENGINE)] = None,
    tensor_parallel_size: Annotated[int | None, _option("tensor_parallel_size", ENGINE)] = None,
    self_check: Annotated[bool | None, _option("self_check", ENGINE)] = None,
    calibration_time: Annotated[float | None, _option("calibration_time", ENGINE, "SECONDS")] = None,
    shadow_steps: Annotated[int | None, _option("shadow_steps", ENGINE)] = None,
    loop_metrics_sample: Annotated[float | None, _option("loop_metrics_sample", ENGINE, "FRACTION")] = None,
) -> int:
    """Serve MODEL until SIGTERM or Ctrl-C.

    A signal lets running requests finish; a second one doesn't wait for them.
    SIGHUP reads --api-key-file again.

    Every option can also be set by an environment variable: --max-num-seqs
    by LOOPSERVE_MAX_NUM_SEQS, and so on (--api-key by LOOPSERVE_API_KEYS,
    --allowed-host by LOOPSERVE_ALLOWED_HOSTS).

    Without an API key, everybody who reaches the port may use the server;
    with one, everything but /health, /ready and the files of the page
    needs it.

    Exit codes: 0 after a signal, 1 if the engine process can't be started on
    this machine, 2 for a wrong option or model, 70 if the engine kept failing.
    """
    # The parameters above are for typer; their values are taken by name, so that none can be forgotten here.
    given = {name: value for name, value in context.params.items() if value not in (None, (), [])}
    return _serve(load_settings(given))


@cli.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def bench(context: typer.Context) -> None:
    """Measure a model on this machine: all loops in one pass, one loop after another, one loop only.

    With --url: measure a running server instead (`loopserve bench --url URL --help`).
    """
    # Imported when it is asked for: it computes in this process, which otherwise never loads torch.
    of_servers = any(argument.partition("=")[0] == "--url" for argument in context.args)
    command = "benchmarks.server_command" if of_servers else "benchmarks.command"
    importlib.import_module(command).main(context.args)


@cli.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def diagnose(context: typer.Context) -> None:
    """Measure what each loop of a model gains on a text, and what it costs."""
    importlib.import_module("diagnostics.command").main(context.args)  # loads torch, as `bench` does


cli.command()(plan)


@cli.command()
def version() -> None:
    """Print the version."""
    print(package_version())


def main() -> None:
    """Entry point: runs a command and turns every expected error into one line and an exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line.

    Returns:
        The exit code.
    """
    try:
        return cli(arguments, prog_name="loopserve", standalone_mode=False) or 0
    except TyperException as error:
        message = " ".join(error.format_message().split())
        if message:  # empty when the help was printed instead
            print(f"loopserve: {message}", file=sys.stderr)
        return EXIT_USAGE
    except LoopserveError as error:
        print(f"loopserve: {' '.join(str(error).split())}", file=sys.stderr)
        return _exit_code(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130


def _exit_code(error: LoopserveError) -> int:
    match error:
        case ModelError():
            return EXIT_MODEL_ERROR
        case EngineStartError():
            return EXIT_CANNOT_START
        case _:
            return EXIT_USAGE


def _serve(settings: Settings) -> int:
    log_to_stderr(settings.log_level.upper(), settings.log_format)
    for chatty in ("httpx", "uvicorn.error", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    if settings.log_requests:  # asked for by name, so whatever the level of the rest
        logging.getLogger(request_log.__name__).setLevel(logging.INFO)
    raise_file_limit()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server can do something about it
    keys = ApiKeys(settings.all_api_keys())
    with_keys = len(keys) > 0
    if not with_keys and settings.host not in LOOPBACK:
        logging.getLogger(__name__).warning("listening on %s without an API key", settings.host)
    with bind(settings.host, settings.port) as listening:
        state = build_state(settings)
        app = create_app(state, keys if with_keys else None)
        address = address_of(listening)
        say(f"loopserve is loading {state.model_name} and will serve it on {address}")
        curl = curl_line(address, state.model_name, with_key=with_keys)
        announcement = f"Ready on {address}. Try:\n  {curl}"
        reload = KeyReload(settings, keys, state.key_limits)
        return asyncio.run(run_server(app, state, listening, settings, announcement, reload))
