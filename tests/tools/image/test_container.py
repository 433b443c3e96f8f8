"""What the runtime is told about a container."""

from pathlib import Path
from typing import Any

import pytest

from tools.image.building import Layer
from tools.image.container import How, Image, bundle_config
from tools.image.page import Result, page

CONFIG: dict[str, object] = {
    "User": "1000:0",
    "Env": ["A=1", "B=x=y"],
    "WorkingDir": "/cache",
    "Entrypoint": ["tini", "--", "loopserve", "serve"],
    "Cmd": ["/models/demo"],
    "Healthcheck": {"Test": ["CMD", "python", "-m", "x"]},
}
IMAGE = Image(Path("/tree"), CONFIG)


def told(how: How) -> Any:
    return bundle_config(IMAGE, how)


def test_the_image_says_what_runs_and_as_whom() -> None:
    process = told(How(environment={"A": "2"}))["process"]
    assert process["user"] == {"uid": 1000, "gid": 0}
    assert process["args"] == ["tini", "--", "loopserve", "serve", "/models/demo"]
    assert process["env"] == ["A=2", "B=x=y"]
    assert told(How(arguments=["/m"]))["process"]["args"][-1] == "/m"


def test_everything_is_locked() -> None:
    config = told(How(user=7))
    assert config["process"]["user"] == {"uid": 7, "gid": 0}
    assert config["process"]["capabilities"] == {}
    assert config["process"]["noNewPrivileges"]
    assert config["root"] == {"path": "/tree", "readonly": True}


def test_only_what_was_asked_for_can_be_written() -> None:
    def places(how: How) -> set[str]:
        mounts = told(how)["mounts"]
        return {mount["destination"] for mount in mounts if "ro" not in mount.get("options", [])} - {"/proc"}

    assert places(How(tmp=False)) == {"/dev", "/dev/shm"}
    assert places(How(cache=Path("/c"), files={"/k": Path("/k")})) == {"/dev", "/dev/shm", "/tmp", "/cache"}


@pytest.mark.parametrize("health", [None, {"Test": ["CMD-SHELL", "curl"]}, {"Test": ["NONE"]}])
def test_a_health_check_for_a_shell_is_refused(health: object) -> None:
    with pytest.raises(ValueError, match="HEALTHCHECK"):
        Image(Path(), {"Healthcheck": health}).health_command()
    assert IMAGE.health_command() == ["python", "-m", "x"]


def test_the_page_shows_failures() -> None:
    text = page([Result("one", False, "broke")], [Layer("/bin/sh -c a | b", 2_000_000)], ["v 1"])
    assert "| one | **failed** | broke |" in text
    assert "| `a \\| b` | 2.0 |" in text
