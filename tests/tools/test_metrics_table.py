"""The reference of metrics is what the registry exports, and the registry keeps to Prometheus' customs."""

import re
from collections import Counter

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from server.metric_buckets import DEFAULT_BOUNDS
from tools.metrics_table import PAGE, families, page, registry, sample_names

FAMILIES = families()


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run python -m tools.metrics_table"


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(family.name for family in FAMILIES).items() if count > 1] == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_customs(family: Metric) -> None:
    assert re.fullmatch(r"loopserve_[a-z][a-z0-9_]*", family.name)
    assert re.fullmatch(r"[A-Z1].+\.", family.documentation), "a sentence"
    assert not re.search(r"_(ms|milliseconds|kib|mib|percent)(_|$)", family.name), "base units only"
    assert family.samples, "shown with every label"


def test_every_bound_belongs_to_a_histogram() -> None:
    histograms = {family.name.removeprefix("loopserve_") for family in FAMILIES if family.type == "histogram"}
    assert histograms == set(DEFAULT_BOUNDS)


@pytest.mark.parametrize("compat", [False, True])
def test_both_formats_can_be_read(compat: bool) -> None:
    wanted = {sample.name for family in families(compat=compat) for sample in family.samples}
    text = generate_latest(registry(compat=compat)).decode()
    assert wanted <= {sample.name for family in parse(text) for sample in family.samples}
    if not compat:  # colons are for recording rules in OpenMetrics
        openmetrics = generate_openmetrics(registry()).decode()
        assert wanted <= {
            sample.name for family in parse_openmetrics(openmetrics) for sample in family.samples
        }


def test_names_that_queries_use() -> None:
    names = sample_names()
    assert {
        "loopserve_request_success_total",
        "loopserve_step_seconds_bucket",
        "loopserve_step_seconds_sum",
        "loopserve_num_requests_running",
        "loopserve_decode_seconds_total",
    } <= names
