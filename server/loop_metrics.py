"""Series about the loops: what they hold of the cache, beside what other layouts would, and what they do to tokens."""

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from engine.kv_arithmetic import baseline_bytes, fitting_sequences, held_bytes
from engine.messages import CacheUse, EngineReady, EngineStats, LoopSignals


def memory_series(info: EngineReady, stats: EngineStats) -> Iterator[Metric]:
    """What running sequences hold, and what the pool is enough for; nothing if the cache's sizes aren't known."""
    sizes, use = info.cache, stats.cache
    if sizes is None:
        return
    if not use.blocks:  # no step yet
        use = CacheUse(blocks=[0] * info.num_loops, carry_slots=[0] * (info.num_loops - 1))
    held = GaugeMetricFamily(
        "loopserve_kv_cache_bytes",
        "Bytes of the cache that running sequences hold: the shared group and later loops' windows, or each loop's "
        "own context; carries.",
        labels=["group", "loop"],
    )
    for (group, loop), count in held_bytes(use, sizes).items():
        held.add_metric([group, str(loop)], count)
    yield held
    baseline = GaugeMetricFamily(
        "loopserve_kv_cache_baseline_bytes",
        "K/V bytes of the same contexts if every loop kept them whole, and in a model without loops.",
        labels=["layout"],
    )
    for layout, count in baseline_bytes(use, sizes).items():
        baseline.add_metric([layout], count)
    yield baseline
    yield _fitting(info, stats)
    yield GaugeMetricFamily(
        "loopserve_live_tokens", "Tokens of running sequences, prompts and answers.", value=use.tokens
    )


def _fitting(info: EngineReady, stats: EngineStats) -> Metric:
    assert info.cache is not None
    family = GaugeMetricFamily(
        "loopserve_kv_cache_sequences",
        "Sequences that the bytes of the cache are enough for, by layout, at the mean length of those that run "
        "(if any do) and at the longest.",
        labels=["layout", "length"],
    )
    lengths = {"max_model_len": info.max_model_len}
    if stats.running and stats.cache.tokens:
        lengths["live"] = -(-stats.cache.tokens // stats.running)
    for name, length in lengths.items():
        fitting = fitting_sequences(info.cache, info.num_blocks, info.num_loops, info.block_size, length)
        for layout, count in fitting.items():
            family.add_metric([layout, name], count)
    return family


def signal_series(signals: LoopSignals) -> Iterator[Metric]:
    """What each loop but the first did to the sampled tokens."""
    gates = SummaryMetricFamily(
        "loopserve_loop_gate",
        "Mean gate of sampled tokens, over layers and heads: weight of the shared context, 0 to 1.",
        labels=["loop"],
    )
    changes = SummaryMetricFamily(
        "loopserve_loop_change",
        "Relative change of sampled tokens' hidden state against the loop before.",
        labels=["loop"],
    )
    tokens = CounterMetricFamily(
        "loopserve_loop_sampled_tokens", "Tokens at which the loop was looked at.", labels=["loop"]
    )
    token_changes = CounterMetricFamily(
        "loopserve_loop_top_token_changes",
        "Of these, tokens after which the loop found another one most probable than the loop before.",
        labels=["loop"],
    )
    for loop, count in enumerate(signals.tokens):
        if loop > 0:
            label = [str(loop)]
            if signals.gates:
                gates.add_metric(label, count_value=count, sum_value=signals.gates[loop])
            changes.add_metric(label, count_value=count, sum_value=signals.changes[loop])
            tokens.add_metric(label, count)
            token_changes.add_metric(label, signals.token_changes[loop])
    yield from (gates, changes, tokens, token_changes)
