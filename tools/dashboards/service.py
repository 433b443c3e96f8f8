"""The dashboard Service: does it answer, how fast, and what stands in the way."""

from tools.dashboards.panels import Dashboard, HeatMap, Lines, Panel, Query, Section, Stat
from tools.dashboards.promql import buckets, increase, mean, or_zero, quantile, rate, ratio, select, total

TOKENS_PER_SECOND = "suffix: tok/s"
_CLIENTS = 'path!~"/metrics|/health|/ready"'  # without these, an idle server's traffic is that of its probes
_PERCENTILES = (0.5, 0.95, 0.99)


def _latency(title: str, about: str, histogram: str, *, width: int = 8) -> Lines:
    percentiles = tuple(Query(quantile(q, histogram), f"p{q * 100:.0f}") for q in _PERCENTILES)
    return Lines(title, about, "s", (*percentiles, Query(mean(histogram), "mean")), width)


def _one(title: str, about: str, unit: str, expr: str, steps: tuple[tuple[float, str], ...] = ()) -> Stat:
    return Stat(title, about, unit, (Query(expr, title),), width=3, steps=steps)


_FAILED = ratio(
    or_zero(rate("http_requests_total", where=f'status=~"5..", {_CLIENTS}')),
    f"({rate('http_requests_total', where=_CLIENTS)} > 0)",
)

_NOW: tuple[Panel, ...] = (
    _one(
        "Ready",
        "Servers whose engine takes requests.",
        "short",
        or_zero(total("engine_up")),
        ((0, "red"), (1, "green")),
    ),
    _one(
        "Not ready",
        "Servers that load, restart their engine, drain, or cannot be reached.",
        "short",
        f"count ({select('up')}) - {or_zero(total('engine_up'))}",
        ((0, "green"), (1, "red")),
    ),
    _one("Answers", "Sequences that ended.", "ops", rate("request_success_total")),
    _one("Generated", "Tokens generated.", TOKENS_PER_SECOND, rate("generation_tokens_total")),
    _one("First token, p95", "Arrival to first token.", "s", quantile(0.95, "time_to_first_token_seconds")),
    _one("Between tokens, p95", "From token to token.", "s", quantile(0.95, "inter_token_latency_seconds")),
    _one(
        "5xx",
        "Share of responses with a 5xx status: refusals (503) and failures. Probes and scrapes do not count.",
        "percentunit",
        or_zero(_FAILED),
        ((0, "green"), (0.01, "yellow"), (0.05, "red")),
    ),
    _one(
        "Engine restarts",
        "In the time shown. The server's log has the reason.",
        "short",
        increase("engine_restarts_total"),
        ((0, "green"), (1, "red")),
    ),
)

_TRAFFIC: tuple[Panel, ...] = (
    Lines(
        "Ended sequences by reason",
        "stop and length are answers; abort is a client that left or was cut off; error is ours.",
        "ops",
        (Query(rate("request_success_total", by="finished_reason"), "{{finished_reason}}"),),
        stacked=True,
    ),
    Lines(
        "HTTP responses by status",
        "Probes and scrapes do not count.",
        "reqps",
        (Query(rate("http_requests_total", by="status", where=_CLIENTS), "{{status}}"),),
        stacked=True,
    ),
    Lines(
        "HTTP responses by path",
        "Probes and scrapes do not count.",
        "reqps",
        (Query(rate("http_requests_total", by="path", where=_CLIENTS), "{{path}}"),),
        stacked=True,
    ),
    Lines(
        "Refused requests by reason",
        "Answered with 503 and a Retry-After. queue_*: too much work for this server; loading, restarting, draining: "
        "it was not ready.",
        "reqps",
        (Query(rate("requests_refused_total", by="reason"), "{{reason}}"),),
        stacked=True,
    ),
    Lines(
        "Cancelled requests by reason",
        "disconnect: the client left; timeout: --request-timeout; drain: the server ended before the answer did.",
        "reqps",
        (Query(rate("requests_cancelled_total", by="reason"), "{{reason}}"),),
        stacked=True,
    ),
    Lines(
        "Refused connections by reason",
        "Ended, or a request on them answered, before the server's routes saw it. connections: --max-connections are "
        "open; descriptors: the process has no file descriptor left; the others are the client's doing.",
        "ops",
        (Query(rate("connections_refused_total", by="reason"), "{{reason}}"),),
        stacked=True,
    ),
    Lines(
        "Tokens",
        "Prompt tokens received, those of them that the prefix cache spared, and tokens generated.",
        TOKENS_PER_SECOND,
        (
            Query(rate("prompt_tokens_total"), "prompt"),
            Query(rate("prompt_tokens_cached_total"), "prompt, from the cache"),
            Query(rate("generation_tokens_total"), "generated"),
        ),
    ),
    Lines(
        "Prompt length",
        "Tokens per sequence.",
        "short",
        (
            Query(quantile(0.5, "request_prompt_tokens"), "p50"),
            Query(quantile(0.95, "request_prompt_tokens"), "p95"),
            Query(mean("request_prompt_tokens"), "mean"),
        ),
    ),
    Lines(
        "Answer length",
        "Tokens per sequence.",
        "short",
        (
            Query(quantile(0.5, "request_generation_tokens"), "p50"),
            Query(quantile(0.95, "request_generation_tokens"), "p95"),
            Query(mean("request_generation_tokens"), "mean"),
        ),
    ),
)

