"""Bounds of histograms."""

import pytest

from server.errors import SettingsError
from server.metric_buckets import DEFAULT_BOUNDS, bounds_with
from server.metrics import ServerMetrics


def test_without_changes() -> None:
    assert bounds_with({}) == DEFAULT_BOUNDS
    assert all(list(bounds) == sorted(set(bounds)) for bounds in DEFAULT_BOUNDS.values())


def test_a_goal_becomes_a_bound() -> None:
    metrics = ServerMetrics("1", buckets={"time_to_first_token_seconds": [0.3, 1]})
    with metrics.request() as request:
        request.on_start(1)
        request.on_token(1)
        request.on_finish("stop")
    name = "loopserve_time_to_first_token_seconds_bucket"
    found = [metrics.registry.get_sample_value(name, {"le": le}) for le in ("0.3", "1.0", "+Inf", "0.25")]
    assert found == [1.0, 1.0, 1.0, None]


@pytest.mark.parametrize(
    "changes",
    [
        {"no_such_seconds": [1.0]},
        {"step_rows": []},
        {"step_rows": [1.0, 1.0]},
        {"step_rows": [2.0, 1.0]},
        {"step_rows": [0.0, 1.0]},
        {"step_rows": [1.0, float("inf")]},
        {"step_rows": [float("nan")]},
        {"step_rows": [float(bound) for bound in range(1, 102)]},
    ],
)
def test_what_no_histogram_can_have(changes: dict[str, list[float]]) -> None:
    with pytest.raises(SettingsError, match="--histogram-buckets"):
        bounds_with(changes)
