"""Totals over all lives of the engine: a restart must not make a Prometheus counter go down."""

from itertools import zip_longest
from typing import TypeVar

import msgspec

from engine.messages import DecodeTimes, EngineStats, LoopSignals

T = TypeVar("T", int, float)

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
    return msgspec.structs.replace(
        current,
        rows_total=_by_loop(current.rows_total, past.rows_total),
        decode=_decode(current.decode, past.decode),
        signals=_signals(current.signals, past.signals),
        **totals,
    )


def _decode(current: DecodeTimes, past: DecodeTimes) -> DecodeTimes:
    """All fields are totals."""
    names = DecodeTimes.__struct_fields__
    return DecodeTimes(**{name: getattr(current, name) + getattr(past, name) for name in names})


def _signals(current: LoopSignals, past: LoopSignals) -> LoopSignals:
    """All fields are totals by loop."""
    names = LoopSignals.__struct_fields__
    return LoopSignals(**{name: _by_loop(getattr(current, name), getattr(past, name)) for name in names})


def _by_loop(current: list[T], past: list[T]) -> list[T]:
    return [now + before for now, before in zip_longest(current, past, fillvalue=0)]


def totals_only(stats: EngineStats) -> EngineStats:
    """What is left of `stats` once its engine is dead: the totals, with nothing running and no blocks."""
    return with_past(EngineStats(), stats)
