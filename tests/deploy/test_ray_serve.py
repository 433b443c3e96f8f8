"""deploy/ray_serve_app.py and its YAML against what they speak of. Ray itself is run by `make ray-serve`."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
SOURCE = (DEPLOY / "ray_serve_app.py").read_text()
CONFIG: dict[str, Any] = yaml.safe_load((DEPLOY / "ray_serve.yaml").read_text())
APPLICATION: dict[str, Any] = CONFIG["applications"][0]

# Of `ray.serve.schema`, as far as they are used here (Ray 2.60); Ray refuses a file with any other.
TOP = {"proxy_location", "http_options", "applications"}
APPLICATION_KEYS = {"name", "route_prefix", "import_path", "args", "deployments", "runtime_env"}
DEPLOYMENT_KEYS = {
    *("name", "num_replicas", "max_ongoing_requests", "max_queued_requests", "autoscaling_config"),
    *("graceful_shutdown_timeout_s", "health_check_period_s", "ray_actor_options", "request_router_config"),
}


def decorated() -> dict[str, dict[str, Any]]:
    """The constants that `serve.deployment` gets, by the deployment's name."""
    found: dict[str, dict[str, Any]] = {}
    for node in ast.walk(ast.parse(SOURCE)):
        for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else []:
            assert isinstance(decorator, ast.Call)
            values = {
                keyword.arg or "": keyword.value.value
                for keyword in decorator.keywords
                if isinstance(keyword.value, ast.Constant)
            }
            found[values["name"]] = values
    return found


def test_it_compiles_and_has_what_the_import_path_names() -> None:
    module, _, function = APPLICATION["import_path"].partition(":")
    assert (DEPLOY.parent / (module.replace(".", "/") + ".py")) == DEPLOY / "ray_serve_app.py"
    compile(SOURCE, "ray_serve_app.py", "exec")
    names = {node.name for node in ast.parse(SOURCE).body if isinstance(node, ast.FunctionDef)}
    assert function in names


def test_the_file_uses_known_keys_only() -> None:
    assert set(CONFIG) <= TOP
    assert set(APPLICATION) <= APPLICATION_KEYS
    for deployment in APPLICATION["deployments"]:
        assert set(deployment) <= DEPLOYMENT_KEYS


def test_args_are_settings() -> None:
    assert set(APPLICATION["args"]) <= set(Settings.model_fields)
    Settings(**APPLICATION["args"])
    assert (DEPLOY.parent / APPLICATION["args"]["model"]).is_dir()


def test_both_speak_of_the_same_deployments() -> None:
    assert {each["name"] for each in APPLICATION["deployments"]} == set(decorated()) == {"Engine", "Ingress"}


@pytest.mark.parametrize("name", ["Engine", "Ingress"])
def test_limits_go_with_the_settings(name: str) -> None:
    given = next(each for each in APPLICATION["deployments"] if each["name"] == name)
    merged = {**decorated()[name], **given}
    assert merged["graceful_shutdown_timeout_s"] > Settings.model_fields["drain_timeout"].default
    if name == "Engine":
        running = Settings.model_fields["max_num_seqs"].default
        assert merged["max_ongoing_requests"] == decorated()[name]["max_ongoing_requests"] == running
        assert given["autoscaling_config"]["target_ongoing_requests"] < running
