"""The dashboard Loops: what parallel loops over one shared cache save, and whether a further loop is worth its cost."""

from tools.dashboards.panels import Dashboard, Lines, Panel, Query, Section, Stat
from tools.dashboards.promql import mean, quantile, rate, ratio, select, total

_PARALLEL = 'execution="parallel"'
_SEQUENTIAL = 'execution="sequential"'
_TIMES = "suffix: ×"


def _speed_up(seconds: str) -> str:
    """How many times as long the sequential loop takes, by a counter of seconds that has the label `execution`."""
    return ratio(rate(seconds, where=_SEQUENTIAL), rate(seconds, where=_PARALLEL))


def _of_layout(gauge: str, layout: str, more: str = "") -> str:
    return total(gauge, where=f'layout="{layout}"{more}')


def _sequences_that_fit(length: str) -> tuple[Query, ...]:
    return (Query(total("kv_cache_sequences", by="layout", where=f'length="{length}"'), "{{layout}}"),)


def _one(title: str, about: str, unit: str, query: Query, steps: tuple[tuple[float, str], ...] = ()) -> Stat:
    return Stat(title, about, unit, (query,), steps=steps)


_KV_OF_SEQUENTIAL = ratio(total("kv_cache_bytes"), _of_layout("kv_cache_baseline_bytes", "sequential"))
_KV_OF_ONE_LOOP = ratio(total("kv_cache_bytes"), _of_layout("kv_cache_baseline_bytes", "one_loop"))
_TOP_TOKEN_CHANGES = ratio(
    rate("loop_top_token_changes_total", by="loop"), rate("loop_sampled_tokens_total", by="loop")
)
_CALIBRATED_SPEED_UP = ratio(
    select("calibrated_pass_seconds", _SEQUENTIAL),
    f"ignoring (execution) {select('calibrated_pass_seconds', _PARALLEL)}",
)

_NOW: tuple[Panel, ...] = (
    _one(
        "Speed-up",
        "What decode passes would take with one loop after another, over what they take with all loops in one pass.",
        _TIMES,
        Query(_speed_up("decode_seconds_total"), "speed-up"),
        ((0, "red"), (1, "yellow"), (1.1, "green")),
    ),
    _one(
        "KV bytes of sequential",
        "The cache of live sequences over that in which every loop keeps the whole context.",
        "percentunit",
        Query(_KV_OF_SEQUENTIAL, "of sequential"),
        ((0, "green"), (1, "yellow")),
    ),
    _one(
        "KV bytes of one loop",
        "The cache of live sequences over that of a model without loops. What is above 100 % are windows and carries.",
        "percentunit",
        Query(_KV_OF_ONE_LOOP, "of one loop"),
    ),
    _one(
        "Gate",
        "Mean gate of each later loop: how much it looks at the shared context rather than at its own window.",
        "percentunit",
        Query(mean("loop_gate", by="loop"), "loop {{loop}}"),
    ),
    _one(
        "Change",
        "Relative change of the hidden state from the loop before.",
        "percentunit",
        Query(mean("loop_change", by="loop"), "loop {{loop}}"),
    ),
    _one(
        "Top token changed",
        "How often a loop's most probable token is not that of the loop before.",
        "percentunit",
        Query(_TOP_TOKEN_CHANGES, "loop {{loop}}"),
    ),
)

_SPEED: tuple[Panel, ...] = (
    Lines(
        "Speed-up over the sequential loop",
        "in service: all decode passes, one side measured, the other by calibration. shadow: passes that really ran "
        "both ways (--shadow-steps; off by default). Only the pass is compared, so both err on the low side.",
        _TIMES,
        (
            Query(_speed_up("decode_seconds_total"), "in service"),
            Query(_speed_up("shadow_seconds_total"), "shadow"),
        ),
    ),
    Lines(
        "Decode time by execution",
        "Seconds of decode passes per second: as they ran, and as they would have run the other way.",
        "percentunit",
        (Query(rate("decode_seconds_total", by="execution"), "{{execution}}"),),
    ),
    Lines(
        "Time of a decode pass",
        "For all loops of one token of every running sequence.",
        "s",
        tuple(
            Query(
                ratio(
                    rate("decode_seconds_total", where=f'execution="{execution}"'),
                    rate("decode_passes_total"),
                ),
                execution,
            )
            for execution in ("parallel", "sequential")
        ),
    ),
    Lines(
        "Passes that count",
        "Share of engine steps that are decode only; steps that also carry prompts are in neither side.",
        "percentunit",
        (Query(ratio(rate("decode_passes_total"), rate("engine_steps_total")), "decode only"),),
        maximum=1,
    ),
    Lines(
        "Shadow pairs",
        "Decode passes that were run both ways (--shadow-steps; off by default).",
        "ops",
        (Query(rate("shadow_passes_total"), "pairs"),),
    ),
    Lines(
        "Calibrated speed-up",
        "Sequential over parallel by sequences × context, measured at the start and on request, moved by shadow pairs.",
        _TIMES,
        (Query(_CALIBRATED_SPEED_UP, "{{sequences}} × {{context}}, {{instance}}"),),
    ),
)

