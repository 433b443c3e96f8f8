"""Every setting, once: its name, type, bounds, default and help text. The CLI and the environment both end here.

A command-line option wins over its environment variable `LOOPSERVE_<NAME>`, which wins over the default.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from engine.log_format import LogFormat
from engine.options import (
    AttentionBackendName,
    CacheDtypeName,
    DeviceName,
    DtypeName,
    EngineOptions,
    Execution,
    Quantization,
)
from server.admission import AdmissionLimits
from server.errors import SettingsError
from server.host_check import allowed_host
from server.key_file import is_sendable, read_keys
from server.key_limits import KeyQuota
from server.limit_settings import LimitSettings, SizeInBytes
from server.model_metrics import MetricsCompat
from server.text_file import read_text

ENV_PREFIX = "LOOPSERVE_"
DEMO_MODEL = Path(__file__).resolve().parents[1] / "models" / "demo"

_SERVICE_LINK = re.compile(
    ENV_PREFIX + r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    rf"|{ENV_PREFIX}\w+_PORT=(tcp|udp|sctp)://.*"
)
"""Variables, with values, that Kubernetes puts into every pod for each Service of the namespace."""

LogLevel = Literal["debug", "info", "warning", "error"]
ToolCallParserName = Literal["auto", "none", "hermes", "qwen3_coder", "iquest"]
ReasoningParserName = Literal["auto", "none", "think"]


class Settings(LimitSettings):
    """Settings of one server process."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="Checkpoint directory, or a hub id (owner/name).")
    revision: str | None = Field(
        None,
        min_length=1,
        max_length=250,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
        description="Commit, tag or branch of a model on the hub. Default: its main branch.",
    )
    served_model_name: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Model id that clients use. Default: the directory's name or the hub id.",
    )
    model_overrides: Annotated[dict[str, object], NoDecode] = Field(
        {}, description="JSON object merged over config.json, to settle contested readings."
    )
    chat_template: Path | None = Field(None, description="Jinja file used instead of the model's template.")
    tool_call_parser: ToolCallParserName = Field(
        "auto", description="Format in which the model writes tool calls. Default: what its template shows."
    )
    reasoning_parser: ReasoningParserName = Field(
        "auto",
        description="Whether reasoning between <think> marks is split off. Default: if the template has them.",
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    drain_timeout: float = Field(
        30.0, ge=0, le=86400, description="Seconds that running requests get to finish after SIGTERM."
    )
    max_waiting_requests: int = Field(
        256, ge=0, description="Most sequences waiting beyond those running; more get 503 with Retry-After."
    )
    max_waiting_tokens: int = Field(
        1 << 20,
        ge=1,
        description="Most prompt tokens waiting; more get 503. A larger request is served when none waits.",
    )
    queue_timeout: float = Field(
        30.0,
        ge=0,
        le=86400,
        description="Seconds, more than a step takes, that a request may wait before it is begun; then it gets 503. "
        "0 for any time.",
    )
    request_timeout: float = Field(
        0.0, ge=0, le=86400, description="Seconds after which a request is ended, begun or not; 0 for never."
    )
    grammar_timeout: float = Field(
        2.0, gt=0, le=60, description="Seconds that a request's schema, regex or grammar may take to compile."
    )
    sse_keep_alive: float = Field(
        15.0,
        ge=0,
        le=3600,
        description="Seconds without an event after which a stream gets a comment; 0 for never.",
    )
    metrics_compat: MetricsCompat = Field(
        "none", description="Also export the gauges that routers read under another server's names."
    )
    histogram_buckets: Annotated[dict[str, list[float]], NoDecode] = Field(
        {},
        description="JSON object: bounds of histograms by name, such as "
        '{"time_to_first_token_seconds": [0.1, 0.5, 2]}. A latency goal should be one of them.',
    )
    page: bool = Field(True, description="Serve a page to look at under /: a playground and live panels.")
    log_level: LogLevel = Field("info", description="Least severe messages that are logged.")
    log_format: LogFormat = Field("text", description="Lines of text, or one JSON object per line.")
    log_requests: bool = Field(
        False, description="Log one line per request: how it ended, times and counts, none of its text."
    )
    otlp_endpoint: str | None = Field(
        None,
        max_length=2048,
        description="URL of an OpenTelemetry collector (OTLP over HTTP) that is sent a trace per request. "
        "Needs the extra 'otel'.",
    )

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Key that clients must present; repeatable. In the environment, a comma list. Other users of this "
        "machine can see options: better use the environment or a file.",
    )
    api_key_file: Path | None = Field(
        None,
        description="File with one API key per line; lines that begin with # are comments. SIGHUP reads it again.",
    )
    key_concurrency: int | None = Field(
        None,
        ge=1,
        description="Most sequences of one API key in flight. Default: half of all places if there are several keys.",
    )
    key_requests_per_minute: int | None = Field(
        None, ge=1, description="Most generating requests of one API key per minute. Default: any number."
    )
    key_tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Most tokens of one API key per minute, prompts and answers. Default: any number.",
    )
    shared_prefix_cache: bool = Field(
        False,
        description="Let requests with different API keys reuse each other's cached prefixes, which shows in times.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Host name that requests may be addressed to, such as api.example.com or *.example.com; "
        "repeatable. In the environment, a comma list. Default: any.",
    )

    single_process: bool = Field(False, description="Run the engine in a thread of the server process.")
    heartbeat_timeout: float = Field(
        30.0, gt=0, description="Seconds without progress after which the engine is killed and restarted."
    )
    execution: Execution = Field(
        "parallel",
        description="'parallel': every ready loop in one pass. 'sequential': one loop per pass (baseline).",
    )
    max_model_len: int | None = Field(
        None, ge=1, description="Most prompt + generated tokens. Default: what the model and the cache allow."
    )
    max_num_seqs: int = Field(64, ge=1, le=65536, description="Most sequences running at once.")
    max_rows_per_step: int = Field(1024, ge=1, le=1 << 20, description="Row budget of one pass.")
    block_size: int = Field(16, ge=1, le=4096, description="Tokens per cache block.")
    kv_cache_memory: SizeInBytes | None = Field(
        None, description="Memory of the KV cache, such as 2GiB. Default: a fraction of the free memory."
    )
    prefix_caching: bool = Field(True, description="Keep and reuse the cache of finished prefixes.")
    attention_backend: AttentionBackendName = Field(
        "auto",
        description="Kernels of attention and the row operations around it. Default: the device's fastest.",
    )
    device: DeviceName = Field("auto", description="Where the model runs. Default: a GPU if there is one.")
    dtype: DtypeName = Field(
        "auto",
        description="Type of weights and activations; on a CPU of stored weights, float32 or bfloat16. "
        "Default: the checkpoint's.",
    )
    kv_cache_dtype: CacheDtypeName = Field(
        "auto",
        description="Type of cached keys and values; on a CPU float32 or bfloat16. Default: that of the activations.",
    )
    quantization: Quantization = Field(
        "none", description="Quantise the layers' weights while loading: int8 or int4 (on a GPU in bfloat16)."
    )
    cuda_graphs: bool = Field(True, description="On a GPU, run decode steps as captured graphs.")
    threads: int | None = Field(None, ge=1, le=4096, description="Compute threads. Default: all cores.")
    tensor_parallel_size: int = Field(
        1,
        ge=1,
        le=64,
        description="Split the model over so many GPUs, or processes on the CPU; without CUDA graphs if above 1.",
    )
    self_check: bool = Field(
        True,
        description="Try at start whether a request's bits depend on the requests beside it, and report it.",
    )
    calibration_time: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="Seconds at start for timing all loops in one pass against one loop per pass, for the metrics; a "
        "measurement once begun is finished. 0 for none.",
    )
    shadow_steps: int = Field(
        0,
        ge=0,
        le=1 << 30,
        description="Every so many decode passes, run one loop by loop, too, to check the calibration. 0 for none.",
    )
    loop_metrics_sample: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Fraction of decode passes of which /metrics tells what the loops do: gates, changes of the hidden "
        "state and of the most probable token. 0 for none.",
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        keys = [key.strip() for key in value.split(",")] if isinstance(value, str) else value
        if isinstance(keys, list | tuple) and (isinstance(value, str) or keys) and not all(keys):
            raise ValueError("holds an empty key; unset it to serve without keys")
        if isinstance(keys, list | tuple) and not all(
            is_sendable(key) for key in keys if isinstance(key, str)
        ):
            raise ValueError("holds a key with whitespace or an unprintable character")
        return keys

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _read_hosts(cls, value: object) -> object:
        hosts = value.split(",") if isinstance(value, str) else value
        return tuple(allowed_host(str(host)) for host in hosts) if isinstance(hosts, list | tuple) else hosts

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None and not _is_base_url(value):
            raise ValueError("is no URL such as http://localhost:4318")
        return value

    @field_validator("model_overrides", "histogram_buckets", mode="before")
    @classmethod
    def _parse_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"is not valid JSON: {error}") from None

    @property
    def model_name(self) -> str:
        """The id clients use for the model."""
        if self.served_model_name is not None:
            return self.served_model_name
        path = Path(os.path.expanduser(self.model))
        return path.resolve().name if path.is_dir() else self.model

    @property
    def admission_limits(self) -> AdmissionLimits:
        """What may be in flight."""
        return AdmissionLimits(self.max_num_seqs + self.max_waiting_requests, self.max_waiting_tokens)

    def all_api_keys(self) -> tuple[str, ...]:
        """Keys from the options, the environment and the key file; empty means no authentication.

        Raises:
            SettingsError: the file can't be read or holds no key.
        """
        keys = tuple(key.get_secret_value() for key in self.api_keys)
        return keys if self.api_key_file is None else keys + read_keys(self.api_key_file)

    def key_quota(self, num_keys: int) -> KeyQuota:
        """What each of so many API keys may use."""
        concurrency = self.key_concurrency
        if concurrency is None and num_keys > 1:
            concurrency = max(1, self.admission_limits.max_in_flight // 2)
        return KeyQuota(concurrency, self.key_requests_per_minute, self.key_tokens_per_minute)

    def read_chat_template(self) -> str | None:
        """The text of `--chat-template`, or None.

        Raises:
            SettingsError: the file can't be read.
        """
        return None if self.chat_template is None else read_text("--chat-template", self.chat_template)

    def engine_options(self, model_dir: Path) -> EngineOptions:
        """The part that the engine gets."""
        return EngineOptions(
            model_dir=str(model_dir),
            model_overrides=dict(self.model_overrides),
            execution=self.execution,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            max_rows_per_step=self.max_rows_per_step,
            block_size=self.block_size,
            kv_cache_memory=None if self.kv_cache_memory is None else int(self.kv_cache_memory),
            prefix_caching=self.prefix_caching,
            attention_backend=self.attention_backend,
            device=self.device,
            dtype=self.dtype,
            kv_cache_dtype=self.kv_cache_dtype,
            quantization=self.quantization,
            cuda_graphs=self.cuda_graphs,
            threads=self.threads,
            tensor_parallel_size=self.tensor_parallel_size,
            self_check=self.self_check,
            calibration_time=self.calibration_time,
            shadow_steps=self.shadow_steps,
            loop_metrics_sample=self.loop_metrics_sample,
        )


def _is_base_url(text: str) -> bool:
    """Whether a path can be put behind it and the whole asked for."""
    try:
        url = urlsplit(text)
        _ = url.port  # read by the property
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and " " not in text
    return (
        plain and url.scheme in ("http", "https") and bool(url.hostname) and not (url.query or url.fragment)
    )


def load_settings(given: Mapping[str, object]) -> Settings:
    """Settings from the options that were given, then the environment, then defaults.

    Raises:
        SettingsError: something is unknown, malformed, missing or out of bounds; one line.
    """
    _refuse_unknown(os.environ)
    if DEMO_MODEL.is_dir() and "model" not in given and ENV_PREFIX + "MODEL" not in os.environ:
        given = {**given, "model": str(DEMO_MODEL)}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_first_problem(error, given)) from None


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """A misspelt variable that is silently ignored is the worst kind of configuration error."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(environment):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            if _SERVICE_LINK.fullmatch(f"{name}={environment[name]}"):
                raise SettingsError(
                    f"unknown environment variable {name}: Kubernetes made it of a Service whose name begins with "
                    "loopserve. Set enableServiceLinks: false in the pod's spec, or name the Service otherwise."
                )
            close = difflib.get_close_matches(name.upper(), sorted(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else "; unset it."
            raise SettingsError(f"unknown environment variable {name}{hint}")


def _first_problem(error: ValidationError, given: Mapping[str, object]) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    if problem["type"] == "missing":
        return f"{option_name(name)} is required"
    source = option_name(name) if name in given else ENV_PREFIX + name.upper()
    text = problem["msg"].removeprefix("Value error, ")
    return f"{source}: {text[:1].lower()}{text[1:]}"


def option_name(field: str) -> str:
    """The command-line spelling of a field."""
    if field == "model":
        return "MODEL"
    repeated = {"api_keys": "--api-key", "allowed_hosts": "--allowed-host"}
    return repeated.get(field) or "--" + field.replace("_", "-")
