"""The committed dashboards are what the script makes, and what they ask for exists."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.grafana import GRAFANA, Target, dashboards, panels, targets
from tests.deploy.names import named_in
from tools.dashboards.__main__ import DASHBOARDS, files
from tools.dashboards.grafana import to_json
from tools.dashboards.panels import COLUMNS, Dashboard, Lines, Panel, Query, Section
from tools.metrics_table import sample_names

PROMETHEUS = GRAFANA.parent / "prometheus"


def test_the_files_are_up_to_date() -> None:
    committed = {path: path.read_text() for path in (GRAFANA / "dashboards").glob("*")}
    assert committed == files(), "run python -m tools.dashboards"


@pytest.mark.parametrize("target", targets(), ids=str)
def test_a_query_names_only_series_that_exist(target: Target) -> None:
    names = named_in(target.expr)
    assert names, "a query of nothing"
    assert names <= sample_names() | {"up"}


@pytest.mark.parametrize("dashboard", dashboards().values(), ids=dashboards())
def test_panels_are_complete(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("dashboard", dashboards().values(), ids=dashboards())
def test_ids_are_unique_and_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["w"] > 0 and place["x"] + place["w"] <= COLUMNS for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_addresses_and_titles_differ() -> None:
    assert len({dashboard.uid for dashboard in DASHBOARDS}) == len(DASHBOARDS)
    assert len({dashboard.title for dashboard in DASHBOARDS}) == len(DASHBOARDS)
    assert all(len(dashboard.uid) <= 40 for dashboard in DASHBOARDS), "Grafana's limit"


def test_a_panel_that_does_not_fit_begins_a_line() -> None:
    def panel(width: int, height: int) -> Panel:
        return Lines("a", "b.", "s", (Query("up", "c"),), width, height)

    section = Section("s", (panel(16, 8), panel(8, 4), panel(24, 2)))
    text = to_json(Dashboard("u", "t", "a", (section, section)))
    places = [panel["gridPos"] for panel in yaml.safe_load(text)["panels"]]
    corners = [(place["x"], place["y"]) for place in places]
    assert corners == [(0, 0), (0, 1), (16, 1), (0, 9), (0, 11), (0, 12), (16, 12), (0, 20)]


def provisioned(path: str) -> Any:
    return yaml.safe_load((GRAFANA / "provisioning" / path).read_text())


def test_grafana_knows_how_often_prometheus_scrapes() -> None:
    (datasource,) = provisioned("datasources/prometheus.yaml")["datasources"]
    scraping = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())["global"]["scrape_interval"]
    assert datasource["jsonData"]["timeInterval"] == scraping
    assert datasource["type"] == "prometheus"


def test_the_dashboards_are_provisioned_from_a_folder_of_the_container() -> None:
    (provider,) = provisioned("dashboards/loopserve.yaml")["providers"]
    assert provider["type"] == "file"
    assert Path(provider["options"]["path"]).is_absolute()
