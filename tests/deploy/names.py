"""Which series queries name, and which of those are still to come."""

import re

_METRIC = re.compile(r"(?<![\w:])(?:loopserve_\w+|up)\b(?!:)")

# Delete each name when its series is merged; tests fail if one is here that a server exports.
PENDING = frozenset(
    {
        "loopserve_kv_cache_bytes",
        "loopserve_kv_cache_baseline_bytes",
        "loopserve_kv_cache_sequences",
        "loopserve_live_tokens",
        "loopserve_loop_gate_sum",
        "loopserve_loop_gate_count",
        "loopserve_loop_change_sum",
        "loopserve_loop_change_count",
        "loopserve_loop_sampled_tokens_total",
        "loopserve_loop_top_token_changes_total",
    }
)


def named_in(expr: str) -> set[str]:
    """The series that a PromQL expression names, Prometheus' own ``up`` included, recorded ones not."""
    return set(_METRIC.findall(expr))