_MEMORY: tuple[Panel, ...] = (
    Lines(
        "KV bytes by group",
        "shared: the first loop's keys and values, the whole context. window: a later loop's last positions. carry: "
        "hidden states from loop to loop.",
        "bytes",
        (Query(total("kv_cache_bytes", by="group, loop"), "{{group}}, loop {{loop}}"),),
        stacked=True,
    ),
    Lines(
        "KV bytes against other layouts",
        "sequential: every loop keeps the whole context. one loop: a model without loops. Both for the same sequences.",
        "bytes",
        (
            Query(total("kv_cache_bytes"), "shared (this server)"),
            Query(_of_layout("kv_cache_baseline_bytes", "sequential"), "sequential"),
            Query(_of_layout("kv_cache_baseline_bytes", "one_loop"), "one loop"),
        ),
    ),
    Lines(
        "Live tokens",
        "Tokens of context that running sequences hold.",
        "short",
        (Query(total("live_tokens"), "tokens"),),
    ),
    Lines(
        "Sequences that fit, at the live length",
        "How many sequences as long as those now running the cache's bytes are enough for, by layout.",
        "short",
        _sequences_that_fit("live"),
    ),
    Lines(
        "Sequences that fit, at the longest",
        "How many sequences of max_model_len tokens the cache's bytes are enough for, by layout.",
        "short",
        _sequences_that_fit("max_model_len"),
    ),
    Lines(
        "KV bytes per token of context",
        "As stored, and with every loop's whole context. Windows and carries are apart: a constant per sequence.",
        "bytes",
        (Query(f"max by (layout) ({select('kv_bytes_per_token')})", "{{layout}}"),),
    ),
)

_WORTH: tuple[Panel, ...] = (
    Lines(
        "Rows per step by loop",
        "Rows of each loop in passes that have any of it.",
        "short",
        (
            Query(mean("step_rows", by="loop"), "loop {{loop}}, mean"),
            Query(quantile(0.95, "step_rows", by="loop"), "loop {{loop}}, p95"),
        ),
    ),
    Lines(
        "Rows by loop",
        "Rows computed per second. Later loops have fewer: they start at a prompt's tail.",
        "ops",
        (Query(rate("rows_total", by="loop"), "loop {{loop}}"),),
        stacked=True,
    ),
    Lines(
        "Sampled tokens",
        "Tokens behind the three panels below (--loop-metrics-sample).",
        "ops",
        (Query(rate("loop_sampled_tokens_total", by="loop"), "loop {{loop}}"),),
    ),
    Lines(
        "Gate by loop",
        "Near 0 %, the loop looks at its own window only; near 100 %, at the shared context only.",
        "percentunit",
        (Query(mean("loop_gate", by="loop"), "loop {{loop}}"),),
        maximum=1,
    ),
    Lines(
        "Change by loop",
        "Relative change of the hidden state from the loop before. Near 0, the loop adds nothing.",
        "percentunit",
        (Query(mean("loop_change", by="loop"), "loop {{loop}}"),),
    ),
    Lines(
        "Top token changed by loop",
        "How often the loop's most probable token is not that of the loop before. Near 0, greedy answers would be the "
        "same without it.",
        "percentunit",
        (Query(_TOP_TOKEN_CHANGES, "loop {{loop}}"),),
        maximum=1,
    ),
)

LOOPS = Dashboard(
    uid="loopserve-loops",
    title="loopserve: Loops",
    about="Parallel loops against the sequential loop: time, memory, and what each loop adds. docs/operations.md says "
    "how it is measured.",
    sections=(
        Section("Now", _NOW),
        Section("Time", _SPEED),
        Section("Memory", _MEMORY),
        Section("Is the loop worth it?", _WORTH),
    ),
)
