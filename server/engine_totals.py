"""Totals over all lives of the engine: a restart must not make a Prometheus counter go down."""

from itertools import zip_longest

import msgspec

from engine.messages import DecodeTimes, EngineStats

_TOTALS = (
    "preemptions_total",
    "prefix_query_tokens_total",
    "prefix_hit_tokens_total",
    "steps_total",
    "isolated_errors_total",
)


def with_past(current: EngineStats, past: EngineStats) -> EngineStats:
    """`current` with the totals of `past` lives added; states (running, blocks in use) stay those of `current`."""
    totals = {name: getattr(current, name) + getattr(past, name) for name in _TOTALS}
    rows = [now + before for now, before in zip_longest(current.rows_total, past.rows_total, fillvalue=0)]
    decode = _sum(current.decode, past.decode)
    return msgspec.structs.replace(current, rows_total=rows, decode=decode, **totals)


def _sum(current: DecodeTimes, past: DecodeTimes) -> DecodeTimes:
    """All fields are totals."""
    names = DecodeTimes.__struct_fields__
    return DecodeTimes(**{name: getattr(current, name) + getattr(past, name) for name in names})


def totals_only(stats: EngineStats) -> EngineStats:
    """What is left of `stats` once its engine is dead: the totals, with nothing running and no blocks."""
    return with_past(EngineStats(), stats)
