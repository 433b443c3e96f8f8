"""The Compose files: valid against the specification, locked down, and agreeing with image and server."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from server.settings import ENV_PREFIX, Settings
from tests.deploy.documents import DEPLOY, ROOT, documents, overlaid

FILES = {"cpu": ["compose.yaml"], "gpu": ["compose.yaml", "compose.gpu.yaml"]}
TARGETS = pytest.mark.parametrize("target", list(FILES))
SERVICES = ("server", "prometheus", "grafana")


def merged(target: str) -> Any:
    """The files of a target, laid over one another, with YAML's own merge keys resolved."""
    result: Any = {}
    for name in FILES[target]:
        (document,) = documents(Path(name))
        result = overlaid(result, document)
    return result


@TARGETS
def test_the_files_fit_the_specification(target: str) -> None:
    assert sorted(PyCompose.from_yaml(yaml.safe_dump(merged(target))).service_names()) == sorted(SERVICES)


@pytest.mark.parametrize(
    "wrong", [{"capdrop": ["ALL"]}, {"depends_on": {"server": {"condition": "healthy"}}}]
)
def test_the_validator_can_fail(wrong: dict[str, object]) -> None:
    document = merged("cpu")
    document["services"]["grafana"] |= wrong
    with pytest.raises(ValueError, match=r"services\.grafana"):
        PyCompose.from_yaml(yaml.safe_dump(document))


@TARGETS
@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_locked(target: str, name: str) -> None:
    service = merged(target)["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    image, _, tag = service["image"].partition(":")
    assert image
    assert tag not in ("", "latest")


@TARGETS
def test_every_service_waits_for_a_healthy_one(target: str) -> None:
    services = merged(target)["services"]
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert services[other]["healthcheck"]["test"][0] == "CMD"


@TARGETS
def test_the_server_is_killed_only_after_it_could_drain(target: str) -> None:
    server = merged(target)["services"]["server"]
    grace = float(server["stop_grace_period"].removesuffix("s"))
    assert grace >= float(server["environment"]["LOOPSERVE_DRAIN_TIMEOUT"]) + 10


@TARGETS
def test_keys_come_from_files_that_git_and_the_image_never_see(target: str) -> None:
    document = merged(target)
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    assert set(document["services"]["server"]["environment"]) <= known
    for service in document["services"].values():
        assert set(service.get("secrets", [])) <= set(document["secrets"])
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable or "KEY" in variable:
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    assert all(secret["file"].startswith("./secrets/") for secret in document["secrets"].values())
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_health_check_is_the_images() -> None:
    words = merged("cpu")["services"]["server"]["healthcheck"]["test"][1:]
    assert ", ".join(f'"{word}"' for word in words) in (ROOT / "Dockerfile").read_text()


def test_prometheus_asks_the_server_with_its_key() -> None:
    (document,) = documents(Path("compose/prometheus.yaml"))
    (job,) = document["scrape_configs"]
    host, _, port = job["static_configs"][0]["targets"][0].partition(":")
    assert host in merged("cpu")["services"]
    assert int(port) == Settings.model_fields["port"].default
    secret = job["authorization"]["credentials_file"].removeprefix("/run/secrets/")
    assert secret in merged("cpu")["services"]["prometheus"]["secrets"]


def test_only_files_of_this_directory_are_mounted() -> None:
    for service in merged("cpu")["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).resolve().is_relative_to(DEPLOY)
                assert volume.endswith(":ro")