_LATENCY: tuple[Panel, ...] = (
    _latency(
        "Time to first token",
        "From arrival. Percentiles are interpolated within the histogram's buckets.",
        "time_to_first_token_seconds",
    ),
    _latency(
        "Time between tokens", "Of one sequence, as the API process sees them.", "inter_token_latency_seconds"
    ),
    _latency(
        "Time to the end", "From arrival, of sequences that were completed.", "e2e_request_latency_seconds"
    ),
    HeatMap(
        "Time to first token, spread",
        "Sequences per bucket.",
        "s",
        (Query(buckets("time_to_first_token_seconds"), "{{le}}"),),
    ),
    HeatMap(
        "Time between tokens, spread",
        "Tokens per bucket.",
        "s",
        (Query(buckets("inter_token_latency_seconds"), "{{le}}"),),
    ),
    HeatMap(
        "Time to the end, spread",
        "Sequences per bucket.",
        "s",
        (Query(buckets("e2e_request_latency_seconds"), "{{le}}"),),
    ),
)

_QUEUE: tuple[Panel, ...] = (
    Lines(
        "Sequences",
        "Running ones share every pass; waiting ones are in the engine's queue.",
        "short",
        (
            Query(total("num_requests_running"), "running"),
            Query(total("num_requests_waiting"), "waiting"),
            Query(total("requests_in_flight"), "in flight"),
        ),
    ),
    Lines(
        "Waiting prompt tokens",
        "Of sequences that the scheduler has not taken up; --max-waiting-tokens bounds them.",
        "short",
        (Query(total("num_tokens_waiting"), "waiting"),),
    ),
    _latency("Time in the queue", "From arrival to the first pass.", "request_queue_time_seconds"),
)

_ENGINE: tuple[Panel, ...] = (
    Lines(
        "Step time by phase",
        "A step is one pass of the model: prompts only, decode only, or both.",
        "s",
        (
            Query(mean("step_seconds", by="phase"), "{{phase}}, mean"),
            Query(quantile(0.95, "step_seconds", by="phase"), "{{phase}}, p95"),
        ),
    ),
    Lines(
        "Time in steps by phase",
        "Share of the time that engines compute; 100 % per server is all it can.",
        "percentunit",
        (Query(rate("step_seconds_sum", by="phase"), "{{phase}}"),),
        stacked=True,
    ),
    Lines("Steps", "Passes of the model.", "ops", (Query(rate("engine_steps_total"), "steps"),)),
    Lines(
        "Preemptions",
        "Running sequences sent back to the queue because the cache was full; their work is done again.",
        "ops",
        (Query(rate("num_preemptions_total"), "preempted"),),
    ),
    Lines(
        "Restarts and isolated errors",
        "Per minute. An isolated error ended one request and no other; a restart ended all that ran.",
        "short",
        (
            Query(f"60 * {rate('engine_restarts_total')}", "engine restarts"),
            Query(f"60 * {rate('engine_isolated_errors_total')}", "isolated errors"),
        ),
    ),
    Lines(
        "Grammar compilation",
        "What a new schema, regex or grammar costs before its request can begin.",
        "s",
        (
            Query(mean("grammar_compile_seconds"), "mean"),
            Query(quantile(0.95, "grammar_compile_seconds"), "p95"),
        ),
    ),
    Lines(
        "Event loop lag",
        "How late the API process comes to what is due. All streams of a server wait for it.",
        "s",
        (
            Query(quantile(0.5, "event_loop_lag_seconds"), "p50"),
            Query(quantile(0.99, "event_loop_lag_seconds"), "p99"),
        ),
    ),
    Lines(
        "Same bits alone and in a crowd",
        "1 where the engine's check at its start found that a request's bits do not depend on its company.",
        "short",
        (Query(select("batch_invariant"), "{{instance}}"),),
        maximum=1,
    ),
    Lines(
        "Served model",
        "Servers by model.",
        "short",
        (Query(total("model_info", by="model_name"), "{{model_name}}"),),
        stacked=True,
    ),
)

_CACHE: tuple[Panel, ...] = (
    Lines(
        "KV cache in use",
        "Share of blocks that live sequences hold. At 100 %, sequences wait or are preempted.",
        "percentunit",
        (Query(select("kv_cache_usage_perc"), "{{instance}}"),),
        maximum=1,
    ),
    Lines(
        "Cache blocks by state",
        "Cached blocks hold finished prefixes and give way when room is needed.",
        "short",
        (Query(total("kv_cache_blocks", by="state"), "{{state}}"),),
        stacked=True,
    ),
    Lines(
        "Prefix cache hits",
        "Share of the prompt tokens looked up that were found.",
        "percentunit",
        (Query(ratio(rate("prefix_cache_hits_total"), rate("prefix_cache_queries_total")), "hit"),),
        maximum=1,
    ),
)

SERVICE = Dashboard(
    uid="loopserve-service",
    title="loopserve: Service",
    about="Traffic, latency, queue, engine and cache of loopserve servers. docs/metrics.md has every series.",
    sections=(
        Section("Now", _NOW),
        Section("Traffic", _TRAFFIC),
        Section("Latency", _LATENCY),
        Section("Queue", _QUEUE),
        Section("Engine", _ENGINE),
        Section("Cache", _CACHE),
    ),
)
