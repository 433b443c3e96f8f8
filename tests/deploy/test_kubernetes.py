"""The Kubernetes manifests: valid against its schemas, and right about what only this server can be wrong about."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from server.settings import ENV_PREFIX, Settings
from tests.deploy.documents import DEPLOY, documents, overlaid

KUBERNETES = Path("kubernetes")
BASE = KUBERNETES / "base"
VERSIONS = ["1.30", "1.37"]
STOP_MARGIN_S = 10
"""After preStop and drain: the last answers are written (5 s) and the engine ends."""


def base(kind: str) -> Any:
    (kustomization,) = documents(BASE / "kustomization.yaml")
    found = [document for name in kustomization["resources"] for document in documents(BASE / name)]
    (one,) = [document for document in found if document["kind"] == kind]
    return one


def deployment(overlay: str | None) -> Any:
    patched = base("Deployment")
    if overlay is not None:
        (kustomization,) = documents(KUBERNETES / "overlays" / overlay / "kustomization.yaml")
        for patch in kustomization["patches"]:
            (change,) = documents(KUBERNETES / "overlays" / overlay / patch["path"])
            patched = overlaid(patched, change)
    return patched


def environment() -> dict[str, str]:
    text = (DEPLOY / BASE / "settings.env").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


OVERLAYS = pytest.mark.parametrize("overlay", [None, "gpu"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["Deployment", "Service", "PodDisruptionBudget"])
def test_the_base_fits_the_schemas(kind: str, version: str) -> None:
    kubernetes_validate.validate(base(kind), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_gpu_overlay_fits_the_schemas(version: str) -> None:
    patched = deployment("gpu")
    kubernetes_validate.validate(patched, version, strict=True)
    (container,) = patched["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/cache", "/tmp", "/dev/shm"}


def test_the_validator_can_fail() -> None:
    broken = base("Deployment")
    broken["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@OVERLAYS
def test_every_selector_finds_the_pods_and_no_others(overlay: str | None) -> None:
    """An empty selector of a disruption budget would mean every pod of the namespace."""
    labels = deployment(overlay)["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment(overlay)["spec"]["selector"]["matchLabels"],
        base("Service")["spec"]["selector"],
        base("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        documents(KUBERNETES / "examples" / "inference-pool.yaml")[0]["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    monitor = documents(KUBERNETES / "examples" / "service-monitor.yaml")[0]["spec"]["selector"][
        "matchLabels"
    ]
    assert monitor.items() <= base("Service")["metadata"]["labels"].items()


@OVERLAYS
def test_a_service_of_our_name_gives_no_variables_that_the_server_refuses(overlay: str | None) -> None:
    assert deployment(overlay)["spec"]["template"]["spec"]["enableServiceLinks"] is False


@OVERLAYS
def test_a_pod_is_killed_only_after_it_could_drain(overlay: str | None) -> None:
    pod = deployment(overlay)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    drain = float(environment()["LOOPSERVE_DRAIN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] >= float(command[1]) + drain + STOP_MARGIN_S


@OVERLAYS
def test_probes_ask_what_they_are_for(overlay: str | None) -> None:
    (container,) = deployment(overlay)["spec"]["template"]["spec"]["containers"]
    asked = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    assert asked == {"startup": "/ready", "liveness": "/health", "readiness": "/ready"}
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 600


@OVERLAYS
def test_pods_are_locked_and_write_to_volumes_only(overlay: str | None) -> None:
    pod = deployment(overlay)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_settings_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    assert set(environment()) <= known
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    settings = Settings()  # type: ignore[call-arg]
    assert settings.drain_timeout == float(environment()["LOOPSERVE_DRAIN_TIMEOUT"])
    mounts = deployment(None)["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert str(settings.api_key_file).startswith(
        next(mount["mountPath"] for mount in mounts if mount["name"] == "keys")
    )
