"""Prometheus' own tool reads the configuration and tries every alert; what alerts ask for exists."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings
from tests.deploy.names import named_in
from tests.deploy.promtool import PROMETHEUS, promtool
from tools.metrics_table import sample_names

RULES = sorted((PROMETHEUS / "rules").glob("*.yaml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yaml"))


def all_rules() -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in all_rules() if "alert" in rule}


def test_promtool_accepts_the_configuration() -> None:
    checked = promtool("check", "config", PROMETHEUS / "prometheus.yaml")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_promtool_accepts_the_rules(path: Path) -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    assert checked.returncode == 0, checked.stdout
    assert "SUCCESS" in checked.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_must_and_only_then(path: Path) -> None:
    tried = promtool("test", "rules", path)
    assert tried.returncode == 0, tried.stdout


def test_the_trials_would_notice_another_threshold(tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    alerts = tmp_path / "prometheus" / "rules" / "alerts.yaml"
    alerts.write_text(alerts.read_text().replace("< 1.1\n", "< 2\n"))
    tried = promtool("test", "rules", tmp_path / "prometheus" / "tests" / "loops.yaml")
    assert tried.returncode != 0
    assert "LoopserveSpeedupLost" in tried.stdout


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tried_firing_and_quiet(name: str) -> None:
    outcomes = [
        bool(tried["exp_samples"])
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for tried in test["promql_expr_test"]
        if f'alertname="{name}", alertstate="firing"' in tried["expr"]
    ]
    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert re.fullmatch(r"Loopserve[A-Z]\w+", name)
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert set(alert["annotations"]) == {"summary", "runbook"}
    assert "$labels.instance" in alert["annotations"]["summary"]
    assert len(alert["annotations"]["runbook"]) > 60


def test_rules_name_only_series_that_exist() -> None:
    recorded = {rule["record"] for rule in all_rules() if "record" in rule}
    for rule in all_rules():
        assert named_in(rule["expr"]) <= sample_names() | {"up"}
        assert set(re.findall(r"instance:\w+:\w+", rule["expr"])) <= recorded


def test_options_that_runbooks_name_exist() -> None:
    options = set(re.findall(r"--[a-z][a-z-]+", str(ALERTS)))
    assert options
    from_settings = {"--" + name.replace("_", "-") for name in Settings.model_fields}
    assert options <= from_settings
