"""Where histograms have their bounds, and what `--histogram-buckets` may change of that.

Times per token are SGLang's bounds with finer ones at the start, since a small model answers within a millisecond; the
rest is vLLM's and SGLang's, so that dashboards of those fit.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

from server.errors import SettingsError

Bounds = tuple[float, ...]

MAX_BOUNDS = 100
TOKEN_TIMES: Bounds = (
    *(0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08),
    *(0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0),
)
REQUEST_TIMES: Bounds = (
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKEN_COUNTS: Bounds = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))

DEFAULT_BOUNDS: dict[str, Bounds] = {
    "time_to_first_token_seconds": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
        *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
    ),
    "inter_token_latency_seconds": TOKEN_TIMES,
    "request_time_per_output_token_seconds": TOKEN_TIMES,
    "e2e_request_latency_seconds": REQUEST_TIMES,
    "request_decode_time_seconds": REQUEST_TIMES,
    "http_request_duration_seconds": REQUEST_TIMES,
    "request_queue_time_seconds": (
        *(0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0),
        *(300.0, 600.0, 1200.0, 3000.0),
    ),
    "request_prompt_tokens": TOKEN_COUNTS,
    "request_generation_tokens": TOKEN_COUNTS,
    "step_seconds": TOKEN_TIMES,
    "step_rows": tuple(float(2**power) for power in range(15)),
    "grammar_compile_seconds": (
        0.001,
        0.002,
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        1.0,
        2.0,
        5.0,
        10.0,
        60.0,
    ),
    "event_loop_lag_seconds": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
}
"""By the family's name without `loopserve_`."""


def bounds_with(changes: Mapping[str, Sequence[float]]) -> dict[str, Bounds]:
    """The bounds of all histograms.

    Args:
        changes: other bounds for some of them.

    Raises:
        SettingsError: a name is unknown, or bounds are not a few ascending positive numbers.
    """
    for name, bounds in changes.items():
        if name not in DEFAULT_BOUNDS:
            known = ", ".join(sorted(DEFAULT_BOUNDS))
            raise SettingsError(f"--histogram-buckets: there is no histogram {name!r}; those are {known}.")
        if not 0 < len(bounds) <= MAX_BOUNDS or not all(
            math.isfinite(bound) and bound > 0 for bound in bounds
        ):
            raise SettingsError(
                f"--histogram-buckets: {name} needs 1 to {MAX_BOUNDS} positive finite numbers as its bounds."
            )
        if any(low >= high for low, high in itertools.pairwise(bounds)):
            raise SettingsError(f"--histogram-buckets: the bounds of {name} must ascend.")
    return DEFAULT_BOUNDS | {name: tuple(map(float, bounds)) for name, bounds in changes.items()}
